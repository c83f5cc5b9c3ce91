"""Buffered asynchronous learning against rounds: time to accuracy under client delays.

``python -m experiments.asynchronous --data FOLDER``: 30 clients in flight. Synchronous: a round
waits for all 30. Quorum: for the first 23, the others' work is lost. FedBuff (Nguyen et al. 2022):
every tenth arrival makes a version, whoever is back is replaced at once, and an update that was
trained s versions ago weighs (1 + s)^-1/2. Delays are drawn anew for each trip. Learning rates
are chosen for each method and delay on one seed, the figures are those of others.

"Gives up": a trip that lasts three times the median is given up and its place is taken by another
client, as a quorum does with those whom it does not wait for: where tails are heavy, those who are
not coming back else hold most of the places.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from client_worker import partition
from client_worker.models import mlp
from coordinator_worker.rounds.policy import Policy
from experiments.command import run
from experiments.data import Images, fashion_mnist
from experiments.federation import Federation
from experiments.flight import DELAYS, Flight, History, Recorder, endless, order_statistic
from experiments.pictures import Panel
from experiments.report import Findings, Table
from warren_shared.observability.progress import through

Rates = tuple[float, float]
CLIENTS, IN_FLIGHT, QUORUM, BUFFER = 100, 30, 23, 10
LAYERS: Final = (784, 64, 10)
POLICY: Final = Policy(quorum=BUFFER, max_staleness=10**6, staleness_exponent=0.5)
WANTED: Final = {"half-normal": (3.3, 1.8), "Pareto(1.2)": (10.0, 1.2)}
DRAWS: Final = 201  # of a synchronous run's delays; the learning does not depend on them


@dataclass(frozen=True)
class Size:
    """How much of it is done. ``rates``: (client's, server's) learning rates to choose from."""

    train: int
    test: int
    targets: Mapping[str, float]  # by how the images are dealt out
    trips: int
    seeds: Sequence[int]
    rates: Sequence[tuple[float, float]]


FULL: Final = Size(
    20_000, 2_000, {"IID": 0.80, "Dirichlet(0.5)": 0.80}, 2_000, (1, 2, 3, 4, 5),
    ((0.1, 1.0), (0.1, 1.5), (0.1, 2.0)),
)  # fmt: skip
SHORT: Final = Size(2_000, 300, {"IID": 0.5}, 300, (1,), ((0.1, 1.5),))
ALPHA: Final = 0.5
METHODS: Final = (
    "synchronous", f"quorum {QUORUM} of {IN_FLIGHT}", f"FedBuff K={BUFFER}", "FedBuff, gives up",
)  # fmt: skip
PATIENCE: Final = 3.0  # times the median delay


@dataclass(frozen=True)
class Stage:
    """Where the methods meet: images, how they are dealt out, and the accuracy to be reached."""

    images: Images
    size: Size
    split: str

    @property
    def target(self) -> float:
        """The accuracy that ends a run."""
        return self.size.targets[self.split]

    def federation(self, rates: tuple[float, float], seed: int, aggregator: str) -> Federation:
        """All clients and their coordinator, with the clients' and the server's learning rate."""
        y, optimizer = self.images.y, f"sgd:learning_rate={rates[1]}"
        iid = self.split == "IID"
        parts = (
            partition.iid(len(y), CLIENTS, seed)
            if iid
            else partition.dirichlet(y, CLIENTS, ALPHA, seed)
        )
        return Federation.of(
            mlp(LAYERS, batch_size=10, seed=seed), self.images, parts, rates[0],
            aggregator=aggregator, server_optimizer=optimizer,
        )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Seconds, trips and versions to the target of one run (infinite if it was not reached)."""

    seconds: float
    trips: float
    versions: float
    history: History


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(data: Path, short: bool) -> Findings:
    """Every method under every delay."""
    size = SHORT if short else FULL
    images = fashion_mnist(data, size.train, size.test)
    rows: list[list[str | float | None]] = []
    panels: list[Panel] = []
    reached: dict[str, str] = {}
    for split in size.targets:
        stage = Stage(images, size, split)
        learned = {cohort: best_rounds(stage, cohort) for cohort in (IN_FLIGHT, QUORUM)}
        for kind in through(DELAYS, split, len(DELAYS)):
            compared = _compared(stage, kind, learned)
            seconds = [median(run.seconds for run in runs) for _, runs in compared]
            for method, (rates, runs), took in zip(METHODS, compared, seconds, strict=True):
                rows.append([f"{split}, {kind}, {method}", f"{rates[0]:g}, {rates[1]:g}", took,
                             median(run.trips for run in runs),
                             median(run.versions for run in runs), took / seconds[2]])  # fmt: skip
            goal = WANTED.get(kind)
            wanted = f" (wanted {goal[0]} × and {goal[1]} ×)" if goal else ""
            reached[f"{split}, {kind}{wanted}"] = (
                f"{seconds[0] / seconds[2]:.1f} × faster than synchronous,"
                f" {seconds[1] / seconds[2]:.2f} × than the quorum; giving up"
                f" {seconds[0] / seconds[3]:.1f} × and {seconds[1] / seconds[3]:.2f} ×"
            )
            lines = {
                method: (runs[0].history.times, runs[0].history.accuracies)
                for method, (_, runs) in zip(METHODS, compared, strict=True)
            }
            panels.append(Panel(f"{split}, {kind}", "virtual time", "test accuracy", lines,
                                stage.target, x_logarithmic=True))  # fmt: skip
    columns = ["split, delay, method", "rates: client, server", "time", "trips", "versions",
               "× FedBuff"]  # fmt: skip
    return Findings(
        "asynchronous", "Time to accuracy with rounds, a quorum and a buffer",
        {
            "data": f"Fashion-MNIST, {size.train} training and {size.test} test images, dealt to"
            f" {CLIENTS} clients",
            "model": "-".join(map(str, LAYERS)), "local": "E=1, B=10",
            "in flight": IN_FLIGHT, "rates tried (client, server)": [list(r) for r in size.rates],
            "seeds": f"rates 0, figures {list(size.seeds)}",
        },
        [Table(f"To {told(size.targets)} test accuracy, medians", columns, rows)], panels, reached,
    )  # fmt: skip


