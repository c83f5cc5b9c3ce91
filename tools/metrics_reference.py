"""Prints the tables of docs/monitoring.md from the code.

With ``--write`` it puts them there, between the comments that mark their places.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from client_worker.runtime.prometheus import Metrics as ClientMetrics
from coordinator_worker.monitoring.prometheus import Metrics
from keeper_worker.runtime.prometheus import Metrics as KeeperMetrics
from warren_shared.observability.prometheus import Row

DOCUMENT = Path(__file__).parents[1] / "docs" / "monitoring.md"
UNITS = {"seconds": "seconds", "bytes": "bytes", "versions": "versions", "share": "0 to 1"}


def table(rows: Iterable[Row]) -> str:
    """The metrics as a table in Markdown."""
    lines = ["| metric | kind | unit | labels | what it says |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        labels = ", ".join(f"`{label}`" for label in row.labels)
        cells = (f"`{row.name}`", row.kind, _unit(row.name), labels, row.about)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _unit(name: str) -> str:
    word = name.removesuffix("_total").rpartition("_")[2]
    return UNITS.get(word, "")


def tables() -> dict[str, str]:
    """Each table by the name of its place in the document."""
    return {
        "coordinator": table(Metrics("f", 1).meters.rows),
        "client": table(ClientMetrics("f").meters.rows),
        "keeper": table(KeeperMetrics("f").meters.rows),
    }


def written(text: str) -> str:
    """``text`` with the tables in their places."""
    for name, made in tables().items():
        place = re.compile(f"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = place.subn(lambda m, made=made: f"{m[1]}{made}\n{m[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"{DOCUMENT} has no place for the metrics of the {name}")
    return text


if __name__ == "__main__":
    if "--write" in sys.argv:
        DOCUMENT.write_text(written(DOCUMENT.read_text()))
    else:
        sys.stdout.write("\n\n".join(tables().values()) + "\n")
