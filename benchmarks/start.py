"""How long one waits: from a command to consuming, and to the first closed round.

``python -m benchmarks.start``: every worker is the command that a user types, started on a private
node; the node itself is started anew for each of its repetitions.
"""

import argparse
import importlib
import itertools
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console

from benchmarks.harness.start_process import (
    CLIENTS,
    Stage,
    federation,
    import_bytes,
    import_s,
    node_s,
)
from benchmarks.reporting.report import RESULTS, publish
from benchmarks.reporting.rows import Row
from broker_config.node import lifecycle as private_node
from broker_config.node.record import Node

TASKS: Final = {"plain numpy": "plain", "Keras": "keras"}
# What a worker with keys cannot do without, imported by the same Python: below this nobody starts,
# and nobody is smaller.
PACKAGES: Final = (
    "numpy, pika, msgpack, xxhash, blake3, pydantic.root_model"
    ", cryptography.hazmat.primitives.asymmetric.ed25519"
)
PEER: Final = "Flower deployed"
PEER_S: Final = 180.0
MODEL_BYTES: Final = 1000  # no smaller than our line, and to start is all that counts


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = _parser().parse_args(argv)
    tasks = ["plain numpy"] if given.short else list(TASKS)
    repetitions = given.repetitions or (1 if given.short else 5)
    with tempfile.TemporaryDirectory(prefix="warren-start-") as folder:
        homes = [Path(folder) / f"node-{number}" for number in range(repetitions)]
        try:
            rows = [_row("broker-config up, to ready", nodes(homes))]
            node = private_node.up(homes[-1], federation(0))
            rows += workers(node, tasks, repetitions)
            rows += memory(node, repetitions)
            rows += rounds(node, tasks, repetitions, given.peers)
        finally:
            # A Ctrl-C that came while it is being stopped would leave the broker behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for home in homes:
                private_node.down(home)
    publish("start", "Seconds from the command", rows, folder=given.out)
    return 0


def nodes(homes: Sequence[Path]) -> list[float]:
    """Seconds to start a node in each of ``homes``; the last one goes on running."""
    taken: list[float] = []
    for home in homes:
        if taken:
            private_node.down(homes[len(taken) - 1])
        taken.append(node_s(home))
    return taken


def workers(node: Node, tasks: Sequence[str], repetitions: int) -> list[Row]:
    """Rows of single workers, from the command to consuming."""
    numbers = itertools.count(1)
    rows = []
    for task in (None, *tasks):
        program = "coordinator-worker" if task is None else "client-worker"
        packages = PACKAGES + (", keras" if task == "Keras" else "")
        taken, limits = [], []
        for number in itertools.islice(numbers, repetitions):
            stage = Stage(node, number, node.home.parent / f"worker-{number}")
            taken.append(stage.consuming_s(program, task and TASKS[task]))
            limits.append(import_s(packages))  # in turn: both see the machine's slow moments
        case = f"{program}{f', {task} task' if task else ''}, to consuming"
        limit_name = f"Python that imports {'Keras' if task == 'Keras' else 'its packages'}"
        rows.append(replace(_row(case, taken), limit=median(limits), limit_name=limit_name))
    return rows


def memory(node: Node, repetitions: int) -> list[Row]:
    """Rows of single workers before the first model: what waits all day, at every site."""
    numbers = itertools.count(501)
    limit = median(import_bytes(PACKAGES) for _ in range(repetitions)) / 1e6
    cases = {
        "coordinator-worker": ("coordinator-worker", None),
        "client-worker, plain numpy task": ("client-worker", TASKS["plain numpy"]),
    }
    rows = []
    for case, (program, task) in cases.items():
        found = []
        for number in itertools.islice(numbers, repetitions):
            stage = Stage(node, number, node.home.parent / f"memory-{number}")
            found.append(stage.waiting_bytes(program, task) / 1e6)
        rows.append(
            Row(
                case=f"{case}, memory before the first model",
                unit="MB",
                ours=median(found),
                spread=(min(found), max(found)),
                limit=limit,
                limit_name="Python that imports its packages",
                more={"repetitions": repetitions},
            )
        )
    return rows


def rounds(node: Node, tasks: Sequence[str], repetitions: int, with_peers: bool) -> list[Row]:
    """Rows of whole federations, from the first command to the first round's model."""
    numbers = itertools.count(1001)
    rows = []
    for task in tasks:
        taken = []
        for number in itertools.islice(numbers, repetitions):
            stage = Stage(node, number, node.home.parent / f"round-{number}")
            taken.append(stage.first_round_s(TASKS[task]))
        row = _row(f"coordinator and 2 clients, {task}, to the first round", taken)
        if with_peers and task == "plain numpy":
            row = replace(row, peer=first_round_of_flower(), peer_name=PEER)
        rows.append(row)
    return rows


def first_round_of_flower() -> float | None:
    """Seconds from Flower's commands to the end of its first round; None if it did not run."""
    try:
        flower = importlib.import_module("benchmarks.peers.flower.peer")
        found = flower.measure("deployed", len(CLIENTS), MODEL_BYTES, 1, timeout_s=PEER_S)
    except Exception as error:  # noqa: BLE001  whatever ails it must not cost us our own figures
        Console(stderr=True).print(f"{PEER} did not run: {error or type(error).__name__}")
        return None
    return float(found.seconds_to_first_round)


def _row(case: str, seconds: Sequence[float]) -> Row:
    spread = (min(seconds), max(seconds))
    more: dict[str, float | str] = {"repetitions": len(seconds)}
    return Row(case=case, unit="s", ours=median(seconds), spread=spread, more=more)


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--short", action="store_true", help="once, and without Keras")
    flags.add_argument("--out", type=Path, default=RESULTS, help="where to write the results")
    flags.add_argument("--no-peers", dest="peers", action="store_false", help="without Flower")
    flags.add_argument("--repetitions", type=int, help="of everything (5)")
    return flags


if __name__ == "__main__":
    sys.exit(main())
