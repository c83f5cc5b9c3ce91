"""What of a model's figures can travel: numbers under short names.

What cannot is left out with one warning for each name: an update is worth more than a figure that
no program can plot. That is so for arrays, words, None, names that are
too long or cannot be encoded, and figures beyond the most that a message holds.
"""

from collections.abc import Mapping
from itertools import pairwise
from math import isfinite
from operator import index
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from warren_shared.observability.log import Log
from warren_shared.protocol.messages import MAX_EXAMPLES, MAX_FIGURE
from warren_shared.tensors.evaluation import MAX_CLASSES, Counts, Evaluation, ScoreCounts
from warren_shared.tensors.layout import MAX_NAME

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
        confusion = self._confusion(found.confusion)
        scores = self._scores(found.scores, examples)
        return Evaluation(examples, means, confusion, scores, bool(found.is_coarse))

    def _confusion(self, table: Any) -> Counts:
        """A square table of whole numbers, or nothing."""
        if len(table) == 0:
            return ()
        counts = _whole(table)
        if counts is not None and counts.ndim == 2:
            classes, others = counts.shape
            if classes == others <= MAX_CLASSES:
                return tuple(tuple(map(int, row)) for row in counts)
        self._warn("confusion", "its counts are no square table")
        return ()

    def _scores(self, table: Any, examples: int) -> ScoreCounts:
        """Distinct scores in ascending order and two rows of counts, or nothing."""
        if len(table) == 0:
            return ()
        if len(table) == 3 and len({len(row) for row in table}) == 1:
            scores = [float(score) for score in table[0]]
            counts = _whole(table[1:])
            ascends = all(a < b for a, b in pairwise(scores)) and all(map(isfinite, scores))
            if ascends and counts is not None and int(counts.sum()) <= examples:
                return tuple(scores), tuple(map(int, counts[0])), tuple(map(int, counts[1]))
        self._warn("scores", "they are no ascending scores with two counts of each")
        return ()

    def _warn(self, name: object, complaint: str) -> None:
        shown = (ascii(name)[1:-1] if isinstance(name, str) else ascii(name))[:40]
        if shown not in self._warned:
            self._warned.add(shown)
            log.warning("figure_left_out", "the figure %s is left out: %s", shown, complaint)


def _whole(counts: Any) -> npt.NDArray[np.int64] | None:
    """``counts`` as whole numbers of 0 and more; None if they are not."""
    try:
        given = np.array(counts)
        found = given.astype(np.int64)
        return found if bool((found == given).all() and (found >= 0).all()) else None
    except (ValueError, TypeError):
        return None


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
        float(value)  # NaN is one, and travels as a name among ``not_finite``
    except (TypeError, ValueError, OverflowError):
        return f"it is a {type(value).__name__}, not a number"
    return ""


def by_finiteness(metrics: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """The metrics that can travel as numbers, and the names of those that are NaN or infinite.

    Beyond MAX_FIGURE a number is as good as infinite: sums of such overflow.
    """
    finite = {name: value for name, value in metrics.items() if abs(value) <= MAX_FIGURE}
    return finite, [name for name in metrics if name not in finite]
