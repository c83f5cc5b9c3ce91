"""What waits for the coordinator's main thread, bounded in bytes."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

from coordinator_worker.state.enrolled import Enrolled
from warren_shared.amqp.delivery import Delivery

LIMIT_BYTES: Final = 2 << 20


@dataclass(frozen=True, slots=True)
class Lost:
    """The link to the broker was lost; all that is unacknowledged comes again."""


@dataclass(frozen=True, slots=True)
class Connected:
    """There is a link to the broker, and we consume or wait for our turn."""


@dataclass(frozen=True, slots=True)
class StandbyTimeout:
    """Time to see whether connecting has made us the active coordinator."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The round that makes the model after ``version`` has lasted as long as it should."""

    version: int


@dataclass(frozen=True, slots=True)
class ModelPublished:
    """The global model that was being published is published, or could not be."""


@dataclass(frozen=True, slots=True)
class InitialWeightsTimeout:
    """Time to see whether the client that was asked for initial weights sends them."""


@dataclass(frozen=True, slots=True)
class WatchdogTick:
    """Time to say that we are alive (`warren_shared.service.watchdog`)."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time to give a sign of life, and to look whether the round waits for somebody."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Time to see whether we still are the active coordinator (`rounds.activity`)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The queue has the message that comes back to the active coordinator."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Which clients have no connection, None if the broker does not tell."""

    away: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Listed:
    """Who is enrolled, None if nobody tells."""

    enrolled: Enrolled | None


@dataclass(frozen=True, slots=True)
class Judged:
    """What the program of ``--evaluate`` says of a version."""

    version: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Enough:
    """The clients have had their time to evaluate the final model."""


@dataclass(frozen=True, slots=True)
class Stop:
    """We were asked to stop."""


Event = (
    Judged | Enough | Doubt | Asked | Tick | Seen | Listed | WatchdogTick | Connected
    | StandbyTimeout | Lost | ModelPublished
    | InitialWeightsTimeout | Deadline | Stop
)  # fmt: skip


class Inbox:
    """Deliveries and events in order.

    Once ``LIMIT_BYTES`` wait, ``pause`` is called (on the connection's thread), which stops the
    reading: the socket fills and the broker holds the rest, so a burst of updates costs the
    broker's disk, not our memory. ``resume`` is called when half of it is gone. The connection's
    thread itself never waits: its heartbeats go out, however long the main thread takes.
    """

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._queue: SimpleQueue[Delivery | Event] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._paused = False
        self._pause, self._resume = pause, resume

    def deliver(self, delivery: Delivery) -> None:
        """Put a delivery in; for the connection's thread."""
        self._queue.put(delivery)
        with self._lock:
            self._waiting_bytes += len(delivery.body)
            if self._waiting_bytes >= LIMIT_BYTES:
                self._paused = True
                self._pause()

    def put(self, event: Event) -> None:
        """Put an event in; never waits, and safe in a signal handler."""
        self._queue.put(event)

    def poll(self) -> Delivery | Event | None:
        """Take the next one out, if there is one."""
        return None if self._queue.empty() else self.get()

    def get(self) -> Delivery | Event:
        """Take the next one out, waiting for it without using the processor."""
        return self._taken(self._queue.get())

    def get_within(self, seconds: float) -> Delivery | Event | None:
        """Take the next one out, if there is one within ``seconds``."""
        try:
            return self._taken(self._queue.get(timeout=seconds))
        except Empty:
            return None

    def _taken(self, item: Delivery | Event) -> Delivery | Event:
        if isinstance(item, Delivery):
            with self._lock:
                self._waiting_bytes -= len(item.body)
                if self._paused and self._waiting_bytes <= LIMIT_BYTES // 2:
                    self._paused = False
                    self._resume()
        return item
