"""What every benchmark leaves behind: a table, ``<name>.json`` and a plot ``<name>.svg``.

``python -m benchmarks.report`` writes the last results into ``benchmarks/README.md``.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

if TYPE_CHECKING:
    from benchmarks.curves import Curves

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One measured case against one peer; several peers of a case are several rows.

    Args:
        case: What was measured, such as ``10 clients × 40 MB``.
        unit: The unit of ``ours``, ``peer``, ``limit`` and ``spread``. Of a rate (``GB/s``) more is
            better, of anything else less.
        ours: Our median.
        peer: The peer's median on the same input, None if there is no peer or it did not run.
        limit: What the machine can do at best on the same input.
        peer_name: The peer, such as ``Flower deployed``; also names a peer that did not run.
        limit_name: The limit, such as ``raw client``.
        spread: Minimum and maximum of ours.
        peak_rss_bytes: Peak resident memory of the coordinator, or of whoever did the work.
        model_bytes: Size of the model that this memory is to be compared with.
        more: Anything else, by a name with its unit: ``cpu_s_per_gb``, ``peer_rss_bytes``, …
    """

    case: str
    unit: str
    ours: float
    peer: float | None = None
    limit: float | None = None
    peer_name: str = ""
    limit_name: str = ""
    spread: tuple[float, float] | None = None
    peak_rss_bytes: int | None = None
    model_bytes: int | None = None
    more: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def ratio_to_peer(self) -> float | None:
        """``ours / peer``."""
        return None if self.peer is None else self.ours / self.peer

    @property
    def ratio_to_limit(self) -> float | None:
        """``ours / limit``."""
        return None if self.limit is None else self.ours / self.limit


def publish(
    name: str,
    title: str,
    rows: Sequence[Row],
    *,
    folder: Path = RESULTS,
    curves: "Curves | None" = None,
) -> None:
    """Print ``rows`` as a table and write ``<folder>/<name>.json`` and ``<folder>/<name>.svg``.

    The plot shows ``curves`` if there are any, else the rows.

    Raises:
        ValueError: there is no row: a benchmark that measured nothing must not look like one.
    """
    if not rows:
        raise ValueError(f"benchmark {name} measured nothing")
    from benchmarks.curves import plot_curves
    from benchmarks.machine import machine
    from benchmarks.plots import plot
    from benchmarks.wording import also, table

    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table(title, rows), also(rows) or "")
    record = {"title": title, "machine": machine(), "rows": [as_json(row) for row in rows]}
    record |= {"curves": asdict(curves)} if curves is not None else {}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    if curves is not None:
        plot_curves(folder / f"{name}.svg", title, curves)
    else:
        plot(folder / f"{name}.svg", title, rows)


def measured_again(name: str, rows: Sequence[Row], *, folder: Path = RESULTS) -> list[Row]:
    """The last results of ``name`` with ``rows`` in place of all rows of the same cases."""
    path = folder / f"{name}.json"
    last = [from_json(row) for row in json.loads(path.read_text())["rows"]] if path.exists() else []
    cases = dict.fromkeys(row.case for row in (*last, *rows))
    new = {row.case for row in rows}
    return [row for case in cases for row in (rows if case in new else last) if row.case == case]


def as_json(row: Row) -> dict[str, Any]:
    """``row`` as it stands in the JSON file: memory only where it applies, ratios worked out."""
    record = asdict(row) | {
        "ratio_to_peer": row.ratio_to_peer,
        "ratio_to_limit": row.ratio_to_limit,
    }
    may_lack = ("peak_rss_bytes", "model_bytes", "spread", "more")
    return {k: v for k, v in record.items() if v not in (None, {}) or k not in may_lack}


def from_json(record: Mapping[str, Any]) -> Row:
    """The row that `as_json` wrote."""
    known = {k: v for k, v in record.items() if not k.startswith("ratio_to_")}
    if "spread" in known:
        known["spread"] = tuple(known["spread"])
    return Row(**known)


def main() -> int:
    """Rewrite the generated part of ``benchmarks/README.md``."""
    from benchmarks.readme import rewrite

    rewrite(Path(__file__).parent / "README.md", RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
