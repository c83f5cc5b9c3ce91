"""Private runs in one process: 3,000 clients who learn at once, in rounds or asynchronously.

Every round goes through ``FederatedCoordinator`` with the noise of ``--privacy``, every client
through ``PrivacyState.check``. Clients train all at once, in numpy.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

import numpy as np

from client_worker import partition
from coordinator_worker.aggregation.cohort import Cohort
from coordinator_worker.aggregation.coordinator import AVERAGE, FederatedCoordinator
from coordinator_worker.aggregation.private_cohort import PrivateCohort, RoundNoise
from coordinator_worker.rounds.policy import Policy
from coordinator_worker.state.privacy_state import PrivacyState
from experiments.data import fashion_mnist
from experiments.features import FEATURES, oriented_gradients
from experiments.flight import Flight
from experiments.vectors import flat
from warren_shared.config.client_privacy import ClientPrivacy, privacy
from warren_shared.errors import Rejected
from warren_shared.tensors.layout import Array
from warren_shared.tensors.update import Update

CLASSES: Final = 10
PARAMETERS: Final = FEATURES * CLASSES + CLASSES
DELTA, RATE = 1e-5, np.float32(1)  # RATE: of a client's training, on all of its images
SPREAD: Final = 0.8  # of the logarithm of the clients' paces
STALENESS, EXPONENT = 8, 0.5  # how late an update may be, and how its weight falls with that
LAST: Final = 12  # versions of which a mean is shown beside the last one
DEAL: Final = 0  # seed of who has which images, whose turn it is, and who is slow
NEVER: Final = 10**9
GIVES_UP: Final = 10  # rejections in a row, for each client


@dataclass(frozen=True)
class Size:
    """How much of it is done. ``spaced``: rounds from one contribution to the next, if late."""

    clients: int
    images: int  # of each client
    quorum: int
    contributions: int
    spaced: int
    in_flight: int
    held_out: int  # test images that settings are chosen by
    test: int
    streams: Sequence[int]
    epsilons: Sequence[float]

    @property
    def turn(self) -> int:
        """Rounds in which every client is once."""
        return self.clients // self.quorum

    @property
    def rounds(self) -> int:
        """As many as the clients' contributions suffice for."""
        return self.turn * self.contributions


@dataclass(frozen=True)
class Settings:
    """``clip`` of an update, after ``steps`` of training; the server's rate and momentum."""

    clip: float = 0.5
    steps: int = 10
    rate: float = 0.7
    beta: float = 0.9
    average: float | None = None

    @property
    def optimizer(self) -> str:
        """As it is written on the command line."""
        return f"momentum:learning_rate={self.rate},beta={self.beta}"

    def __str__(self) -> str:
        said = f"clip {self.clip:g}, {self.steps} steps, rate {self.rate:g}, β {self.beta:g}"
        return said + (f", average {self.average:g}" if self.average is not None else "")


@dataclass(frozen=True)
class Way:
    """How clients learn; without ``epsilon`` there is no noise, and the bounds are the same."""

    epsilon: float | None
    mechanism: str = "correlated"
    is_late: bool = False  # asynchronously, not in rounds
    knows: bool = True  # clients keep to their bounds themselves, and are not only refused
    settings: Settings = field(default=Settings())

    def __str__(self) -> str:
        said = "not private" if self.epsilon is None else f"ε = {self.epsilon:g}"
        if self.epsilon is not None and self.mechanism == "gaussian":
            said += ", independent noise"
        if not self.is_late:
            return said
        return said + (", asynchronous" if self.knows else ", asynchronous, clients do not wait")


@dataclass
class Course:
    """One run: after each round the time, and accuracy of the model and of ``--average``."""

    times: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    averaged: list[float] = field(default_factory=list)
    staleness: list[int] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    changes: list[Array] = field(default_factory=list)  # what the rounds moved the model by
    entered: dict[int, list[int]] = field(default_factory=dict)  # client: its rounds

    @property
    def final(self) -> float:
        """Accuracy of the model that the run ends with."""
        return (self.averaged or self.accuracies)[-1]

    @property
    def recent(self) -> float:
        """Mean accuracy of the last models."""
        return float(np.mean((self.averaged or self.accuracies)[-LAST:]))

    @property
    def most(self) -> int:
        """Contributions of the client that has most."""
        return max(map(len, self.entered.values()))

    @property
    def nearest(self) -> int:
        """Rounds from one contribution of a client to its next, where they are fewest."""
        return min((b - a for at in self.entered.values() for a, b in pairwise(at)), default=0)


