"""Which versions of the model there are: a table, or JSON."""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator_worker.figures import plain, size
from coordinator_worker.past import BEST_FILE, Past
from coordinator_worker.rejected import PIPE_COLUMNS
from shared import strict_json
from shared.weights_file import digest_text

MOST_METRICS: Final = 3
SHOWN_DIGITS: Final = 8  # of a digest; --json has them all


def show(folder: Path, *, as_json: bool) -> None:
    """Print the versions in ``folder``, oldest first."""
    past = Past(folder)
    found = versions(past)
    if as_json:
        sys.stdout.write(strict_json.dumps(found, indent=1) + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)
    state = past.state
    console.print(Text(f"{plain(state.federation)}, run {state.run}", "bold"))
    console.print(_table(found))


def versions(past: Past) -> list[dict[str, Any]]:
    """Each version that is there, as plain figures."""
    best = past.state.best.version if past.state.best is not None else None
    there = {*past.kept, past.state.version}
    if best is not None and (past.folder / BEST_FILE).exists():
        there.add(best)
    return [_line(past, version, best) for version in sorted(there)]


def _line(past: Past, version: int, best: int | None) -> dict[str, Any]:
    record, kept, state = past.record(version), past.kept.get(version), past.state
    if kept is not None:
        digest, bytes_ = kept.facts.get("digest"), kept.path.stat().st_size
    elif version == state.version:
        digest, bytes_ = digest_text(state.weights), state.weights.buffer.nbytes
    else:
        digest, bytes_ = None, (past.folder / BEST_FILE).stat().st_size
    return {
        "version": version,
        "time": past.made_at(version) or None,
        "updates": record.get("updates"),
        "examples": record.get("examples"),
        "metrics": past.metrics(version),
        "update_norm": record.get("norm"),
        "diverged": record.get("diverged"),
        "rolled_back": record.get("rolled_back"),
        "size_bytes": bytes_,
        "digest": digest,
        "current": version == state.version,
        "best": version == best,
        "file": str(kept.path) if kept is not None else None,
    }


def _table(lines: Sequence[dict[str, Any]]) -> Table:
    metrics = _worth_a_column(lines)
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("version", justify="right")
    table.add_column("made", no_wrap=True)
    for heading in ("updates", "examples", *metrics, "update norm", "size"):
        table.add_column(Text(plain(heading)), justify="right", no_wrap=True)
    table.add_column("digest", no_wrap=True)
    table.add_column("", no_wrap=True)
    for line in lines:
        table.add_row(
            str(line["version"]),
            _local(line["time"]),
            *(_figure(line[name]) for name in ("updates", "examples")),
            *(_figure(line["metrics"].get(name)) for name in metrics),
            _figure(line["update_norm"]),
            size(line["size_bytes"]),
            (line["digest"] or "–")[:SHOWN_DIGITS],
            _marks(line),
        )
    return table


def _marks(line: dict[str, Any]) -> Text:
    marks = [Text(word, style) for word, style in (("current", "bold"), ("best", "green"))
             if line[word]]  # fmt: skip
    if line["diverged"]:
        marks.append(Text("diverged", "red"))
    if line["rolled_back"]:
        marks.append(Text(f"= {plain(str(line['rolled_back'].get('source')))}", "yellow"))
    return Text(", ").join(marks)


def _worth_a_column(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The metrics to show: what models are worth before what training said."""
    names = dict.fromkeys(name for line in lines for name in line["metrics"])
    return sorted(names, key=lambda name: not name.startswith("eval_"))[:MOST_METRICS]


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _local(moment: str | None) -> str:
    try:
        return f"{datetime.fromisoformat(moment or '').astimezone():%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return "–"
