"""``coordinator-worker audit``: exactly whose updates made a model, from the audit log."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator_worker.state.round_record import Rollback
from coordinator_worker.storage import audit_files, checkpoint
from coordinator_worker.storage.audit_files import CONTINUED, NAME
from coordinator_worker.storage.audit_log import NO_LINE, digest_of
from coordinator_worker.text.formatting import plain
from coordinator_worker.text.table import console
from warren_shared import strict_json
from warren_shared.config.settings_model import Settings
from warren_shared.errors import ConfigError, WarrenError
from warren_shared.observability.progress import through

Line = Mapping[str, Any]
SHOWN: Final = 30
BEGINNING: Final = b'{"time":"'  # of every line: what is torn is a piece of one
_NUMBER: Final = (int, float)
_TYPES: Final[Mapping[str, Any]] = {
    "previous": str, "version": int, "base_version": int, "num_examples": int, "weight": _NUMBER,
}  # fmt: skip


class AuditSettings(Settings):
    """Flags of ``coordinator-worker audit``."""

    SECTION: ClassVar[str] = "coordinator"

    checkpoint_dir: Path = Field(
        Path("checkpoint"), description="the coordinator's checkpoint folder"
    )
    run: str | None = Field(None, description="training run (default: the newest in the log)")
    json_: bool = Field(False, description="for programs: a JSON object a line")


@dataclass
class Made:
    """A version as the log tells of it."""

    run: str
    version: int
    line: Line
    published: Line | None = None
    rejected: list[Line] = field(default_factory=list)

    @property
    def rolled_back_to(self) -> Rollback | None:
        """What it is a copy of, if no updates made it."""
        found = self.line.get("to")
        return Rollback.from_dict(found) if isinstance(found, dict) else None

    def as_dict(self) -> dict[str, Any]:
        """All of it, for programs."""
        told = {key: value for key, value in self.line.items() if key not in ("event", "previous")}
        digests = {key: (self.published or {}).get(key) for key in ("digest", "content")}
        return {**told, **digests, "rejected": [dict(line) for line in self.rejected]}


def versions(lines: Iterable[tuple[str, bytes]]) -> dict[tuple[str, int], Made]:
    """What became a model, by run and version, oldest first.

    What was aggregated and then not checkpointed is left out: the one that took over said so.
    """
    made: dict[tuple[str, int], Made] = {}
    rejected: list[Line] = []
    for _, text in lines:
        line = _parsed(text)
        run, version = str(line.get("run", "")), int(line.get("version", -1))
        match line.get("event"):
            case "rejected":
                rejected.append(line)
            case "aggregated" | "rolled_back":
                made[run, version] = Made(run, version, line, rejected=rejected)
                rejected = []
            case "published" if (run, version) in made:
                made[run, version].published = line
            case "resumed":
                for key in [key for key in made if key[0] == run and key[1] > version]:
                    rejected = made.pop(key).rejected + rejected
    return made


def faults(lines: Iterable[tuple[str, bytes]], head: str = "") -> Iterator[str]:
    """Every place where the log is not as it was written, a sentence each.

    ``head`` is the digest of a line that has to be there: the last one that the checkpoint knows.
    """
    previous, has_head, torn = None, head in ("", NO_LINE), ""
    for place, text in lines:
        line = _parsed(text)
        said, event = line.get("previous"), line.get("event")
        if torn and event not in ("resumed", CONTINUED):
            yield f"{torn} is no line of the log, and the coordinator did not end there"
        torn = torn if event == CONTINUED else ""
        if said is None and text.startswith(BEGINNING[: len(text)]) and not _is_json(text):
            torn = place
            yield f"{place} is torn: the coordinator ended while it wrote it"
        elif said is None:
            yield f"{place} is no line of the log"
        elif previous is None and said != NO_LINE:
            yield f"{place} is not the first: what was before it is missing"
        elif previous is not None and said != previous and event == CONTINUED:
            yield f"{place} does not follow the file before it: a file is missing, or was changed"
        elif previous is not None and said != previous:
            yield f"{place} does not follow the one before it: lines were changed or removed"
        if line.get("lost"):
            yield (
                f"{place}: the end of the log was missing when the coordinator took over; it"
                " was cut off, or taken by a power cut"
            )
        previous = digest_of(text)
        has_head = has_head or previous == head
    if not has_head:
        yield "the end of the log is missing: the checkpoint knows of lines that are not there"


def _watched(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The lines, with a bar: a log of years is long."""
    total = audit_files.size_bytes(folder)
    lines = audit_files.read(folder)
    return through(lines, "reading the log", total, lambda line: len(line[1]) + 1)


