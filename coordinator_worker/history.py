"""The rounds in a checkpoint as rows of figures: for a terminal, a spreadsheet, TensorBoard."""

import csv
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, TextIO

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator_worker import checkpoint
from coordinator_worker.figures import plain
from coordinator_worker.rejected import PIPE_COLUMNS
from coordinator_worker.state import State
from shared import strict_json
from shared.errors import ConfigError
from shared.files import replacing

Record = Mapping[str, Any]
Row = dict[str, float | int | str]

SHOWN: Final = 30
MOST_METRICS: Final = 5
FIRST: Final = ("version", "time", "seconds", "updates", "incomplete", "norm", "bytes_up")


class HistorySettings(BaseSettings):
    """Flags of ``coordinator-worker history``."""

    SECTION: ClassVar[str] = "coordinator"
    model_config = SettingsConfigDict(env_prefix="WARREN_", extra="ignore")

    checkpoint_dir: Path = Field(
        Path("checkpoint"), description="the coordinator's checkpoint folder"
    )


def row(record: Record) -> Row:
    """A round's figures by name; where there are several of a kind, as ``metric/loss``.

    ``seconds`` until the quorum, ``time`` in seconds since 1970, ``norm`` the median L2 norm of the
    updates, ``clients/late`` and ``data_share/late`` as in the participation report.
    """
    figures: Row = {name: record[name] for name in FIRST if name in record}
    figures |= {f"metric/{name}": value for name, value in record["metrics"].items()}
    figures |= {f"rejected/{why}": count for why, count in record["rejected"].items()}
    for status, standing in record.get("participation", {}).items():
        figures |= {f"{name}/{status}": value for name, value in standing.items()}
    for name, value in (record.get("evaluation") or {}).items():
        figures[f"evaluation/{name}"] = value
    if "diverged" in record:
        figures["diverged"] = record["diverged"]
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


def to_csv(history: Sequence[Record], path: Path) -> None:
    """Write one line for each round to ``path``; ``-`` is standard output."""
    if str(path) == "-":
        _write_csv(history, sys.stdout)
        return
    try:
        with (
            replacing(path) as unfinished,
            unfinished.open("w", newline="", encoding="utf-8") as file,
        ):
            _write_csv(history, file)
    except OSError as error:
        raise ConfigError(f"--csv {path} cannot be written: {error}") from None


def to_json(history: Sequence[Record]) -> None:
    """Print each round as the checkpoint has it, one JSON object a line."""
    for record in history:
        sys.stdout.write(strict_json.dumps(record) + "\n")


def show(state: State) -> None:
    """Print the newest rounds."""
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)
    rows = [row(record) for record in state.history[-SHOWN:]]
    metrics = [name for name in columns(rows) if name.startswith("metric/")][:MOST_METRICS]
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("version", "updates", "rejected", "seconds", "norm", *metrics, "when"):
        table.add_column(Text(plain(name.removeprefix("metric/"))), justify="right", no_wrap=True)
    for figures in rows:
        refused = sum(int(v) for name, v in figures.items() if name.startswith("rejected/"))
        told = [figures.get("seconds"), figures.get("norm"), *map(figures.get, metrics)]
        counts = (str(figures["version"]), str(figures["updates"]), str(refused))
        table.add_row(*counts, *map(_figure, told), _moment(figures.get("time")))
    console.print(table)
    hidden = len(state.history) - len(rows)
    more = f", {hidden} older ones not shown (--csv and --json have all)" if hidden else ""
    console.print(Text(f"\n{state.federation}, run {state.run}: {len(state.history)} rounds{more}"))


def _write_csv(history: Sequence[Record], file: TextIO) -> None:
    rows = [row(record) for record in history]
    writer = csv.DictWriter(file, columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _figure(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "–"


def _moment(value: float | str | None) -> str:
    if not isinstance(value, (int, float)):
        return "–"  # of a checkpoint from before rounds had a time
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
