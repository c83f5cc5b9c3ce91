"""What waits for the keeper's main thread, bounded in bytes."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final

from warren_shared.amqp.delivery import Delivery

LIMIT_BYTES: Final = 2 << 20


@dataclass(frozen=True, slots=True)
class SeedCame:
    """Something is in the queue `mask`."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class RequestCame:
    """Something is in the queue `unmask`."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Link:
    """One of the two connections is there, or lost: that of the seeds, or that of the requests.

    ``epoch`` is the connection's number, which is in its deliveries, too.
    """

    of_seeds: bool
    is_up: bool
    epoch: int


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Time to see whether what a request waits for has come, or can still be waited for."""


@dataclass(frozen=True, slots=True)
class WatchdogTick:
    """Time to say that we are alive (`warren_shared.service.watchdog`)."""


@dataclass(frozen=True, slots=True)
class Stop:
    """We were asked to stop."""


Item = SeedCame | RequestCame | Link | LookAgain | WatchdogTick | Stop


class Inbox:
    """Items in order; ``pause`` and ``resume`` are of the connection that seeds come over.

    Once ``LIMIT_BYTES`` of seeds wait no more are read from the broker, as at the coordinator. What
    is not acknowledged does not count: it was taken out of here.
    """

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._queue: SimpleQueue[Item] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._paused = False
        self._pause, self._resume = pause, resume

    def deliver_seed(self, delivery: Delivery) -> None:
        """Put a seed in; for the connection's thread."""
        self._queue.put(SeedCame(delivery))
        with self._lock:
            self._waiting_bytes += len(delivery.body)
            if self._waiting_bytes >= LIMIT_BYTES:
                self._paused = True
                self._pause()

    def deliver_request(self, delivery: Delivery) -> None:
        """Put a request in; for the connection's thread."""
        self._queue.put(RequestCame(delivery))

    def put(self, item: Item) -> None:
        """Put an event in; never waits, and safe in a signal handler."""
        self._queue.put(item)

    def get(self) -> Item:
        """Take the next one out, waiting for it without using the processor."""
        item = self._queue.get()
        if isinstance(item, SeedCame):
            with self._lock:
                self._waiting_bytes -= len(item.delivery.body)
                if self._paused and self._waiting_bytes <= LIMIT_BYTES // 2:
                    self._paused = False
                    self._resume()
        return item
