"""A federation under measurement: a private broker, a coordinator, clients, and what they cost."""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.harness.matrix import Case
from benchmarks.harness.processes import Worker, WorkerFailed, cpu_s, peak_rss_bytes, worker
from broker_config.declaration.federation import Federation
from broker_config.node import lifecycle
from broker_config.node.record import Node
from broker_config.secrets.bundles import bundle_path
from coordinator_worker.storage import checkpoint

WARM_UP: Final = 2  # rounds: buffers are made, and clients that started late catch up
TOLERANCE: Final = 1e-5  # relative, of float32 sums
ENCODED_TOLERANCE: Final = 0.3  # an encoded 1 is off by .02, and ten of them share a block
CLIENT_ENDS_S: Final = 30.0


class LedgerWrong(RuntimeError):
    """The final model does not hold each client's contributions as often as they were made."""


@dataclass(frozen=True)
class Costs:
    """Processor seconds of each side so far."""

    coordinator: float
    clients: float
    broker: float

    def __sub__(self, other: "Costs") -> "Costs":
        return Costs(
            self.coordinator - other.coordinator,
            self.clients - other.clients,
            self.broker - other.broker,
        )


@dataclass(frozen=True)
class Run:
    """What a run cost: seconds of each round after the warm-up, and over ``cpu_rounds`` of them
    the processor seconds.
    """

    case: Case
    round_seconds: list[float]
    coordinator_rss_bytes: int
    cpu: Costs
    cpu_rounds: int

    def per_gb(self) -> dict[str, float]:
        """Processor seconds of each side for each GB (10^9 bytes) that passed."""
        gigabytes = self.case.bytes_a_round * self.cpu_rounds / 1e9
        return {f"{side}_cpu_s_per_gb": spent / gigabytes for side, spent in vars(self.cpu).items()}


@dataclass(frozen=True)
class Stand:
    """A running broker for one federation, in a folder that goes with it.

    ``without`` names settings that bundles shall not have.
    """

    folder: Path
    broker: Node
    up_seconds: float
    without: tuple[str, ...] = ()

    def bundle(self, user: str) -> Path:
        """What ``user`` logs in with."""
        whole = bundle_path(self.broker.home, user)
        if not self.without:
            return whole
        lines = whole.read_text().splitlines(keepends=True)
        part = self.folder / f"{user}.env"
        part.write_text("".join(line for line in lines if not line.startswith(self.without)))
        return part


@contextmanager
def stand(federation: Federation, tls: str = "") -> Iterator[Stand]:
    """A private node for ``federation``, stopped and deleted afterwards.

    ``tls`` is "", "tls" or "mutual".
    """
    with tempfile.TemporaryDirectory(prefix="warren-bench-") as folder:
        home = Path(folder) / "broker"
        try:
            begin = time.monotonic()
            running = lifecycle.up(home, federation, tls=tls)
            yield Stand(Path(folder), running, time.monotonic() - begin)
        finally:
            lifecycle.down(home)


def run(
    on: Stand, case: Case, clients: Sequence[Worker], rounds: int, timeout_s: float, *more: str
) -> Run:
    """A coordinator's run of ``rounds`` rounds with ``clients``, which are started already.

    ``more`` are further arguments of the coordinator. Checks the ledger; of encoded updates
    (``--uplink``) only about, since each is known but for an error.

    Raises:
        WorkerFailed: the coordinator or a client failed, or it took longer than ``timeout_s``.
        LedgerWrong: a fast wrong round is worth nothing.
    """
    folder = on.folder / "checkpoint"
    goal = ("--quorum", str(case.clients), "--rounds", str(rounds))
    arguments = (*goal, "--checkpoint-dir", str(folder), *more)
    log = on.folder / "coordinator.log"
    times: dict[int, float] = {}
    costs: dict[int, Costs] = {}
    peak = 0
    bundle = on.bundle("coordinator")
    with worker("coordinator-worker", bundle, log, *arguments, followed=True) as coordinator:
        try:
            for record in coordinator.records(timeout_s):
                if record.get("action") == "model_published":
                    version = int(record["version"])
                    times[version] = float(record["time"])
                    costs[version] = _costs(coordinator, clients, on)
                    peak = max(peak, peak_rss_bytes(coordinator.process.pid))
        except WorkerFailed:
            for client in clients:
                client.check()  # more likely the cause than the coordinator that waited for it
            raise
    _check_all_ended(clients)
    if "--privacy" not in more:
        check_ledger(folder, case, rounds, encoded="--uplink" in more)
    else:  # a noised ledger tells nothing
        check_noised(folder, rounds)
    first, last = WARM_UP, rounds - 1  # after the last the processes may be gone already
    return Run(
        case,
        [times[version] - times[version - 1] for version in range(WARM_UP + 1, rounds + 1)],
        peak,
        costs[last] - costs[first],
        last - first,
    )


def _costs(coordinator: Worker, clients: Sequence[Worker], on: Stand) -> Costs:
    return Costs(
        cpu_s(coordinator.process.pid),
        sum(cpu_s(client.process.pid) for client in clients),
        cpu_s(on.broker.pid),
    )


def _check_all_ended(clients: Sequence[Worker]) -> None:
    until = time.monotonic() + CLIENT_ENDS_S
    for client in clients:
        client.done(max(0.1, until - time.monotonic()))


def check_ledger(folder: Path, case: Case, rounds: int, *, encoded: bool = False) -> None:
    """Raise LedgerWrong unless the final model reads ``rounds / clients`` at each client's index.

    And zero at the first index that is nobody's. ``encoded`` ones about so.
    """
    state = checkpoint.load(folder)
    if state is None or state.version != rounds:
        raise WorkerFailed(f"the run ended at {state and state.version}, not at {rounds}")
    weights = state.weights[0]
    expected = rounds / case.clients
    tolerance = ENCODED_TOLERANCE if encoded else TOLERANCE
    for index in range(case.clients):
        if not math.isclose(weights[index], expected, rel_tol=tolerance):
            raise LedgerWrong(f"client {index} counts {weights[index]}, not {expected}")
    if not encoded and weights[case.clients :].any():
        raise LedgerWrong("somebody counted at an index that is nobody's")


def check_noised(folder: Path, rounds: int) -> None:
    """Raise LedgerWrong unless all of ``rounds`` rounds were noised."""
    state = checkpoint.load(folder)
    done = state.privacy.done if state is not None and state.privacy is not None else None
    if done != rounds:
        raise LedgerWrong(f"{done} of {rounds} rounds were noised")


@contextmanager
def client_workers(on: Stand, case: Case) -> Iterator[list[Worker]]:
    """Real ``client-worker`` processes ``c0``, ``c1``, …, each counting at its own index."""
    task = ("--task", "benchmarks.tasks:counting", "--size", str(case.size_bytes // 4))
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                worker(
                    "client-worker",
                    on.bundle(name),
                    on.folder / f"{name}.log",
                    *(*task, "--index", str(number)),
                )
            )
            for number, name in enumerate(names(case))
        ]


def names(case: Case) -> tuple[str, ...]:
    """The client ids of a case's named clients."""
    return tuple(f"c{number}" for number in range(case.clients))
