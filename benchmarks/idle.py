"""What waiting costs: the processor time of an idle federation, and how soon it is awake."""

import time
from statistics import median
from typing import Final

from benchmarks.harness import fleet
from benchmarks.harness.federation import client_workers, names, stand
from benchmarks.harness.matrix import Case
from benchmarks.harness.processes import WorkerFailed, cpu_s, worker
from benchmarks.reporting.rows import Row
from broker_config.declaration.federation import Federation

SMALL: Final = Case(2, 1000)
ROUNDS: Final = 30
TIMEOUT_S: Final = 120.0
SETTLE_S: Final = 1.0


def rows(seconds: float = 10.0) -> list[Row]:
    """The latency of a small model, and the load of a coordinator that waits for ``seconds``."""
    return [latency(), idle(seconds)]


def latency() -> Row:
    """Milliseconds from the quorum's last update being sent to all clients having the model."""
    found = [1000 * each for each in fleet.measure(SMALL, ROUNDS, TIMEOUT_S).latencies_s]
    return Row(
        case=f"{SMALL}: last update sent to model in hand",
        unit="ms",
        ours=median(found),
        spread=(min(found), max(found)),
        more={"rounds": len(found)},
    )


def idle(seconds: float) -> Row:
    """Percent of a core that a coordinator takes which waits for a third client's update."""
    clients_of_it = (*names(SMALL), "who-never-comes")
    federation = Federation(clients=clients_of_it, fleets=(), model_bytes=SMALL.size_bytes)
    with stand(federation) as on, client_workers(on, SMALL) as clients:
        log, bundle = on.folder / "coordinator.log", on.bundle("coordinator")
        quorum = str(SMALL.clients + 1)
        arguments = ("--quorum", quorum, "--checkpoint-dir", str(on.folder / "checkpoint"))
        with worker("coordinator-worker", bundle, log, *arguments, followed=True) as coordinator:
            missing = SMALL.clients
            for record in coordinator.records(TIMEOUT_S):
                missing -= record.get("action") == "update_accepted"
                if not missing:
                    break
            else:
                raise WorkerFailed("the coordinator ended before it was idle")
            time.sleep(SETTLE_S)
            pids = [coordinator.process.pid, on.broker.pid, clients[0].process.pid]
            before = [cpu_s(pid) for pid in pids]
            time.sleep(seconds)
            shares = [(cpu_s(pid) - b) / seconds for pid, b in zip(pids, before, strict=True)]
    return Row(
        case="idle coordinator",
        unit="% of a core",
        ours=100 * shares[0],
        limit=1.0,
        limit_name="1 %",
        more={
            "broker_percent": 100 * shares[1],
            "client_percent": 100 * shares[2],
            "seconds": seconds,
        },
    )
