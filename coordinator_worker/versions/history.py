"""The rounds in a checkpoint as rows of figures: for a terminal, a spreadsheet, TensorBoard."""

import csv
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Final, TextIO

from pydantic import Field
from rich.text import Text

from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from coordinator_worker.text.formatting import plain
from coordinator_worker.text.table import Column, console, fitted
from warren_shared import strict_json
from warren_shared.config.settings_model import Settings
from warren_shared.errors import ConfigError
from warren_shared.files import replacing

Row = dict[str, float | int | str]

SHOWN: Final = 30
MAX_METRICS: Final = 5
FIRST: Final = ("version", "time", "seconds", "updates", "incomplete", "norm", "bytes_up")


class HistorySettings(Settings):
    """Flags of ``coordinator-worker history``."""

    SECTION: ClassVar[str] = "coordinator"

    checkpoint_dir: Path = Field(
        Path("checkpoint"), description="the coordinator's checkpoint folder"
    )


def row(record: RoundRecord) -> Row:
    """A round's figures by name; where there are several of a kind, as ``metric/loss``.

    ``seconds`` until the quorum, ``time`` in seconds since 1970, ``norm`` the median L2 norm of the
    updates, ``clients/late`` and ``data_share/late`` as in the participation report.
    """
    figures: Row = {name: getattr(record, name) for name in FIRST if record.knows(name)}
    figures |= {f"metric/{name}": value for name, value in record.metrics.items()}
    figures |= {f"rejected/{why}": count for why, count in record.rejected.items()}
    for status, total in (record.participation or {}).items():
        figures[f"clients/{status}"] = total.clients
        figures[f"data_share/{status}"] = total.data_share
    if (judged := record.evaluation) is not None:
        figures["evaluation/version"] = judged.version
        figures["evaluation/clients"] = judged.clients
        figures["evaluation/examples"] = judged.examples
    sizes = ("raw_bytes_up", "bytes_down", "raw_bytes_down")
    figures |= {name: getattr(record, name) for name in sizes if record.knows(name)}
    if record.privacy is not None:
        figures["privacy/epsilon"] = record.privacy.epsilon
    if record.diverged is not None:
        figures["diverged"] = record.diverged
    return figures


def columns(rows: Iterable[Row]) -> list[str]:
    """Every name that occurs, those that each round has first."""
    found = {name for figures in rows for name in figures}
    return [name for name in FIRST if name in found] + sorted(found - set(FIRST))


def load(folder: Path) -> State:
    """The state in ``folder``, which may be in use; raises ConfigError if it has no round."""
    state = checkpoint.load(folder) if folder.is_dir() else None
    if state is None or not state.history:
        what = "no checkpoint" if state is None else "a checkpoint, but no round"
        raise ConfigError(f"--checkpoint-dir {folder} holds {what} yet")
    return state


def to_csv(history: Sequence[RoundRecord], path: Path) -> None:
    """Write one line for each round to ``path``; ``-`` is standard output."""
    rows = aligned(history)
    write_csv(rows, columns(rows), path)


def write_csv(rows: Iterable[Row], names: Sequence[str], path: Path) -> None:
    """Write ``rows`` with the columns ``names`` to ``path``; ``-`` is standard output."""
    if str(path) == "-":
        _write_csv(rows, names, sys.stdout)
        return
    try:
        with (
            replacing(path) as unfinished,
            unfinished.open("w", newline="", encoding="utf-8") as file,
        ):
            _write_csv(rows, names, file)
    except OSError as error:
        raise ConfigError(f"--csv {path} cannot be written: {error}") from None


def to_json(history: Sequence[RoundRecord]) -> None:
    """Print each round as the checkpoint has it, one JSON object a line."""
    for record in history:
        sys.stdout.write(strict_json.dumps(record.to_dict()) + "\n")


def show(state: State) -> None:
    """Print the newest rounds; what matters least is left out where there is no room."""
    rows = aligned(state.history)[-SHOWN:]
    metrics = [name for name in columns(rows) if name.startswith("metric/")][:MAX_METRICS]
    refused = [
        sum(int(v) for name, v in figures.items() if name.startswith("rejected/"))
        for figures in rows
    ]
    shown = [
        Column("version", [str(figures["version"]) for figures in rows]),
        Column("updates", [str(figures.get("updates", "–")) for figures in rows]),
        *(
            Column(
                plain(name.removeprefix("metric/")),
                [figure(figures.get(name)) for figures in rows],
                optional=True,
            )
            for name in metrics
        ),
        Column("rejected", [str(count) for count in refused], optional=True),
        Column("seconds", [figure(f.get("seconds")) for f in rows], optional=True),
        Column("norm", [figure(f.get("norm")) for f in rows], optional=True),
        Column("when", [moment(f.get("time")) for f in rows], optional=True),
    ]
    out = console()
    out.print(fitted(shown, out.width))
    hidden = len(state.history) - len(rows)
    more = f", {hidden} older ones not shown (--csv and --json have all)" if hidden > 0 else ""
    out.print(Text(f"\n{state.federation}, run {state.run}: {len(state.history)} rounds{more}"))


def aligned(history: Sequence[RoundRecord]) -> list[Row]:
    """A row for each version: what was trained to make it, and what it is itself worth.

    Clients evaluate the version that they begin with, so a round's record has the evaluation of an
    earlier one; here it stands with that. Version 0, and one whose record is gone, has a row of its
    own then.
    """
    rows = {record.version: row(record) for record in history}
    for record in history:
        judged = record.evaluation
        if judged is None or judged.version == record.version:
            continue
        mine = rows[record.version]
        names = [n for n in mine if n.startswith(("metric/eval_", "evaluation/"))]
        theirs = rows.setdefault(judged.version, {"version": judged.version})
        theirs |= {name: mine.pop(name) for name in names}
    for record in history:
        mine = rows[record.version]
        if (final := record.final_evaluation) is not None:
            mine |= {f"metric/{name}": value for name, value in final.metrics.items()}
        for name, value in (record.evaluated or {}).items():
            mine[f"metric/evaluate_{name}"] = value
    return [rows[version] for version in sorted(rows)]


def _write_csv(rows: Iterable[Row], names: Sequence[str], file: TextIO) -> None:
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def figure(value: float | str | None) -> str:
    """A cell of a table."""
    return f"{value:.4g}" if isinstance(value, (int, float)) else "–"


def moment(value: float | str | None) -> str:
    """A time of the day, here."""
    if not isinstance(value, (int, float)):
        return "–"  # of a checkpoint from before rounds had a time
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
