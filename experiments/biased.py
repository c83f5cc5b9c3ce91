"""Slow clients with labels of their own: who learns them, and in what time.

``python -m experiments.biased --data FOLDER``: 20 fast clients hold the classes 0 to 6, 10 slow
ones, whose trips take ten times as long, the classes 7 to 9. All 30 train all the time. A buffer
takes what comes, which is mostly the fast clients' work, and discounting stale updates makes that
worse. Asked for: within two points of synchronous rounds in at most a third of their time.

The methods that correct it:

- *by participation*: an update of client k weighs (all arrivals) / (N x arrivals of k), so that in
  the long run every client moves the model as far (inverse probability weighting); it needs one
  number for each client. *Averaged* is the running mean of the model's versions (Polyak and
  Juditsky 1992): a slow client's large steps make the newest version restless.
- *newest of each*: every version moves by the mean of all clients' newest deltas (MIFA, Gu et al.
  2021), *calibrated*: by that of the versions before, corrected by what the buffer changes
  (CA2FL, Wang et al. 2024). Both remember a delta of every client.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from client_worker.models import mlp
from coordinator_worker.rounds.policy import Policy
from experiments.command import run
from experiments.data import Images, fashion_mnist
from experiments.federation import Federation
from experiments.flight import Flight, History, Recorder, Trip
from experiments.pictures import Panel
from experiments.report import Findings, Table
from experiments.vectors import flat, shaped
from warren_shared.observability.progress import through
from warren_shared.tensors.update import Update

Array = np.ndarray[Any, Any]
FAST, SLOW, BUFFER, HELD = 20, 10, 10, 200
CLIENTS: Final = FAST + SLOW
LAYERS: Final = (784, 64, 10)
SLOWNESS, FIRST_SLOW_CLASS = 10.0, 7
EVALUATIONS, LAST = 50, 5
KEPT: Final = 0.98  # of the averaged model from version to version


@dataclass(frozen=True)
class Method:
    """A way to learn. ``weigh`` makes it anew for every run."""

    name: str
    weigh: "Callable[[], Weigh]"
    rates: Sequence[tuple[float, float]]
    averaged: bool = False


@dataclass(frozen=True)
class Size:
    """How much of it is done."""

    rounds: int
    test: int
    delays: Sequence[str]


Weigh = Callable[[int, Trip], tuple[Update, float]]  # version, trip -> what to fold, its weight
FULL: Final = Size(40, 2_000, ("half-normal", "steady"))
SHORT: Final = Size(1, 300, ("half-normal",))


def brought(trip: Trip) -> Update:
    """The update of a trip; nobody gives up here."""
    if trip.update is None:
        raise ValueError(f"client {trip.client} came back without an update")
    return trip.update


def discounted(exponent: float) -> Weigh:
    """FedBuff: an update of staleness s weighs (1 + s)^-exponent."""
    policy = Policy(quorum=BUFFER, max_staleness=10**9, staleness_exponent=exponent)
    return lambda version, trip: (
        brought(trip), policy.staleness_weight(version, trip.version),
    )  # fmt: skip


def by_participation() -> Weigh:
    """Inverse probability: clients who are rarely back weigh more, each its share in the end."""
    arrivals = np.ones(CLIENTS)  # as if all had been here once, or the first would weigh nothing

    def weigh(_: int, trip: Trip) -> tuple[Update, float]:
        arrivals[trip.client] += 1
        return brought(trip), float(arrivals.sum() / (CLIENTS * arrivals[trip.client]))

    return weigh


def newest_of_each(calibrated: bool) -> Weigh:
    """Memory of every client's newest delta; their sum is kept, not added up anew.

    Folded is what one arrival contributes to the buffer's mean, so a buffer of K of them moves the
    model by the mean of all newest deltas, or with ``calibrated`` by K^-1 sum (new - old) + mean.
    """
    newest: dict[int, Array] = {}
    total: list[Array] = []

    def weigh(_: int, trip: Trip) -> tuple[Update, float]:
        update = brought(trip)
        delta = flat(update.delta)
        old = newest.get(trip.client, np.zeros_like(delta))
        if not total:
            total.append(np.zeros_like(delta))
        mean = total[0] / np.float32(CLIENTS)
        newest[trip.client] = delta
        total[0] += delta - old
        move = mean + delta - old if calibrated else total[0] / np.float32(CLIENTS)
        return Update(shaped(move, update.delta), update.num_examples), 1.0

    return weigh


LARGE: Final = ((0.1, 1.0),)
SMALL: Final = ((0.05, 0.3), (0.05, 0.5))
METHODS: Final = (
    Method("FedBuff, unweighted", partial(discounted, 0.0), LARGE),
    Method("FedBuff, 1/√(1+s)", partial(discounted, 0.5), LARGE),
    Method("by participation", by_participation, SMALL),
    Method("by participation, averaged", by_participation, SMALL, averaged=True),
    Method("newest of each (MIFA)", partial(newest_of_each, calibrated=False), SMALL),
    Method("calibrated (CA2FL)", partial(newest_of_each, calibrated=True), SMALL),
)
SYNCHRONOUS_RATES: Final = ((0.05, 1.5), (0.1, 1.5), (0.1, 1.0))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(data: Path, short: bool) -> Findings:
    """Every method under both kinds of delay."""
    size = SHORT if short else FULL
    images = fashion_mnist(data, 12_000, size.test)
    tables, panels, reached = [], [], {}
    for kind in size.delays:
        found = [best_rounds(images, size, kind, short)]
        deadline = found[0][1].times[-1]
        for method in through(METHODS, kind, len(METHODS)):
            rates = method.rates[:1] if short else method.rates
            tried = [(r, buffered(images, method, r, kind, deadline / 3)) for r in rates]
            found.append(max(tried, key=lambda pair: at_the_end(pair[1])))
        names = ["synchronous", *(method.name for method in METHODS)]
        goal = at_the_end(found[0][1])
        rows = [
            _row(name, rates, history, goal)
            for name, (rates, history) in zip(names, found, strict=True)
        ]
        columns = ["method", "rates: client, server", "time", "trips", "accuracy", "± of the last",
                   "behind synchronous"]  # fmt: skip
        tables.append(
            Table(f"{kind} delays: at the end of a third of the rounds' time", columns, rows)
        )
        near = [
            name
            for name, (_, h) in zip(names[1:], found[1:], strict=True)
            if at_the_end(h) >= goal - 0.02
        ]
        reached[f"{kind}: within 2 points of synchronous ({goal:.3f}) in a third of its time"] = (
            ", ".join(near) or "none"
        )
        lines = {n: (h.times, h.accuracies) for n, (_, h) in zip(names, found, strict=True)}
        panels.append(
            Panel(f"{kind} delays", "virtual time", "test accuracy", lines, goal, True, y_from=0.4)
        )
    return Findings(
        "biased", "Slow clients with labels of their own",
        {
            "data": f"Fashion-MNIST, {HELD} images for each of {FAST} fast clients (classes 0 to 6)"
            f" and {SLOW} slow ones (7 to 9, delays × {SLOWNESS:g}), {size.test} test images",
            "model": "-".join(map(str, LAYERS)), "local": "E=1, B=10", "rounds": size.rounds,
            "buffer": BUFFER, "averaged model keeps": KEPT,
            "rates tried (client, server)": {m.name: [list(r) for r in m.rates] for m in METHODS}
            | {"synchronous": [list(r) for r in SYNCHRONOUS_RATES]},
        },
        tables, panels, reached,
    )  # fmt: skip


def _row(name: str, rates: tuple[float, float], history: History, goal: float) -> list[str | float]:
    last = history.accuracies[-LAST:]
    return [name, f"{rates[0]:g}, {rates[1]:g}", history.times[-1], history.trips[-1],
            at_the_end(history), float(np.std(last)), goal - at_the_end(history)]  # fmt: skip


def at_the_end(history: History) -> float:
    """Mean of the last evaluations' accuracies: the newest one alone may be luck."""
    return float(np.mean(history.accuracies[-LAST:]))


