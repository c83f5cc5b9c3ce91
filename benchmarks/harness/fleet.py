"""A run with a fleet of light clients: theirs are few processes, everything else is real."""

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.harness.federation import Run, Stand, run, stand
from benchmarks.harness.matrix import Case
from benchmarks.harness.processes import Worker, last_line
from benchmarks.harness.processes import python as started
from broker_config.declaration.federation import Federation, Fleet

FLEET: Final = "light"
MAX_A_PROCESS: Final = 250


@dataclass(frozen=True)
class FleetRun:
    """What a run cost, the seconds that getting a broker with all mailboxes took, and by round the
    seconds from the last update's being sent to the last client's having the model of it.
    """

    run: Run
    broker_up_s: float
    latencies_s: list[float]


def measure(case: Case, rounds: int, timeout_s: float) -> FleetRun:
    """Run ``rounds`` rounds on a broker of their own; the first ones are warm-up.

    Raises:
        WorkerFailed: somebody failed, or it took longer than ``timeout_s`` seconds.
        LedgerWrong: not every update counted once.
    """
    fleet = Fleet(FLEET, case.clients)
    federation = Federation(clients=(), fleets=(fleet,), model_bytes=case.size_bytes)
    with stand(federation) as on:
        initial = on.folder / "initial.npz"
        np.savez(initial, np.zeros(case.size_bytes // 4, np.float32))
        with _light_clients(on, case) as clients:
            done = run(on, case, clients, rounds, timeout_s, "--initial-model", str(initial))
            return FleetRun(done, on.up_seconds, _latencies(clients, rounds))


@contextmanager
def _light_clients(on: Stand, case: Case) -> Iterator[list[Worker]]:
    processes = math.ceil(case.clients / MAX_A_PROCESS)
    share = math.ceil(case.clients / processes)
    with ExitStack() as stack:
        workers = []
        for first in range(0, case.clients, share):
            count = min(share, case.clients - first)
            told = (str(on.bundle(FLEET)), FLEET, *map(str, (first, count, case.size_bytes)))
            log = on.folder / f"light-{first}.log"
            workers.append(
                stack.enter_context(started("benchmarks.clients.light_client", log, *told))
            )
        yield workers


def _latencies(clients: list[Worker], rounds: int) -> list[float]:
    told = [json.loads(last_line(client.log, characters=None)) for client in clients]

    def last(what: str, version: int) -> float:
        return max(float(each[what][str(version)]) for each in told)

    return [last("had", version + 1) - last("sent", version) for version in range(2, rounds)]
