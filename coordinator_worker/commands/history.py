"""``coordinator-worker history``: the figures of each round, from the checkpoint."""

import argparse
from pathlib import Path

from coordinator_worker.state.training_state import State
from coordinator_worker.versions import client_rows as clients
from coordinator_worker.versions import history
from warren_shared.config import settings

ABOUT = (
    "Print the figures of each round, from the checkpoint, which keeps the newest 1000; or write"
    " them for a spreadsheet or TensorBoard. Needs no broker, and may run beside the coordinator."
)


def run(argv: list[str]) -> None:
    """Print or write the history."""
    own = argparse.ArgumentParser(
        prog="coordinator-worker history", add_help=False, allow_abbrev=False
    )
    own.add_argument("--csv", type=Path, metavar="FILE", help="write a CSV file; - prints it")
    own.add_argument(
        "--tensorboard",
        type=Path,
        metavar="FOLDER",
        help="write curves to FOLDER/RUN; needs the extra `tensorboard`",
    )
    own.add_argument(
        "--clients",
        nargs="*",
        metavar="CLIENT",
        help="each client's figures instead: a row for each update, of all clients or of these",
    )
    own.add_argument("--json", action="store_true", help="for programs: a JSON object a line")
    given, _ = settings.load(history.HistorySettings, description=ABOUT, argv=argv, own=own)
    asked = settings.own_words(own, history.HistorySettings, argv)
    state = history.load(given.checkpoint_dir)
    if asked.clients is not None:
        _clients(state, given.checkpoint_dir, asked)
        return
    if asked.csv is not None:
        history.to_csv(state.history, asked.csv)
    if asked.tensorboard is not None:
        from coordinator_worker.monitoring.tensorboard import export

        export(state.history, asked.tensorboard, state.run)
    if asked.json:
        history.to_json(state.history)
    if asked.csv is None and asked.tensorboard is None and not asked.json:
        history.show(state)


def _clients(state: State, folder: Path, asked: argparse.Namespace) -> None:
    """The same for each client."""
    rounds = clients.load(folder, state.run, asked.clients)
    if asked.csv is not None:
        clients.to_csv(rounds, asked.csv)
    if asked.tensorboard is not None:
        from coordinator_worker.monitoring.tensorboard import export

        export(state.history, asked.tensorboard, state.run, rounds)
    if asked.json:
        clients.to_json(rounds)
    if asked.csv is None and asked.tensorboard is None and not asked.json:
        clients.show(state, rounds)