def told(targets: Mapping[str, float]) -> str:
    """``82% (IID) / 80% (Dirichlet(0.5))``."""
    return " / ".join(f"{target:.0%} ({split})" for split, target in targets.items())


def _compared(
    stage: Stage, kind: str, learned: Mapping[int, tuple[Rates, list[History]]]
) -> list[tuple[Rates, list[Outcome]]]:
    """Rates and runs of each of METHODS under one kind of delay."""
    found = [
        (rates, [_timed(history, kind, cohort, stage.target) for history in histories])
        for cohort, (rates, histories) in learned.items()
    ]
    typical = float(np.median(DELAYS[kind](np.random.default_rng(8), (999,))))
    for patience in (np.inf, PATIENCE * typical):
        tried = {rates: buffered(stage, rates, kind, 0, patience) for rates in stage.size.rates}
        needed = {rates: _needed(history, stage.target) for rates, history in tried.items()}
        chosen = min(needed, key=needed.__getitem__)
        runs = [buffered(stage, chosen, kind, seed, patience) for seed in stage.size.seeds]
        found.append((chosen, [_outcome(history, stage.target) for history in runs]))
    return found


def best_rounds(stage: Stage, cohort: int) -> tuple[Rates, list[History]]:
    """The rates with which rounds of ``cohort`` need fewest, and the histories of other seeds."""
    tried = {rates: rounds(stage, rates, cohort, 0) for rates in stage.size.rates}
    chosen = min(tried, key=lambda rates: _needed(tried[rates], stage.target))
    return chosen, [rounds(stage, chosen, cohort, seed) for seed in stage.size.seeds]


def _needed(history: History, target: float) -> tuple[float, float]:
    place = history.reaches(target)
    return (np.inf if place is None else history.times[place], -max(history.accuracies))


def rounds(stage: Stage, rates: Rates, cohort: int, seed: int) -> History:
    """Synchronous rounds of ``cohort`` random clients; a round takes one second."""
    learning = stage.federation(rates, seed, "uniform")
    clients, coordinator = learning.clients, learning.coordinator
    rng, recorder = np.random.default_rng(seed + 100), Recorder()
    for number in range(1, stage.size.trips // cohort + 1):
        chosen = rng.choice(CLIENTS, cohort, replace=False)
        updates = [clients[who].train(coordinator.weights) for who in chosen]
        coordinator.send(coordinator.aggregate(updates))
        recorder.add(number, number * IN_FLIGHT, number, learning.accuracy())
        if recorder.recent() >= stage.target:
            break
    return recorder.history()


def _timed(history: History, kind: str, quorum: int, target: float) -> Outcome:
    """A round lasts until the ``quorum``-th of 30 is back: the run's median over many draws.

    Who is back first is a matter of chance, so the learning is that of a random cohort.
    """
    rng = np.random.default_rng(7)
    shape = (DRAWS, len(history.times))
    lasted = order_statistic(DELAYS[kind], rng, IN_FLIGHT, quorum, shape).cumsum(axis=1)
    times = np.median(lasted, axis=0).tolist()
    return _outcome(History(times, history.trips, history.versions, history.accuracies), target)


def _outcome(history: History, target: float) -> Outcome:
    place = history.reaches(target)
    if place is None:
        return Outcome(np.inf, np.inf, np.inf, history)
    return Outcome(history.times[place], history.trips[place], history.versions[place], history)


def buffered(stage: Stage, rates: Rates, kind: str, seed: int, patience: float = np.inf) -> History:
    """FedBuff in virtual time, evaluated every 30 trips as the rounds are.

    A trip that is not over after ``patience`` is given up.
    """
    learning = stage.federation(rates, seed, "fedbuff")
    clients, coordinator = learning.clients, learning.coordinator
    rng, recorder, flight = np.random.default_rng(seed + 100), Recorder(), Flight()
    who, version = endless(rng, CLIENTS), 0

    def start() -> None:
        client, delay = next(who), float(DELAYS[kind](rng, ())[()])
        late = delay > patience
        update = None if late else clients[client].train(coordinator.weights)
        flight.start(client, min(delay, patience), version, update)

    for _ in range(IN_FLIGHT):
        start()
    while version * BUFFER < stage.size.trips:
        buffer = coordinator.begin()
        for place in range(1, BUFFER + 1):
            while (update := (trip := flight.land()).update) is None:
                start()
            buffer.add(update, POLICY.staleness_weight(version, trip.version))
            if place < BUFFER:
                start()
        coordinator.send(coordinator.aggregate([buffer]))
        version += 1
        start()
        if version * BUFFER % IN_FLIGHT == 0:
            recorder.add(flight.now, version * BUFFER, version, learning.accuracy())
            if recorder.recent() >= stage.target:
                break
    return recorder.history()


if __name__ == "__main__":
    sys.exit(main())
