"""What waits for a worker's main thread, in order and bounded in bytes."""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

LIMIT_BYTES: Final = 2 << 20

Item = TypeVar("Item")


class BoundedInbox(Generic[Item]):
    """Items of any thread for one.

    Once ``LIMIT_BYTES`` wait, ``pause`` is called (on the connection's thread), which stops the
    reading: the socket fills and the broker holds the rest, so a burst of messages costs the
    broker's disk, not our memory. ``resume`` is called when half of it is gone. The connection's
    thread itself never waits: its heartbeats go out, however long the main thread takes. What was
    taken out and is not acknowledged does not count.
    """

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._queue: SimpleQueue[tuple[Item, int]] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._paused = False
        self._pause, self._resume = pause, resume

    def put(self, item: Item, size_bytes: int = 0) -> None:
        """Put ``item`` in, of which ``size_bytes`` count; never waits."""
        self._queue.put((item, size_bytes))
        if size_bytes:
            with self._lock:
                self._waiting_bytes += size_bytes
                if self._waiting_bytes >= LIMIT_BYTES:
                    self._paused = True
                    self._pause()

    def poll(self) -> Item | None:
        """Take the next one out, if there is one."""
        return None if self._queue.empty() else self.get()

    def get(self) -> Item:
        """Take the next one out, waiting for it without using the processor."""
        return self._taken(*self._queue.get())

    def get_within(self, seconds: float) -> Item | None:
        """Take the next one out, if there is one within ``seconds``."""
        try:
            return self._taken(*self._queue.get(timeout=seconds))
        except Empty:
            return None

    def _taken(self, item: Item, size_bytes: int) -> Item:
        if size_bytes:
            with self._lock:
                self._waiting_bytes -= size_bytes
                if self._paused and self._waiting_bytes <= LIMIT_BYTES // 2:
                    self._paused = False
                    self._resume()
        return item
