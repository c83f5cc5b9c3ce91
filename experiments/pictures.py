"""One picture of an experiment: panels side by side, a line for each method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reporting.plots import GRID, LIMIT, OURS, PEERS, STYLE

COLOURS = (OURS, *PEERS, LIMIT, "#1b1b1e", "#a3b18a", "#e07a5f")


@dataclass(frozen=True)
class Panel:
    """``lines``: whose it is -> (x values, y values). ``level``: a dashed line at that y."""

    title: str
    x_name: str
    y_name: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    level: float | None = None
    x_logarithmic: bool = False
    y_logarithmic: bool = False
    y_from: float | None = None


def draw(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Write ``panels`` to ``path`` as SVG, two in a row; the file depends on them alone."""
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(4.8 * across, 3.4 * down + 0.4), layout="constrained")
        drawn.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        places = drawn.subplots(down, across, squeeze=False).ravel()
        for axes, panel in zip(places, panels, strict=False):
            _draw(axes, panel)
        for axes in places[len(panels) :]:
            axes.set_axis_off()
        drawn.savefig(path, format="svg", metadata={"Date": None})


def _draw(axes: Axes, panel: Panel) -> None:
    for place, (whose, (x, y)) in enumerate(panel.lines.items()):
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(x, y, color=colour, label=whose, linewidth=1.4)
    if panel.level is not None:
        axes.axhline(panel.level, color=LIMIT, linewidth=0.9, linestyle="--")
    if panel.x_logarithmic:
        axes.set_xscale("log")
    if panel.y_logarithmic:
        axes.set_yscale("log")
    if panel.y_from is not None:
        axes.set_ylim(bottom=panel.y_from)
    axes.set_title(panel.title, loc="left", fontsize=9.5)
    axes.set_xlabel(panel.x_name)
    axes.set_ylabel(panel.y_name)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7.5)
