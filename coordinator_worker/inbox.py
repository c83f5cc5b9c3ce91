"""What waits for the coordinator's main thread, bounded in bytes."""

import threading
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final

from shared.delivery import Delivery

LIMIT_BYTES: Final = 32 << 20


@dataclass(frozen=True, slots=True)
class Lost:
    """The link to the broker was lost; all that is unacknowledged comes again."""


@dataclass(frozen=True, slots=True)
class Stop:
    """We were asked to stop."""


class Inbox:
    """Deliveries and events in order.

    A delivery that would exceed ``LIMIT_BYTES`` makes the connection's thread wait, so the socket
    fills and the broker holds the rest: a burst of updates costs the broker's disk, not our memory.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[Delivery | Lost | Stop] = SimpleQueue()
        self._room = threading.Condition()
        self._waiting_bytes = 0
        self._closed = False

    def deliver(self, delivery: Delivery) -> None:
        """Put a delivery in; waits while there is no room. For the connection's thread."""
        with self._room:
            self._room.wait_for(lambda: self._waiting_bytes < LIMIT_BYTES or self._closed)
            self._waiting_bytes += len(delivery.body)
        self._queue.put(delivery)

    def put(self, event: Lost | Stop) -> None:
        """Put an event in; never waits, and safe in a signal handler."""
        self._queue.put(event)

    def get(self) -> Delivery | Lost | Stop:
        """Take the next one out, waiting for it without using the processor."""
        item = self._queue.get()
        if isinstance(item, Delivery):
            with self._room:
                self._waiting_bytes -= len(item.body)
                self._room.notify()
        return item

    def close(self) -> None:
        """Let the connection's thread go, whatever it waits for."""
        with self._room:
            self._closed = True
            self._room.notify_all()
