"""What of a model's figures can travel: finite numbers under short names.

What cannot is left out with one warning for each name: an update is worth more than a figure that
nobody can draw. That is so for arrays, words, None, NaN, names that
are too long or cannot be encoded, and figures beyond the most that a message holds.
"""

from collections.abc import Mapping
from math import isfinite
from operator import index
from typing import Any, Final

import numpy as np

from shared.evaluation import MOST_CLASSES, SCORE_BINS, Evaluation
from shared.log import Log
from shared.messages import MAX_EXAMPLES, MAX_NAME

log = Log(__name__)

MAX_FIGURES: Final = 64  # of one message


class FigureFilter:
    """Keeps the figures that can travel, and remembers what it has warned of."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def figures(self, found: Mapping[Any, Any] | None, prefix: str = "") -> dict[str, float]:
        """Return ``found`` as plain floats, ``prefix`` before each name.

        Anything else than a mapping, or None, is left out as a whole.
        """
        if found is None:
            return {}
        if not isinstance(found, Mapping):
            self._warn(f"{prefix}figures", f"they are a {type(found).__name__}, not a mapping")
            return {}
        kept: dict[str, float] = {}
        for name, value in found.items():
            whole = f"{prefix}{name}" if isinstance(name, str) else name
            if complaint := _of_name(whole) or _of_value(value):
                self._warn(whole, complaint)
            else:
                kept[whole] = float(value)
        return kept

    def limited(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the first of ``figures`` that one message holds."""
        names = list(figures)
        for name in names[MAX_FIGURES:]:
            self._warn(name, f"a message holds {MAX_FIGURES} figures")
        return {name: figures[name] for name in names[:MAX_FIGURES]}

    def evaluation(self, found: Evaluation) -> Evaluation | None:
        """Return ``found`` with what of it can travel; None if it does not say of how many."""
        try:
            examples = index(found.num_examples)
        except TypeError:
            examples = 0
        if not 1 <= examples <= MAX_EXAMPLES:
            self._warn("num_examples", f"an evaluation of {found.num_examples!r} examples")
            return None
        means = self.limited(self.figures(found.means))
        confusion = self._table("confusion", found.confusion)
        scores = self._table("scores", found.scores)
        return Evaluation(examples, means, confusion, scores)

    def _table(self, name: str, table: Any) -> tuple[tuple[int, ...], ...]:
        """Counts as whole numbers: a square table of classes, or two histograms."""
        if len(table) == 0:
            return ()
        try:
            counts = np.array(table)
            whole = counts.astype(np.int64)
            fits = counts.ndim == 2 and bool((whole == counts).all() and (whole >= 0).all())
        except (ValueError, TypeError):
            fits = False
        if fits and name == "confusion":
            fits = whole.shape[0] == whole.shape[1] <= MOST_CLASSES
        elif fits:
            fits = whole.shape == (2, SCORE_BINS)
        if not fits:
            self._warn(name, "its counts are no table of the right shape")
            return ()
        return tuple(tuple(map(int, row)) for row in whole)

    def _warn(self, name: object, complaint: str) -> None:
        shown = (ascii(name)[1:-1] if isinstance(name, str) else ascii(name))[:40]
        if shown not in self._warned:
            self._warned.add(shown)
            log.warning("figure_left_out", "the figure %s is left out: %s", shown, complaint)


def _of_name(name: Any) -> str:
    """Why a figure cannot have this name; empty if it can."""
    if not isinstance(name, str):
        return f"its name is a {type(name).__name__}, not text"
    if not 0 < len(name) <= MAX_NAME:
        return f"its name has {len(name)} characters, of 1 to {MAX_NAME}"
    return "" if name.isprintable() else "its name has characters that cannot be printed"


def _of_value(value: Any) -> str:
    """Why a figure cannot have this value; empty if it can."""
    shape = getattr(value, "shape", ())
    if not callable(shape) and tuple(shape):
        return f"it is an array of shape {tuple(shape)}, not a number"
    if value is None or isinstance(value, str | bytes):
        return f"it is {'None' if value is None else 'text'}, not a number"
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return f"it is a {type(value).__name__}, not a number"
    return "" if isfinite(number) else f"it is {number}"
