"""Virtual time: clients that take as long as they are drawn to, and what arrives when."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from warren_shared.tensors.update import Update

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

# How long a client's trip (download, training, upload) takes, in virtual seconds.
DELAYS: Final[Mapping[str, Draw]] = {
    "half-normal": lambda rng, shape: np.abs(rng.normal(size=shape)),
    "Pareto(1.2)": lambda rng, shape: 1 + rng.pareto(1.2, shape),
    "lognormal(σ=1.5)": lambda rng, shape: rng.lognormal(0, 1.5, shape),
}


@dataclass(frozen=True, order=True)
class Trip:
    """A client's way with a model: ends ``at``, was the ``number``-th to start.

    Without an ``update`` it was given up.
    """

    at: float
    number: int
    client: int
    version: int
    update: Update | None


class Flight:
    """The clients that are on their way, by when they will be back."""

    def __init__(self) -> None:
        self.now = 0.0
        self._trips: list[Trip] = []
        self._started = 0

    def start(self, client: int, delay: float, version: int, update: Update | None) -> None:
        """Send ``client`` off; it will bring ``update``, trained from ``version``."""
        self._started += 1
        trip = Trip(self.now + delay, self._started, client, version, update)
        heapq.heappush(self._trips, trip)

    def land(self) -> Trip:
        """The next to be back; it is then that late."""
        trip = heapq.heappop(self._trips)
        self.now = trip.at
        return trip


@dataclass(frozen=True)
class History:
    """Test accuracy after so many virtual seconds, trips that counted and model versions."""

    times: Sequence[float]
    trips: Sequence[float]
    versions: Sequence[float]
    accuracies: Sequence[float]

    def reaches(self, target: float, window: int = 3) -> int | None:
        """Place of the first mean of ``window`` accuracies that is ``target``; None: there is none.

        One lucky evaluation is not learning, above all of a method that moves in small steps.
        """
        means = np.convolve(self.accuracies, np.ones(window) / window, "valid")
        found = np.flatnonzero(means >= target)
        return int(found[0]) + window - 1 if len(found) else None


class Recorder:
    """Makes a History."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float, float, float]] = []

    def add(self, time: float, trips: float, version: float, accuracy: float) -> None:
        """One evaluation."""
        self._points.append((time, trips, version, accuracy))

    @property
    def count(self) -> int:
        """Evaluations so far."""
        return len(self._points)

    def history(self) -> History:
        """All of them."""
        return History(*map(list, zip(*self._points, strict=True)))

    def recent(self, window: int = 3) -> float:
        """Mean of the last ``window`` accuracies; 0 while there are fewer."""
        last = [point[3] for point in self._points[-window:]]
        return float(np.mean(last)) if len(last) == window else 0.0


def order_statistic(
    draw: Draw, rng: np.random.Generator, cohort: int, quorum: int, shape: tuple[int, ...]
) -> Array:
    """How long it takes until ``quorum`` of ``cohort`` are back, drawn ``shape`` times."""
    return np.asarray(np.sort(draw(rng, (*shape, cohort)), axis=-1)[..., quorum - 1])


def endless(rng: np.random.Generator, clients: int) -> Iterator[int]:
    """Clients at random, one after the other."""
    while True:
        yield from rng.permutation(clients).tolist()
