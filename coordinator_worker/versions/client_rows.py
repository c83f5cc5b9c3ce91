"""Each client's figures of each round as rows: for a terminal, a spreadsheet, programs."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.text import Text

from coordinator_worker.state.round_record import MAX_LISTED
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import client_history
from coordinator_worker.storage.client_history import ClientRound
from coordinator_worker.text.formatting import plain
from coordinator_worker.text.table import Column, console, fitted
from coordinator_worker.versions import history
from coordinator_worker.versions.history import MAX_METRICS, SHOWN, Row
from warren_shared import strict_json
from warren_shared.errors import ConfigError

FIRST: Final = ("version", "client", "base_version", "staleness", "examples", "norm", "time")


def load(folder: Path, run: str, names: Sequence[str] = ()) -> list[ClientRound]:
    """The rounds of ``run`` with what clients said; of all clients, or of ``names``.

    Raises:
        ConfigError: nothing is there, or a name is in no round.
    """
    rounds = client_history.read(folder, run)
    if not rounds:
        raise ConfigError(
            f"--clients: {folder} has no figures of clients of run {run}: the coordinator writes"
            f" {client_history.NAME} when the next round closes"
        )
    known = {one.client for closed in rounds for one in closed.updates}
    if strangers := [name for name in names if name not in known]:
        raise ConfigError(
            f"--clients {strangers[0]}: it is in none of the rounds that are kept; these are:"
            f" {', '.join(sorted(known)[:10])}{', …' if len(known) > 10 else ''}"
        )
    if not names:
        return rounds
    return [
        replace(closed, updates=[one for one in closed.updates if one.client in names])
        for closed in rounds
    ]


def rows(rounds: Sequence[ClientRound]) -> Iterator[Row]:
    """A row for each update; metrics as ``metric/loss``."""
    for closed in rounds:
        for one in closed.updates:
            yield {
                "version": closed.version,
                "client": one.client,
                "base_version": one.base_version,
                "staleness": closed.version - 1 - one.base_version,
                **({"examples": one.examples} if one.examples else {}),  # masks hide them
                **({} if one.norm is None else {"norm": one.norm}),
                "time": closed.time,
                **{f"metric/{name}": value for name, value in one.metrics.items()},
            }


def to_csv(rounds: Sequence[ClientRound], path: Path) -> None:
    """Write one line for each update to ``path``; ``-`` is standard output."""
    found = list(rows(rounds))
    history.write_csv(found, names(found), path)


def names(found: Sequence[Row]) -> list[str]:
    """The columns: those that each row has, then the metrics."""
    return [*FIRST, *sorted({name for row in found for name in row} - set(FIRST))]


def to_json(rounds: Sequence[ClientRound]) -> None:
    """Print each update, one JSON object a line."""
    sys.stdout.write(strict_json.lines(rows(rounds)))


def show(state: State, rounds: Sequence[ClientRound]) -> None:
    """Print the newest updates."""
    every = list(rows(rounds))
    found = every[-SHOWN:]
    metrics = [name for name in names(found) if name.startswith("metric/")][:MAX_METRICS]
    shown = [
        Column("version", [str(row["version"]) for row in found]),
        Column("client", [str(row["client"]) for row in found], numbers=False),
        Column("stale", [str(row["staleness"]) for row in found]),
        Column("examples", [str(row.get("examples", "–")) for row in found]),
        *(
            Column(
                plain(name.removeprefix("metric/")),
                [history.figure(row.get(name)) for row in found],
                optional=True,
            )
            for name in metrics
        ),
        Column("norm", [history.figure(row.get("norm")) for row in found], optional=True),
        Column("when", [history.moment(row.get("time")) for row in found], optional=True),
    ]
    out = console()
    out.print(fitted(shown, out.width))
    hidden = len(every) - len(found)
    more = f", {hidden} older ones not shown (--csv and --json have all)" if hidden > 0 else ""
    omitted = sum(closed.omitted for closed in rounds)
    more += f"; {omitted} beyond {MAX_LISTED} of a round are not kept" if omitted else ""
    first = rounds[0].version
    out.print(
        Text(
            f"\n{state.federation}, run {state.run}: {len(every)} updates since version"
            f" {first}{more}"
        )
    )
