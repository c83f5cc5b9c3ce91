"""The generated part of ``benchmarks/README.md``: the last results as ratios.

``python -m benchmarks.reporting.readme`` writes it.
"""

import json
from typing import TYPE_CHECKING, Any, Final

from benchmarks.reporting.phrases import against_limit, against_peer, memory, number, ours
from benchmarks.reporting.report import RESULTS
from benchmarks.reporting.rows import from_json

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.reporting.rows import Row

BEGIN: Final = "<!-- results: written by python -m benchmarks.reporting.readme -->"
END: Final = "<!-- end of results -->"
ORDER: Final = ("round", "fold", "scale", "regions", "start", "straggler", "endurance")


def rewrite(readme: "Path", results: "Path") -> None:
    """Put the results in the folder ``results`` between the markers of the file ``readme``.

    Raises:
        ValueError: the file has lost its markers.
    """
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} lacks the markers {BEGIN} and {END}")
    readme.write_text(f"{before}{BEGIN}\n\n{section(results)}\n{END}{after}")


def section(results: "Path") -> str:
    """Markdown of all results in the folder ``results``, in the order of ``make bench``."""
    files = sorted(results.glob("*.json"), key=_place)
    if not files:
        return "No results yet: `make bench` makes them.\n"
    return "\n".join(_benchmark(path) for path in files)


def _place(path: "Path") -> tuple[int, str]:
    return (ORDER.index(path.stem) if path.stem in ORDER else len(ORDER), path.stem)


def _benchmark(path: "Path") -> str:
    record = json.loads(path.read_text())
    rows = [from_json(row) for row in record["rows"]]
    with_memory = any(row.peak_rss_bytes for row in rows)
    headings = ["case", "ours", "against the limit", "against the peer"]
    headings += ["peak memory"] if with_memory else []
    lines = [
        f"### {path.stem}: {record['title']}",
        "",
        f"{_machine(record['machine'])} [JSON]({path.parent.name}/{path.stem}.json).",
        "",
        _line(headings),
        _line(["---"] * len(headings)),
    ]
    for before, row in zip((None, *rows), rows, strict=False):
        again = before is not None and (before.case, before.ours) == (row.case, row.ours)
        lines.append(_line(_cells(row, again=again)[: len(headings)]))
    return "\n".join(lines) + "\n"


def _cells(row: "Row", *, again: bool) -> list[str]:
    case, value = ("", "") if again else (row.case, f"{ours(row)} {row.unit}")
    limit, peer = against_limit(row), against_peer(row)
    if row.limit is not None:
        limit += f" ({number(row.limit)} {row.unit})"
    if row.peer is not None:
        peer += f" ({number(row.peer)} {row.unit})"
    return [case, value, limit, peer, "" if again else memory(row)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _machine(told: dict[str, Any]) -> str:
    return (
        f"{told['date']}, {told['cores']} cores of {told['cpu']},"
        f" {told['memory_bytes'] / 2**30:.0f} GiB, RabbitMQ {told['rabbitmq']},"
        f" Python {told['python']}, numpy {told['numpy']}, pika {told['pika']}."
    )


if __name__ == "__main__":
    rewrite(RESULTS.parent / "README.md", RESULTS)
