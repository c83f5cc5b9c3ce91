"""One picture of a benchmark: our figure, the limit's and the peers', case by case."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.reporting.phrases import is_rate, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.reporting.rows import Row

OURS, LIMIT, GRID = "#0b6e4f", "#8a8f98", "#e3e5e8"
PEERS: Final = ("#c8553d", "#d99a2b", "#6a4c93", "#2f6690", "#8c5e58")
LINE_INCHES: Final = 0.27
STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "warren",  # else every run would give the same picture other ids
    "svg.fonttype": "path",
    "font.size": 9.5,
    "axes.edgecolor": LIMIT,
}


@dataclass(frozen=True)
class Mark:
    """One line of the picture: whose value it is."""

    name: str
    value: float
    colour: str
    marker: str
    spread: tuple[float, float] | None = None


def plot(path: Path, title: str, rows: "Sequence[Row]") -> None:
    """Write ``rows`` to ``path`` as SVG: a panel for each unit, a block for each case.

    The file depends on ``rows`` alone, so that two runs can be compared by their difference.
    """
    with mpl.rc_context(STYLE):
        figure(title, rows).savefig(path, format="svg", metadata={"Date": None})


def figure(title: str, rows: "Sequence[Row]") -> Figure:
    """The picture itself."""
    units = list(dict.fromkeys(row.unit for row in rows))
    peers = dict.fromkeys(row.peer_name for row in rows if row.peer is not None)
    colours = {peer: PEERS[place % len(PEERS)] for place, peer in enumerate(peers)}
    panels = [_blocks([row for row in rows if row.unit == unit], colours) for unit in units]
    lines = [sum(len(marks) + 1 for marks in blocks.values()) for blocks in panels]
    height = LINE_INCHES * sum(lines) + 0.75 * len(units) + 0.9
    drawn = Figure(figsize=(9.6, height), layout="constrained")
    drawn.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes = drawn.subplots(len(units), 1, squeeze=False, height_ratios=lines)[:, 0]
    for panel, unit, blocks in zip(axes, units, panels, strict=True):
        _draw(panel, unit, blocks)
    marks = [mark for blocks in panels for found in blocks.values() for mark in found]
    drawn.legend(handles=_legend(marks), loc="outside lower left", ncols=4, frameon=False)
    return drawn


def _blocks(rows: "Sequence[Row]", colours: dict[str, str]) -> dict[str, list[Mark]]:
    """The marks of each case: ours once, then every limit and every peer that was measured."""
    blocks: dict[str, dict[str, Mark]] = {}
    for row in rows:
        block = blocks.setdefault(row.case, {})
        block["ours"] = Mark("ours", row.ours, OURS, "o", row.spread)
        if row.limit is not None:
            name = row.limit_name or "limit"
            block[name] = Mark(name, row.limit, LIMIT, "|")
        if row.peer is not None:
            block[row.peer_name] = Mark(row.peer_name, row.peer, colours[row.peer_name], "D")
    order = {"o": 0, "|": 1, "D": 2}
    return {case: sorted(b.values(), key=lambda m: order[m.marker]) for case, b in blocks.items()}


def _draw(axes: Axes, unit: str, blocks: dict[str, list[Mark]]) -> None:
    shown = [mark for marks in blocks.values() for mark in marks]
    logarithmic = _scale(axes, [v for mark in shown for v in (mark.value, *(mark.spread or ()))])
    ticks: list[tuple[float, str]] = []
    line = 0
    for case, marks in blocks.items():
        ticks.append((line + (len(marks) - 1) / 2, case))
        for mark in marks:
            _draw_mark(axes, line, mark)
            line += 1
        if len(ticks) < len(blocks):
            axes.axhline(line, color=GRID, linewidth=0.8)
        line += 1
    axes.set_ylim(line - 1.3, -0.7)
    axes.set_yticks([place for place, _ in ticks], [case for _, case in ticks])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    better = "more" if is_rate(unit) else "less"
    axes.set_xlabel(f"{unit} ({better} is better{', logarithmic' if logarithmic else ''})")


def _scale(axes: Axes, values: "Sequence[float]") -> bool:
    """Choose the axis, with room for words to the right of the largest; whether logarithmic."""
    positive = [value for value in values if value > 0]
    low, high = min(positive, default=1.0), max(positive, default=1.0)
    if high <= 30 * low:
        axes.set_xlim(0, 1.4 * high)
        return False
    axes.set_xscale("log")
    axes.set_xlim(low / 2, high * (2 * high / low) ** 0.35)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return True


def _draw_mark(axes: Axes, line: int, mark: Mark) -> None:
    left = axes.get_xlim()[0]
    axes.plot([left, mark.value], [line, line], color=mark.colour, linewidth=1.6, alpha=0.35)
    if mark.spread is not None:
        axes.plot(mark.spread, [line, line], color=mark.colour, linewidth=4.5, alpha=0.35)
    axes.plot(mark.value, line, mark.marker, color=mark.colour, markersize=6.5, markeredgewidth=2)
    is_ours = mark.marker == "o"
    axes.annotate(
        number(mark.value) if is_ours else f"{number(mark.value)}  {mark.name}",
        (max(mark.value, *(mark.spread or (0.0,))), line),
        xytext=(8, 0), textcoords="offset points", va="center", color=mark.colour,
        fontweight="bold" if is_ours else "normal",
    )  # fmt: skip


def _legend(marks: "Sequence[Mark]") -> list[Line2D]:
    """Our mark and what its bar is, one entry for all limits, one for each peer."""
    spread = any(mark.spread for mark in marks)
    names = {"o": "ours: median, minimum to maximum" if spread else "ours", "|": "limit"}
    entries = {names.get(mark.marker, mark.name): mark for mark in marks}
    return [
        Line2D([], [], color=m.colour, marker=m.marker, markeredgewidth=2, label=name)
        for name, m in sorted(entries.items(), key=lambda entry: "o|D".index(entry[1].marker))
    ]