def delay(kind: str, rng: np.random.Generator, client: int) -> float:
    """Seconds of a trip: half-normal, or much the same each time."""
    drawn = abs(rng.normal()) if kind == "half-normal" else rng.uniform(0.8, 1.2)
    return float(drawn) * (SLOWNESS if client >= FAST else 1.0)


def federation(
    images: Images, rates: tuple[float, float], aggregator: str, seed: int = 1
) -> Federation:
    """The fast clients, then the slow ones, and the coordinator."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images.y))
    late = images.y[order] >= FIRST_SLOW_CLASS
    parts = [
        pool[place * HELD : (place + 1) * HELD]
        for pool, count in ((order[~late], FAST), (order[late], SLOW))
        for place in range(count)
    ]
    model = mlp(LAYERS, batch_size=10, seed=seed)
    optimizer = f"sgd:learning_rate={rates[1]}"
    return Federation.of(
        model, images, parts, rates[0], aggregator=aggregator, server_optimizer=optimizer
    )


def best_rounds(
    images: Images, size: Size, kind: str, short: bool
) -> tuple[tuple[float, float], History]:
    """Rounds that wait for all, with the rates that end best."""
    rates = SYNCHRONOUS_RATES[:1] if short else SYNCHRONOUS_RATES
    tried = [(each, rounds(images, each, kind, size.rounds)) for each in rates]
    return max(tried, key=lambda pair: at_the_end(pair[1]))


def rounds(images: Images, rates: tuple[float, float], kind: str, count: int) -> History:
    """Synchronous rounds of all clients."""
    learning = federation(images, rates, "mean")
    clients, coordinator = learning.clients, learning.coordinator
    rng, recorder, now = np.random.default_rng(5), Recorder(), 0.0
    for number in range(1, count + 1):
        now += max(delay(kind, rng, client) for client in range(CLIENTS))
        updates = [client.train(coordinator.weights) for client in clients]
        coordinator.send(coordinator.aggregate(updates))
        recorder.add(now, number * CLIENTS, number, learning.accuracy())
    return recorder.history()


def buffered(
    images: Images, method: Method, rates: tuple[float, float], kind: str, until: float
) -> History:
    """All clients train all the time; every tenth arrival makes a version."""
    learning = federation(images, rates, "fedbuff")
    clients, coordinator = learning.clients, learning.coordinator
    rng, flight, recorder = np.random.default_rng(5), Flight(), Recorder()
    weigh, version, averaged = method.weigh(), 0, flat(coordinator.weights)

    def start(client: int) -> None:
        update = clients[client].train(coordinator.weights)
        flight.start(client, delay(kind, rng, client), version, update)

    for client in range(CLIENTS):
        start(client)
    while flight.now < until:
        buffer = coordinator.begin()
        for place in range(1, BUFFER + 1):
            trip = flight.land()
            buffer.add(*weigh(version, trip))
            if place < BUFFER:
                start(trip.client)
        coordinator.send(coordinator.aggregate([buffer]))
        version += 1
        start(trip.client)
        averaged += np.float32(1 - KEPT) * (flat(coordinator.weights) - averaged)
        if flight.now >= until * (recorder.count + 1) / EVALUATIONS:
            shown = (
                shaped(averaged, coordinator.weights) if method.averaged else coordinator.weights
            )
            recorder.add(flight.now, version * BUFFER, version, learning.accuracy(shown))
    return recorder.history()


if __name__ == "__main__":
    sys.exit(main())
