"""Buffered asynchronous learning against rounds: time to accuracy under client delays.

``python -m experiments.asynchronous --data FOLDER``: 30 clients in flight. Synchronous: a round
waits for all 30. Quorum: for the first 23, the others' work is lost. FedBuff (Nguyen et al. 2022):
every tenth arrival makes a version, whoever is back is replaced at once, and an update that was
trained s versions ago weighs (1 + s)^-1/2. Delays are drawn anew for each trip. Learning rates
are chosen for each method and delay on one seed, the figures are those of others.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from coordinator_worker.quorum import Policy
from experiments import partition
from experiments.arithmetic import Mlp
from experiments.command import run
from experiments.data import Images, fashion_mnist
from experiments.federation import Federation
from experiments.flight import DELAYS, Flight, History, Recorder, endless, order_statistic
from experiments.pictures import Panel
from experiments.report import Findings, Table

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
    target: float
    trips: int
    seeds: Sequence[int]
    rates: Sequence[tuple[float, float]]


FULL: Final = Size(
    20_000, 3_000, 0.80, 3_000, (1, 2, 3), tuple(product((0.05, 0.1), (1.0, 1.5, 2.0, 3.0)))
)
SHORT: Final = Size(2_000, 500, 0.5, 600, (1,), ((0.1, 1.5),))
ALPHA: Final = 0.5


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
    panels, reached = [], {}
    rounds = {cohort: _rounds(images, size, cohort) for cohort in (IN_FLIGHT, QUORUM)}
    for kind in DELAYS:
        medians, lines = {}, {}
        for method in ("synchronous", "quorum 23 of 30", "FedBuff K=10"):
            if method == "FedBuff K=10":
                rate, outcomes = _buffered(images, size, kind)
            else:
                cohort = IN_FLIGHT if method == "synchronous" else QUORUM
                rate, histories = rounds[cohort]
                outcomes = [_timed(found, kind, cohort, size.target) for found in histories]
            medians[method] = median(outcome.seconds for outcome in outcomes)
            history = outcomes[0].history
            lines[method] = (history.times, history.accuracies)
            rows.append([f"{kind}, {method}", f"{rate[0]:g}, {rate[1]:g}", medians[method],
                         median(each.trips for each in outcomes),
                         median(each.versions for each in outcomes)])  # fmt: skip
        fast = medians["FedBuff K=10"]
        ratios = [medians[m] / fast for m in ("synchronous", "quorum 23 of 30")]
        rows[-3] += [ratios[0]]
        rows[-2] += [ratios[1]]
        rows[-1] += [1.0]
        goal = WANTED.get(kind)
        wanted = f" (wanted {goal[0]} × and {goal[1]} ×)" if goal else ""
        reached[f"{kind}{wanted}"] = (
            f"{ratios[0]:.1f} × faster than synchronous, {ratios[1]:.2f} × than the quorum"
        )
        panels.append(Panel(kind, "virtual time", "test accuracy", lines, size.target, True))
    columns = ["delay, method", "rates: client, server", "time", "trips", "versions", "× FedBuff"]
    return Findings(
        "asynchronous", "Time to accuracy with rounds, a quorum and a buffer",
        {
            "data": f"Fashion-MNIST, {size.train} training and {size.test} test images, dealt to"
            f" {CLIENTS} clients by Dirichlet({ALPHA})",
            "model": "-".join(map(str, LAYERS)), "local": "E=1, B=10",
            "in flight": IN_FLIGHT, "target": size.target,
            "rates tried (client, server)": [list(pair) for pair in size.rates],
            "seeds": f"rates 0, figures {list(size.seeds)}",
        },
        [Table(f"To {size.target:.0%} test accuracy, medians", columns, rows)], panels, reached,
    )  # fmt: skip


def federation(
    images: Images, rates: tuple[float, float], seed: int, aggregator: str
) -> Federation:
    """All clients and their coordinator, with the client's and the server's learning rate."""
    model = Mlp(LAYERS, seed=seed)
    parts = partition.dirichlet(images.y, CLIENTS, ALPHA, seed)
    optimizer = f"sgd:learning_rate={rates[1]}"
    return Federation.of(
        model, images, parts, rates[0], aggregator=aggregator, server_optimizer=optimizer
    )


def _rounds(images: Images, size: Size, cohort: int) -> tuple[tuple[float, float], list[History]]:
    """The rates with which rounds of ``cohort`` need fewest, and the histories of other seeds."""
    tried = {rates: rounds(images, size, rates, cohort, 0) for rates in size.rates}
    chosen = min(tried, key=lambda rates: _needed(tried[rates], size.target))
    return chosen, [rounds(images, size, chosen, cohort, seed) for seed in size.seeds]


def _needed(history: History, target: float) -> tuple[float, float]:
    place = history.reaches(target)
    return (np.inf if place is None else history.times[place], -max(history.accuracies))


def rounds(
    images: Images, size: Size, rates: tuple[float, float], cohort: int, seed: int
) -> History:
    """Synchronous rounds of ``cohort`` random clients; a round takes one second."""
    learning = federation(images, rates, seed, "uniform")
    clients, coordinator = learning.clients, learning.coordinator
    rng, recorder = np.random.default_rng(seed + 100), Recorder()
    for number in range(1, size.trips // cohort + 1):
        chosen = rng.choice(CLIENTS, cohort, replace=False)
        updates = [clients[who].train(coordinator.weights) for who in chosen]
        coordinator.send(coordinator.aggregate(updates))
        recorder.add(number, number * IN_FLIGHT, number, learning.accuracy())
        if recorder.recent() >= size.target:
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


def _buffered(images: Images, size: Size, kind: str) -> tuple[tuple[float, float], list[Outcome]]:
    tried = {rates: buffered(images, size, rates, kind, 0) for rates in size.rates}
    chosen = min(tried, key=lambda rates: _needed(tried[rates], size.target))
    found = [buffered(images, size, chosen, kind, seed) for seed in size.seeds]
    return chosen, [_outcome(history, size.target) for history in found]


def buffered(
    images: Images, size: Size, rates: tuple[float, float], kind: str, seed: int
) -> History:
    """FedBuff in virtual time, evaluated every 30 trips as the rounds are."""
    learning = federation(images, rates, seed, "fedbuff")
    clients, coordinator = learning.clients, learning.coordinator
    rng, recorder, flight = np.random.default_rng(seed + 100), Recorder(), Flight()
    who, version = endless(rng, CLIENTS), 0

    def start() -> None:
        client, delay = next(who), float(DELAYS[kind](rng, ())[()])
        flight.start(client, delay, version, clients[client].train(coordinator.weights))

    for _ in range(IN_FLIGHT):
        start()
    while version * BUFFER < size.trips:
        buffer = coordinator.begin()
        for place in range(1, BUFFER + 1):
            trip = flight.land()
            buffer.add(trip.update, POLICY.staleness_weight(version, trip.version))
            if place < BUFFER:
                start()
        coordinator.send(coordinator.aggregate([buffer]))
        version += 1
        start()
        if version * BUFFER % IN_FLIGHT == 0:
            recorder.add(flight.now, version * BUFFER, version, learning.accuracy())
            if recorder.recent() >= size.target:
                break
    return recorder.history()


if __name__ == "__main__":
    sys.exit(main())
