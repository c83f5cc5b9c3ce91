"""A hundred phones: ``python -m warren_examples.fashion_phones --data FOLDER``."""

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table

from warren_examples.fashion_phones import FILES, PHONES, WHERE
from warren_examples.stage.fleet import fleet_stage, main
from warren_examples.stage.processes import BIN

ROUNDS = 60
SHARE, QUORUM = 0.2, 12


def play(given: argparse.Namespace) -> None:
    """Train, and show how the test accuracy grew."""
    module = "warren_examples.fashion_phones.task"
    program = f"{BIN / 'client-worker'} evaluate --task {module}:judge --data {given.data} --model"
    told = (
        *("--rounds", str(given.rounds or ROUNDS), "--quorum", str(QUORUM)),
        *("--participation", str(SHARE), "--deadline-s", "20", "--max-staleness", "2"),
        *("--server-optimizer", "momentum:learning_rate=0.3,beta=0.7", "--evaluate", program),
    )
    with fleet_stage(given.out, "phone", PHONES, model_bytes=1 << 20) as stage:
        print(f"{PHONES} phones, of whom a fifth is drawn for each round; logs in {given.out}")
        state = stage.run("phones", (f"{module}:phone", "--data", str(given.data)), told)
    log = (given.out / "logs" / "phones-coordinator-worker.log").read_text().splitlines()
    records = [json.loads(line) for line in log if '"evaluated"' in line]
    table = Table("version", "test accuracy", title="Fashion-MNIST on a hundred phones")
    for record in records[:: max(1, len(records) // 10)] + records[-1:]:
        table.add_row(str(record["version"]), f"{record['metrics']['accuracy']:.3f}")
    Console().print(table)
    updates = sum(record.updates for record in state.history)
    sent = sum(record.bytes_up for record in state.history)
    print(
        f"{updates} updates of {len(state.roster)} phones, {sent / 1e6:.0f} MB up; no image moved"
    )


if __name__ == "__main__":
    sys.exit(main("fashion_phones", FILES, WHERE, play, sys.argv[1:]))