class Softmax:
    """The model that begins at zero; its values are read from the coordinator."""

    def get_weights(self) -> list[Array]:
        """W (features, classes) and b (classes,)."""
        return [np.zeros((FEATURES, CLASSES), np.float32), np.zeros(CLASSES, np.float32)]

    def set_weights(self, weights: Sequence[Array], /) -> None:
        """Nobody but the clients look at them, and they are given them."""


@dataclass(frozen=True)
class Stage:
    """The clients' images, as features, and what they have agreed on."""

    size: Size
    x: Array  # (clients, images, features)
    y: Array  # (clients, images)
    test_x: Array
    test_y: Array

    @classmethod
    def both(cls, data: Path, size: Size) -> tuple[Self, Self]:
        """Dealt out at random; one to choose settings with, and one to measure with."""
        images = fashion_mnist(data, size.clients * size.images, size.held_out + size.test)
        parts = np.stack(partition.iid(len(images.y), size.clients, DEAL))
        x, y = oriented_gradients(images.x)[parts], images.y[parts]
        test_x, test_y, cut = oriented_gradients(images.test_x), images.test_y, size.held_out
        return (
            cls(size, x, y, test_x[:cut], test_y[:cut]),
            cls(size, x, y, test_x[cut:], test_y[cut:]),
        )

    def promise(self, way: Way) -> ClientPrivacy:
        """As it is written on the command line."""
        distance = self.size.spaced if way.is_late else self.size.turn
        return privacy(
            f"{way.mechanism}:epsilon={way.epsilon or 1},delta={DELTA},"
            f"clip={way.settings.clip},contributions={self.size.contributions},distance={distance}"
        )

    def coordinator(self, way: Way, stream: int) -> FederatedCoordinator:
        """With the noise of ``stream``, or with none."""
        noise, settings = None, way.settings
        if way.epsilon is not None:
            promise = self.promise(way)
            calibration = promise.calibration(self.size.rounds, self.size.quorum, PARAMETERS)
            secret = sha256(f"stream {stream}".encode()).digest()
            noise = RoundNoise(calibration, promise.clip, secret)
        return FederatedCoordinator(
            [Softmax()],
            aggregator="fedbuff" if way.is_late else "uniform",
            server_optimizer=settings.optimizer,
            average=settings.average,
            noise=noise,
            clip_norm=None if noise else settings.clip,
        )

    def train(self, weights: Sequence[Array], who: Sequence[int], steps: int) -> list[Update]:
        """What each of the clients ``who`` makes of the model, all of them at once."""
        x, y = self.x[who], self.y[who]
        w, b = (np.repeat(array[None], len(x), axis=0) for array in weights)
        truth = np.eye(CLASSES, dtype=np.float32)[y]
        for _ in range(steps):
            scores = x @ w + b[:, None]
            scores -= scores.max(axis=-1, keepdims=True)
            shares = np.exp(scores, out=scores)
            shares /= shares.sum(axis=-1, keepdims=True)
            error = (shares - truth) * (RATE / np.float32(x.shape[1]))
            w -= x.transpose(0, 2, 1) @ error
            b -= error.sum(axis=1)
        w -= weights[0]
        b -= weights[1]
        return [Update(list(arrays), self.size.images) for arrays in zip(w, b, strict=True)]

    def accuracy(self, weights: Sequence[Array]) -> float:
        """On the test images."""
        found = (self.test_x @ weights[0] + weights[1]).argmax(axis=1)
        return float((found == self.test_y).mean())


class Run:
    """A run of ``way`` from its first version on, with the bounds of its promise."""

    def __init__(self, stage: Stage, way: Way, stream: int) -> None:
        self.stage, self.course, self._steps = stage, Course(), way.settings.steps
        self.coordinator = stage.coordinator(way, stream)
        self.promise = stage.promise(way)
        size = stage.size
        self.state = PrivacyState(str(self.promise), size.rounds, size.quorum, PARAMETERS, "")

    def train(self, weights: Sequence[Array], who: Sequence[int]) -> list[Update]:
        """Of ``who``, from ``weights``."""
        return self.stage.train(weights, who, self._steps)

    def check(self, client: int, *, is_here: bool = False) -> None:
        """Raise Rejected(``spent``, ``early``) if the next round may not have the client."""
        bounds = self.promise.contributions, self.promise.distance
        self.state.check(str(client), *bounds, is_here=is_here)

    def close(self, time: float, cohort: Cohort | PrivateCohort, who: Iterable[int]) -> None:
        """End the round in which the clients ``who`` are."""
        course, coordinator, before = self.course, self.coordinator, self.coordinator.weights
        coordinator.send(coordinator.aggregate([cohort]))
        for client in who:
            course.entered.setdefault(client, []).append(self.state.done)
        self.state = self.state.after(map(str, who))
        course.times.append(time)
        course.changes.append(flat(coordinator.weights) - flat(before))
        course.accuracies.append(self.stage.accuracy(coordinator.weights))
        if AVERAGE in coordinator.slots:
            course.averaged.append(self.stage.accuracy(coordinator.slots[AVERAGE]))


