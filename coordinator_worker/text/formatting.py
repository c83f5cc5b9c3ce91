"""Figures and foreign words as people read them in a terminal."""

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite
from typing import Final

UNKNOWN: Final = "–"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
_BARS: Final = "▁▂▃▄▅▆▇█"


def size(count: float) -> str:
    """``count`` bytes: 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """A time that has passed: 0.3 s, 12 s, 5 min, 3 h, 2 d."""
    if seconds < MINUTE:
        return f"{seconds:.1f} s" if 0 < seconds < 9.95 else f"{seconds:.0f} s"
    for unit, length, longest in (("min", MINUTE, HOUR), ("h", HOUR, DAY)):
        if seconds < longest:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / DAY:.0f} d"


def figure(value: float | None) -> str:
    """A metric, in at most nine characters; – if there is none."""
    if value is None:
        return UNKNOWN
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.2e}"


def sparkline(values: Sequence[float], width: int) -> str:
    """``values`` from first to last as at most ``width`` bars; of many, each is a mean of some.

    Where one is NaN or infinite there is a gap.
    """
    count = min(width, len(values))
    cuts = [len(values) * n // count for n in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    known = [mean for mean in means if isfinite(mean)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    shrink = 1.0 if isfinite(high - low) else 0.25  # or what is between them would be infinite
    low, span = low * shrink, (high * shrink - low * shrink) or 1.0
    most = len(_BARS) - 1  # multiplied last: a span near zero has no finite inverse
    return "".join(
        _BARS[round((m * shrink - low) / span * most)] if isfinite(m) else " " for m in means
    )


def plain(text: str) -> str:
    """``text`` without what a terminal would obey; – if nothing is left."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text) or UNKNOWN
