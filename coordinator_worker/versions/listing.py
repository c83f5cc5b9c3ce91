"""Which versions of the model there are: a table, or JSON."""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from coordinator_worker.storage.store import BEST_FILE
from coordinator_worker.text.formatting import plain, size
from coordinator_worker.text.table import Column, console, fitted
from coordinator_worker.versions.registry import ModelRegistry
from warren_shared import strict_json
from warren_shared.weights_file import digest_text

MAX_METRICS: Final = 3
SHOWN_DIGITS: Final = 8  # of a digest; --json has them all


def show(folder: Path, *, as_json: bool) -> None:
    """Print the versions in ``folder``, oldest first."""
    past = ModelRegistry(folder)
    found = versions(past)
    if as_json:
        sys.stdout.write(strict_json.lines(found))
        return
    out, state = console(), past.state
    out.print(Text(f"{plain(state.federation)}, run {state.run}", "bold"))
    out.print(fitted(_columns(found), out.width))


def versions(past: ModelRegistry) -> list[dict[str, Any]]:
    """Each version that is there, as plain figures."""
    best = past.state.best.version if past.state.best is not None else None
    there = {*past.kept, past.state.version}
    if best is not None and (past.folder / BEST_FILE).exists():
        there.add(best)
    return [_line(past, version, best) for version in sorted(there)]


def _line(past: ModelRegistry, version: int, best: int | None) -> dict[str, Any]:
    record, kept, state = past.record(version), past.kept.get(version), past.state
    origin = record.rolled_back if record is not None else None

    def known(name: str) -> Any:
        return getattr(record, name) if record is not None and record.knows(name) else None

    if kept is not None:
        digest, bytes_ = kept.facts.get("digest"), kept.path.stat().st_size
    elif version == state.version:
        digest, bytes_ = digest_text(state.weights), state.weights.buffer.nbytes
    else:
        digest, bytes_ = None, (past.folder / BEST_FILE).stat().st_size
    return {
        "version": version,
        "time": past.made_at(version) or None,
        "updates": known("updates"),
        "examples": known("examples"),
        "metrics": past.metrics(version),
        "update_norm": known("norm"),
        "diverged": known("diverged"),
        "rolled_back": origin.to_dict() if origin is not None else None,
        "size_bytes": bytes_,
        "digest": digest,
        "current": version == state.version,
        "best": version == best,
        "file": str(kept.path) if kept is not None else None,
    }


def _columns(lines: Sequence[dict[str, Any]]) -> list[Column]:
    """The number that the other commands ask for and the marks stay, however narrow it is."""

    def figures(heading: str, values: Iterable[float | None]) -> Column:
        return Column(plain(heading), [_figure(value) for value in values], optional=True)

    return [
        Column("version", [str(line["version"]) for line in lines]),
        Column("", [_marks(line) for line in lines], numbers=False),
        *(
            figures(name, (line["metrics"].get(name) for line in lines))
            for name in _worth_a_column(lines)
        ),
        Column("made", [_local(line["time"]) for line in lines], optional=True, numbers=False),
        figures("updates", (line["updates"] for line in lines)),
        figures("examples", (line["examples"] or None for line in lines)),
        Column("size", [size(line["size_bytes"]) for line in lines], optional=True),
        figures("update norm", (line["update_norm"] or None for line in lines)),
        Column(
            "digest",
            [(line["digest"] or "–")[:SHOWN_DIGITS] for line in lines],
            optional=True,
            numbers=False,
        ),
    ]


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
    return sorted(names, key=lambda name: not name.startswith("eval_"))[:MAX_METRICS]


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _local(moment: str | None) -> str:
    try:
        return f"{datetime.fromisoformat(moment or '').astimezone():%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return "–"