def trips(size: Size, seed: int) -> Callable[[int], float]:
    """How long the next trip of a client takes."""
    pace = np.random.default_rng(DEAL).lognormal(0, SPREAD, size.clients)
    rng = np.random.default_rng(seed)
    return lambda client: float(pace[client] * abs(rng.normal()))


def in_rounds(
    stage: Stage, way: Way, stream: int, canaries: Mapping[int, Update] | None = None
) -> Course:
    """All clients in turn, each round as long as its slowest; ``canaries`` send what they want."""
    size, running, canaries = stage.size, Run(stage, way, stream), canaries or {}
    order = np.random.default_rng(DEAL).permutation(size.clients).reshape(-1, size.quorum)
    takes, now = trips(size, stream), 0.0
    for number in range(size.rounds):
        who = order[number % size.turn].tolist()
        cohort = running.coordinator.begin()
        for client, update in zip(
            who, running.train(running.coordinator.weights, who), strict=True
        ):
            running.check(client)
            cohort.add(canaries.get(client, update))
        now += max(map(takes, who))
        running.close(now, cohort, who)
    return running.course


def in_flight(stage: Stage, way: Way, stream: int) -> Course:
    """A fixed number of clients under way, a round closed by every ``quorum``-th that may count."""
    size, running = stage.size, Run(stage, way, stream)
    waiting = Waiting(size, running.promise.distance, knows=way.knows)
    policy = Policy(quorum=size.quorum, max_staleness=STALENESS, staleness_exponent=EXPONENT)
    takes, rng, flight = trips(size, stream), np.random.default_rng(stream), Flight()
    models, course = {0: running.coordinator.weights}, running.course
    under_way = vain = 0
    for version in range(size.rounds):
        cohort, open_round = running.coordinator.begin(), dict[int, int]()
        while len(open_round) < size.quorum:
            for client in waiting.drawn(rng, version, size.in_flight - under_way):
                flight.start(client, takes(client), version, None)
                under_way += 1
            if not under_way or vain > GIVES_UP * size.clients:
                return course  # whoever could come has been there as often as it may
            trip = flight.land()
            under_way -= 1
            try:
                policy.staleness_weight(version, trip.version)
                running.check(trip.client, is_here=trip.client in open_round)
            except Rejected as error:
                course.refused[error.reason] += 1
                waiting.refused(trip.client, spent=error.reason == "spent")
                vain += 1
                continue
            vain = 0
            open_round[trip.client] = trip.version
            waiting.counted(trip.client, trip.version)
        for base in sorted(set(open_round.values())):
            who = [client for client, trained in open_round.items() if trained == base]
            weight = policy.staleness_weight(version, base)
            for update in running.train(models[base], who):
                cohort.add(update, weight)
            course.staleness += [version - base] * len(who)
        running.close(flight.now, cohort, open_round)
        models[version + 1] = running.coordinator.weights
        models.pop(version - STALENESS, None)
    return course


class Waiting:
    """Which clients are not under way, and from which version on they train again.

    Clients that know of the promise are as careful as ``client-worker``: an update to version v is
    in the round after v + the largest staleness at the latest, and the distance counts from there.
    Others come at once.
    """

    def __init__(self, size: Size, distance: int, *, knows: bool) -> None:
        self._size, self._distance, self._knows = size, distance, knows
        self._is_away = np.zeros(size.clients, bool)
        self._first = np.zeros(size.clients, int)
        self._counted = np.zeros(size.clients, int)

    def drawn(self, rng: np.random.Generator, version: int, count: int) -> list[int]:
        """Send ``count`` clients off that may train from ``version``, or as many as there are."""
        may = np.flatnonzero(~self._is_away & (self._first <= version))
        found = rng.choice(may, min(count, len(may)), replace=False)
        self._is_away[found] = True
        return [int(client) for client in found]

    def counted(self, client: int, version: int) -> None:
        """Its update to ``version`` is in a round."""
        self._is_away[client] = False
        self._counted[client] += 1
        if self._knows:
            self._first[client] = version + STALENESS + self._distance
            if self._counted[client] == self._size.contributions:
                self._first[client] = NEVER

    def refused(self, client: int, *, spent: bool) -> None:
        """Its update was rejected, as it is told."""
        self._is_away[client] = False
        if spent:
            self._first[client] = NEVER


def course(stage: Stage, way: Way, stream: int) -> Course:
    """One run of ``way``."""
    return in_flight(stage, way, stream) if way.is_late else in_rounds(stage, way, stream)
