"""Figures as a person says them: ``1.6 × the limit``, ``210 × faster than Flower deployed``."""

import re
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.reporting.rows import Row

TIMES = ("s", "ms", "µs", "min", "h")


def is_rate(unit: str) -> bool:
    """Whether more of ``unit`` is better: something per second."""
    return unit.endswith("/s")


def number(value: float) -> str:
    """``value`` to three significant digits, without an exponent where that is readable."""
    if value == 0:
        return "0"
    if 100 <= abs(value) < 1e7:
        return f"{value:,.0f}".replace(",", " ")
    if 1e-3 <= abs(value) < 100:
        return f"{value:#.3g}"
    return f"{value:.2g}"


def size(count: float) -> str:
    """``count`` bytes in decimal units, as the issue and the sizes of models are told."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{number(count / scale)} {unit}"
    return f"{count:.0f} B"


def against_peer(row: "Row") -> str:
    """``210 × faster than Flower deployed``; says so when the peer did not run."""
    if row.ratio_to_peer is None or row.ratio_to_peer == 0:
        return f"{row.peer_name} did not run" if row.peer_name else ""
    better, worse = ("faster", "slower") if _is_speed(row.unit) else ("less", "more")
    gain = row.ratio_to_peer if is_rate(row.unit) else 1 / row.ratio_to_peer
    if gain >= 1:
        return f"{number(gain)} × {better} than {row.peer_name}"
    return f"{number(1 / gain)} × {worse} than {row.peer_name}"


def against_limit(row: "Row") -> str:
    """``1.60 × the limit`` for a duration, ``83.0 % of the limit`` for a rate."""
    if row.ratio_to_limit is None:
        return ""
    name = row.limit_name or "the limit"
    if is_rate(row.unit) or row.ratio_to_limit < 1:
        return f"{number(100 * row.ratio_to_limit)} % of {name}"
    return f"{number(row.ratio_to_limit)} × {name}"


def ours(row: "Row") -> str:
    """Median, and minimum to maximum where they were measured."""
    if row.spread is None:
        return number(row.ours)
    return f"{number(row.ours)} ({number(row.spread[0])} – {number(row.spread[1])})"


def memory(row: "Row") -> str:
    """``116 MB = 2.90 × model``; of a model that is small beside Python itself, no multiple."""
    if row.peak_rss_bytes is None:
        return ""
    if not row.model_bytes:
        return size(row.peak_rss_bytes)
    if row.peak_rss_bytes > 5 * row.model_bytes:
        return f"{size(row.peak_rss_bytes)}, model {size(row.model_bytes)}"
    return f"{size(row.peak_rss_bytes)} = {number(row.peak_rss_bytes / row.model_bytes)} × model"


def table(title: str, rows: "Sequence[Row]") -> Table:
    """One line for each row; a case that goes on in the next line is named once."""
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for heading in ("case", "unit", "ours (min – max)", "limit", "peer"):
        right = heading not in ("case", "unit")
        shown.add_column(heading, justify="right" if right else "left", no_wrap=True)
    with_memory = any(row.peak_rss_bytes for row in rows)
    for heading in ("ratios", *(["peak memory"] if with_memory else [])):
        shown.add_column(heading)
    for before, row in zip((None, *rows), rows, strict=False):
        again = before is not None and (before.case, before.ours) == (row.case, row.ours)
        cells = ["", "", ""] if again else [row.case, row.unit, ours(row)]
        cells += [number(v) if v is not None else "–" for v in (row.limit, row.peer)]
        ratios = ", ".join(filter(None, (against_limit(row), against_peer(row))))
        cells += [ratios, *([memory(row)] if with_memory and not again else [])]
        shown.add_row(*cells)
    return shown


def also(rows: "Sequence[Row]") -> Table | None:
    """What the rows hold in ``more``; of a case that goes on, only what differs. None if nothing.

    In sentences, because there is too much of it for columns.
    """
    if not any(row.more for row in rows):
        return None
    shown = Table(title="Also measured", box=box.SIMPLE_HEAD, title_justify="left")
    shown.add_column("case", no_wrap=True)
    shown.add_column("")
    for before, row in zip((None, *rows), rows, strict=False):
        again = before is not None and before.case == row.case
        known = before.more.items() if before is not None and again else ()
        new = [(name, value) for name, value in row.more.items() if (name, value) not in known]
        if new:
            told = " · ".join(f"{_words(name)} {_value(name, value)}" for name, value in new)
            shown.add_row("" if again else row.case, told)
    return shown


def _words(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def _value(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if name.endswith("_bytes"):
        return size(value)
    return str(value) if isinstance(value, int) else number(value)


def _is_speed(unit: str) -> bool:
    return is_rate(unit) or re.split(r"[ /]", unit, maxsplit=1)[0] in TIMES
