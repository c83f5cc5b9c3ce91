"""Plots of results that were measured: ``python -m benchmarks.reporting.draw [FOLDER]``."""

import json
import sys
from pathlib import Path

from benchmarks.reporting.curves import Curves, plot_curves
from benchmarks.reporting.plots import plot
from benchmarks.reporting.report import RESULTS
from benchmarks.reporting.rows import from_json


def draw(result: Path) -> Path:
    """Write the plot of ``<name>.json`` beside it, as ``<name>.svg``; return where it is.

    It shows the curves of the result if there are any, else its rows.
    """
    record = json.loads(result.read_text())
    drawn = result.with_suffix(".svg")
    if "curves" in record:
        plot_curves(drawn, record["title"], Curves(**record["curves"]))
    else:
        plot(drawn, record["title"], [from_json(row) for row in record["rows"]])
    return drawn


if __name__ == "__main__":
    for found in sorted(Path(sys.argv[1] if sys.argv[1:] else RESULTS).glob("*.json")):
        print(draw(found))  # noqa: T201
