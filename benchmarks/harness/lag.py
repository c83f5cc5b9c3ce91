"""A run in which one client of a few is slow, or dead, from some round on."""

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.harness.federation import WARM_UP, Stand, names
from benchmarks.harness.matrix import Case
from benchmarks.harness.processes import Worker, WorkerFailed, worker

CASE: Final = Case(4, 100_000)
TRAINING_S: Final = 0.1
SLOWNESS: Final = 10
MAX_STALENESS: Final = 3 * SLOWNESS  # a round lasts no less than a third of a training
TIMEOUT_S: Final = 120.0
STRAGGLER: Final = names(CASE)[-1]


@dataclass(frozen=True)
class Situation:
    """How many updates close a round, and what is the matter with the last client."""

    name: str
    quorum: int
    slow: bool = False
    dead: bool = False

    @property
    def straggler_s(self) -> float:
        """How long the last client trains."""
        return TRAINING_S * (SLOWNESS if self.slow else 1)


@dataclass(frozen=True)
class Lap:
    """Seconds of a round, over ``rounds`` rounds one after the other.

    ``counted``: updates of the last client in them; ``lost``: those that were too late to count.
    """

    seconds: float
    rounds: int
    counted: int
    lost: int


@contextmanager
def clients(on: Stand) -> Iterator[list[Worker]]:
    """Client processes that serve run after run; each run tells the last how long to train."""
    task = ("--stay", "--task", "benchmarks.tasks:waiting", "--size", str(CASE.size_bytes // 4))
    with ExitStack() as stack:
        found = []
        for number, name in enumerate(names(CASE)):
            told = [*task, "--index", str(number)]
            if name != STRAGGLER:
                told += ["--seconds", str(TRAINING_S)]
            log = on.folder / f"{name}.log"
            found.append(stack.enter_context(worker("client-worker", on.bundle(name), log, *told)))
        yield found


def lap(
    on: Stand, number: int, situation: Situation, workers: Sequence[Worker], rounds: int
) -> Lap:
    """Measure ``rounds`` rounds of a run of its own, which is the ``number``-th on this stand.

    Raises:
        WorkerFailed: somebody failed, or it took longer than ``TIMEOUT_S``.
    """
    folder = on.folder / f"checkpoint-{number}"
    initial = on.folder / "initial.npz"
    np.savez(initial, np.zeros(CASE.size_bytes // 4, np.float32))
    told = {
        "--quorum": situation.quorum,
        "--max-staleness": MAX_STALENESS,
        "--config": f"seconds={situation.straggler_s}",
        "--initial-model": initial,
        "--checkpoint-dir": folder,
    }
    words = [str(word) for pair in told.items() for word in pair]
    log, bundle = on.folder / f"coordinator-{number}.log", on.bundle("coordinator")
    watched = _Lap(situation, rounds, workers[-1])
    skipped = _too_late(workers[-1])
    try:
        with worker("coordinator-worker", bundle, log, *words, followed=True) as coordinator:
            for record in coordinator.records(TIMEOUT_S):
                if watched.feed(record):
                    break
    except WorkerFailed:
        for client in workers:
            client.check()  # more likely the cause than the coordinator that waited for it
        raise
    finally:
        workers[-1].process.send_signal(signal.SIGCONT)
    return watched.result(_too_late(workers[-1]) - skipped)


class _Lap:
    """A run as its coordinator's log tells it.

    It is measured from the second round after everybody has contributed: whoever was still busy
    with the run before is back by then, and what the dead one had sent is used up.
    """

    def __init__(self, situation: Situation, rounds: int, straggler: Worker) -> None:
        self._situation, self._rounds, self._straggler = situation, rounds, straggler
        self._contributed: set[str] = set()
        self._everybody: int | None = None  # version by which all had contributed
        self._begin: float | None = None
        self._end = 0.0
        self._counted = self._stale = 0

    def feed(self, record: Mapping[str, Any]) -> bool:
        """Take a record of the log; whether it was the last that is needed."""
        match record["action"]:
            case "update_accepted":
                self._contributed.add(record["client"])
                if self._begin is not None and record["client"] == STRAGGLER:
                    self._counted += 1
            case "update_rejected":
                self._stale += record["reason"] == "stale"
            case "model_published":
                return self._published(int(record["version"]), float(record["time"]))
        return False

    def _published(self, version: int, time: float) -> bool:
        if self._everybody is None:
            if len(self._contributed) == CASE.clients:
                self._everybody = version
                if self._situation.dead:
                    self._straggler.process.send_signal(signal.SIGSTOP)
        elif version == self._everybody + WARM_UP:
            self._begin = time
        self._end = time
        return self._everybody is not None and version == self._everybody + WARM_UP + self._rounds

    def result(self, skipped: int) -> Lap:
        """What was measured; ``skipped`` updates the last client did not even send."""
        if self._begin is None:
            raise WorkerFailed("the run ended before it was measured")
        seconds = (self._end - self._begin) / self._rounds
        return Lap(seconds, self._rounds, self._counted, self._stale + skipped)


def _too_late(client: Worker) -> int:
    """How many of its updates a client itself has found too late so far."""
    lines = [line for line in client.log.read_text().splitlines() if line.startswith("{")]
    return sum(json.loads(line)["action"] == "update_too_late" for line in lines)
