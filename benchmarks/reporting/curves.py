"""A picture of what happens from round to round: a panel for each quantity, a line for each whose
it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reporting.plots import GRID, LIMIT, OURS, PEERS, STYLE

PANEL_INCHES = 1.9


@dataclass(frozen=True)
class Curves:
    """``panels``: what is on the y axis, with its unit -> whose it is -> its values at ``x``."""

    x_name: str
    x: Sequence[float]
    panels: Mapping[str, Mapping[str, Sequence[float]]]


def plot_curves(path: Path, title: str, curves: Curves) -> None:
    """Write ``curves`` to ``path`` as SVG; the file depends on them alone."""
    with mpl.rc_context(STYLE):
        figure(title, curves).savefig(path, format="svg", metadata={"Date": None})


def figure(title: str, curves: Curves) -> Figure:
    """The picture itself."""
    count = len(curves.panels)
    drawn = Figure(figsize=(9.6, PANEL_INCHES * count + 0.6), layout="constrained")
    drawn.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    panels = drawn.subplots(count, 1, squeeze=False, sharex=True)[:, 0]
    for axes, (name, lines) in zip(panels, curves.panels.items(), strict=True):
        _draw(axes, name, curves.x, lines)
    panels[-1].set_xlabel(curves.x_name)
    return drawn


def _draw(axes: Axes, name: str, x: Sequence[float], lines: Mapping[str, Sequence[float]]) -> None:
    colours = (OURS, *PEERS, LIMIT)
    for place, (whose, values) in enumerate(lines.items()):
        colour = colours[place % len(colours)]
        axes.plot(x, values, ".-", color=colour, label=whose, linewidth=1.4, markersize=4)
    # From 0: beside what it is, a growth of one part in a hundred should look like that.
    axes.set_ylim(0, 1.25 * max(max(values) for values in lines.values()))
    axes.set_xlim(left=0)
    axes.set_title(name, loc="left", fontsize=9.5)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        above = (1.0, 0.97)
        axes.legend(loc="lower right", bbox_to_anchor=above, borderaxespad=0, ncols=len(lines),
                    frameon=False, fontsize=8)  # fmt: skip
