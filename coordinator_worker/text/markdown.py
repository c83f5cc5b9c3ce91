"""Tables, bars and texts for Markdown that clients have had a word in."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import isfinite
from statistics import mean
from typing import Any, Final

from coordinator_worker.text.formatting import plain

SPARK_POINTS: Final = 40
SPARKS: Final = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """``values`` as a row of bars, at most SPARK_POINTS of them, each a mean of its neighbours.

    Where one is NaN or infinite there is a gap.
    """
    points = min(len(values), SPARK_POINTS)
    edges = [round(place * len(values) / points) for place in range(points + 1)] if points else []
    means = [mean(values[a:b]) for a, b in pairwise(edges)]
    known = [value for value in means if isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    top = len(SPARKS) - 1
    scale = top / (high - low) if isfinite(high - low) and high > low else 0.0
    flat = 0 if scale else 3
    return "".join(
        SPARKS[flat + round((value - low) * scale)] if isfinite(value) else " " for value in means
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table, whatever stands in its cells."""
    lines = [headings, ["---"] * len(headings)]
    lines += [[text(str(cell)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def text(said: str) -> str:
    """``said`` as Markdown shows it and nothing else: clients may have chosen it."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else c for c in plain(said)) if said else ""
