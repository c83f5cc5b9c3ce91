"""How long a killed coordinator is missed: from its new start to consuming, and to where it was.

``python -m benchmarks.recovery``: four clients, the last of them halted. When three of four updates
are in, the coordinator is killed (SIGKILL) and started anew. It has recovered when the three are in
again; then the last client goes on and the round closes. No client may train a version twice.
"""

import argparse
import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import time
from typing import Final

from benchmarks.harness.federation import Stand, client_workers, names, stand
from benchmarks.harness.matrix import Case
from benchmarks.harness.preparation import prepare
from benchmarks.harness.processes import Worker, WorkerFailed, worker
from benchmarks.reporting.report import RESULTS, publish
from benchmarks.reporting.rows import Row
from broker_config.declaration.federation import Federation
from warren_shared.observability.progress import through

CLIENTS: Final = 4
CASES: Final = (Case(CLIENTS, 4_000_000), Case(CLIENTS, 40_000_000))
SHORT: Final = (Case(CLIENTS, 400_000),)
WANTED_S: Final = 2.0  # until it consumes
TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class Recovery:
    """Seconds since the new start: consuming, the three updates folded again, the round closed."""

    consuming: float
    folded: float
    closed: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    given = _parser().parse_args(argv)
    prepare()
    count = given.repetitions or (1 if given.short else 5)
    cases = SHORT if given.short else CASES
    rows = [_row(case, measure(case, count)) for case in through(cases, "cases", len(cases))]
    title = "A coordinator killed in mid-round: seconds from its new start"
    publish("recovery", title, rows, folder=given.out)
    return 0


def measure(case: Case, repetitions: int) -> list[Recovery]:
    """Kill the coordinator so many times, in the first round, the fourth, the seventh, …"""
    federation = Federation(clients=names(case), fleets=(), model_bytes=case.size_bytes)
    with stand(federation) as on, client_workers(on, case) as clients:
        found = [_kill(on, case, clients[-1], number) for number in range(repetitions)]
        for client in clients:
            client.check()
            again = [said for said, times in _trained(client).items() if times > 1]
            if again:
                raise WorkerFailed(f"{client.log.stem} did its work again: {again}")
    return found


def _kill(on: Stand, case: Case, last: Worker, number: int) -> Recovery:
    others = {name for name in names(case) if name != names(case)[-1]}
    with _coordinator(on, f"before-{number}", case) as coordinator:
        story = _Story(coordinator)
        story.until(lambda: story.published > 0)
        last.process.send_signal(signal.SIGSTOP)
        # It may have contributed to this version before it was halted; then to the next it has not.
        story.until(lambda: story.accepted == others)
        coordinator.process.kill()
    begin = time()
    with _coordinator(on, f"after-{number}", case) as coordinator:
        story = _Story(coordinator)
        consuming = story.until(lambda: story.connected == 2) - begin
        folded = story.until(lambda: story.accepted == others) - begin
        last.process.send_signal(signal.SIGCONT)
        closed = story.until(lambda: story.published == 2) - begin
    return Recovery(consuming, folded, closed)


class _Story:
    """A coordinator's log, as far as it has been read."""

    def __init__(self, coordinator: Worker) -> None:
        self.connected = self.published = 0
        self.accepted: set[str] = set()  # whose updates are in the round that is open
        self._records = coordinator.records(TIMEOUT_S)

    def until(self, condition: Callable[[], bool]) -> float:
        """Read on until ``condition`` holds; return when that was."""
        for record in self._records:
            match record["action"]:
                case "connected":
                    self.connected += 1
                case "model_published":
                    self.published += 1
                case "update_accepted" if len(self.accepted) == CLIENTS - 1:
                    self.accepted.clear()  # the fourth closes the round
                case "update_accepted":
                    self.accepted.add(record["client"])
            if condition():
                return float(record["time"])
        raise WorkerFailed("the coordinator ended before it had recovered")


def _coordinator(on: Stand, name: str, case: Case) -> Worker:
    told = ("--quorum", str(case.clients), "--checkpoint-dir", str(on.folder / "checkpoint"))
    bundle = on.bundle("coordinator")
    return worker("coordinator-worker", bundle, on.folder / f"{name}.log", *told, followed=True)


def _trained(client: Worker) -> Counter[str]:
    """How often a client has trained from each version."""
    lines = [line for line in client.log.read_text().splitlines() if line.startswith("{")]
    records = map(json.loads, lines)
    return Counter(record["message"] for record in records if record["action"] == "training")


def _row(case: Case, found: Sequence[Recovery]) -> Row:
    consuming = [each.consuming for each in found]
    return Row(
        case=str(case),
        unit="s",
        ours=median(consuming),
        spread=(min(consuming), max(consuming)),
        limit=WANTED_S,
        limit_name="the 2 s that are wanted",
        more={
            "kills": len(found),
            "updates_folded_again_s": median(each.folded for each in found),
            "round_closed_s": median(each.closed for each in found),
        },
    )


def _parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--short", action="store_true", help="once, with a small model")
    flags.add_argument("--out", type=Path, default=RESULTS, help="where to write the results")
    flags.add_argument("--repetitions", type=int, help="how often to kill it (5)")
    return flags


if __name__ == "__main__":
    sys.exit(main())