def show(folder: Path, version: int | None, *, run: str | None, as_json: bool) -> None:
    """Print what the log says of ``version``, or of all."""
    path = folder / NAME
    found = versions(_watched(folder))
    if run is None and found:
        run = next(reversed(found))[0]
    mine = {made.version: made for made in found.values() if made.run == run}
    if version is not None and version not in mine:
        there = f"versions {min(mine)} to {max(mine)}" if mine else "no version"
        raise ConfigError(f"{path} has no version {version} of run {run}: it has {there}")
    chosen = [mine[version]] if version is not None else list(mine.values())
    if as_json:
        sys.stdout.write(strict_json.lines(made.as_dict() for made in chosen))
        return
    out = console()
    if version is None:
        out.print(_overview(chosen[-SHOWN:]))
        hidden = len(chosen) - SHOWN
        more = f", {hidden} older ones not shown (--json has all)" if hidden > 0 else ""
        out.print(Text(f"\n{len(chosen)} versions of run {run}{more}", style="bold"))
        return
    _describe(out, chosen[0])


def verify(folder: Path) -> None:
    """Check that no line was changed or taken out; raises WarrenError if one was."""
    path = folder / NAME
    state = checkpoint.load(folder)
    found = list(faults(_watched(folder), state.audit_head if state is not None else ""))
    for fault in found:
        sys.stdout.write(f"{fault}\n")
    if any("is torn:" not in fault for fault in found):
        raise WarrenError(f"{path} is not as it was written")
    sys.stdout.write(f"{path} is as it was written\n")


def rotate(folder: Path) -> None:
    """Rename the log to what it is called from now on; a coordinator goes on in a new file."""
    sys.stdout.write(f"{audit_files.rotate(folder)} is an older file of the log now\n")


def _overview(versions_: Iterable[Made]) -> Table:
    table = _table("version", "updates", "clients", "examples", "rejected", "when", "")
    for made in versions_:
        entries = made.line.get("contributions", [])
        clients = {str(entry.get("client")) for entry in entries}
        examples = sum(entry.get("num_examples") or 0 for entry in entries)
        counts = (made.version, len(entries), len(clients), examples, _rejections(made))
        shown = ["–" if made.rolled_back_to and not count else str(count) for count in counts]
        if not examples:
            shown[3] = "–"  # not told
        table.add_row(*shown, _moment(made.line), _origin(made))
    return table


def _describe(out: Console, made: Made) -> None:
    line = made.line
    entries = line.get("contributions", [])
    weight = sum(entry.get("weight") or 0.0 for entry in entries)
    table = _table("client", "base", "staleness", "examples", "weight", "update's digest")
    for entry in entries:
        base = entry.get("base_version")
        share = (entry.get("weight") or 0.0) / weight if weight else None
        table.add_row(
            Text(plain(str(entry.get("client")))),
            "–" if base is None else str(base),
            "–" if base is None else str(made.version - 1 - base),
            str(entry.get("num_examples") or "–"),
            "–" if share is None else f"{share:.1%}",
            plain(str(entry.get("digest", "–"))),
        )
    out.print(Text(f"version {made.version} of run {made.run}, {_moment(line)}", style="bold"))
    out.print(table if entries else Text(_origin(made) or "no updates"))
    published = made.published or {}
    digests = [f"{name} {published[key]}" for name, key in _DIGESTS if published.get(key)]
    out.print(f"model: {', '.join(digests) or 'not published yet'}", markup=False)
    if refused := line.get("refused"):
        out.print(f"refused: {plain(str(refused))}; the weights stayed", markup=False)
    if line.get("recovered"):
        out.print("from the checkpoint: a power cut took the line that was written first")
    out.print(f"rejected before it: {_rejections(made)}")


def _origin(made: Made) -> str:
    found = made.rolled_back_to
    return f"rolled back to {plain(found.source)}" if found else ""


_DIGESTS: Final = (("BLAKE3", "content"), ("XXH3", "digest"))


def _rejections(made: Made) -> int:
    return len(made.rejected) + sum(map(int, made.line.get("rejected_unlisted", {}).values()))


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        numeric = column not in ("client", "when", "update's digest", "")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    return table


def _moment(line: Line) -> str:
    return plain(str(line.get("time", "")))[:19].replace("T", " ")


def _parsed(text: bytes) -> Line:
    """What a line says; nothing, if it is torn, and nothing that is of another type than ours."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(line, dict):
        return {}
    entries = line.get("contributions", [])
    if "contributions" in line:
        line["contributions"] = (
            [_typed(e) for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
        )
    if "rejected_unlisted" in line:
        counts = line["rejected_unlisted"]
        known = counts.items() if isinstance(counts, dict) else ()
        line["rejected_unlisted"] = {user: n for user, n in known if type(n) is int}
    return _typed(line)


def _typed(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in fields.items()
        if name not in _TYPES or (isinstance(value, _TYPES[name]) and not _is_huge(value))
    }


def _is_huge(value: object) -> bool:
    """Whether no sum of floats can hold it."""
    return isinstance(value, _NUMBER) and not -1e300 < value < 1e300


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    except RecursionError:
        return True
    return True
