"""What every benchmark leaves behind: a table and ``<name>.json``; plots are drawn from that."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from benchmarks.reporting.rows import Row, as_json, from_json

if TYPE_CHECKING:
    from benchmarks.reporting.curves import Curves

RESULTS: Final = Path(__file__).parents[1] / "results"


def publish(
    name: str,
    title: str,
    rows: Sequence[Row],
    *,
    folder: Path = RESULTS,
    curves: "Curves | None" = None,
) -> None:
    """Print ``rows`` as a table; write them, and ``curves``, as ``<folder>/<name>.json``.

    Raises:
        ValueError: there is no row: a benchmark that measured nothing must not look like one.
    """
    if not rows:
        raise ValueError(f"benchmark {name} measured nothing")
    from benchmarks.harness.machine import machine
    from benchmarks.reporting.phrases import also, table

    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table(title, rows), also(rows) or "")
    record = {"title": title, "machine": machine(), "rows": [as_json(row) for row in rows]}
    record |= {"curves": asdict(curves)} if curves is not None else {}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def measured_again(name: str, rows: Sequence[Row], *, folder: Path = RESULTS) -> list[Row]:
    """The last results of ``name`` with ``rows`` in place of all rows of the same cases."""
    path = folder / f"{name}.json"
    last = [from_json(row) for row in json.loads(path.read_text())["rows"]] if path.exists() else []
    cases = dict.fromkeys(row.case for row in (*last, *rows))
    new = {row.case for row in rows}
    return [row for case in cases for row in (rows if case in new else last) if row.case == case]
