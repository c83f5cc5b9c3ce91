"""Publishing with confirms: a window of unconfirmed messages over a queue of jobs.

Knows no broker: it is given a function that puts one message on the channel and is told what the
broker confirmed. Confirms arrive while further messages go out, so a transfer costs its bytes and
one round trip, not one round trip a message; the window bounds memory and keeps pace with a slow
broker. Lives on the connection's thread; only a job's event is seen by others.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from warren_shared.protocol.codec import Body

WINDOW_BYTES: Final = 16 << 20
BLOCKED: Final = None  # instead of a message: the next may not go out yet


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to publish. ``kind`` becomes the AMQP type that the management UI shows.

    ``body`` comes in pieces, so that a chunk is sent without a copy; they must stay as they
    are until the broker has confirmed.
    """

    exchange: str
    routing_key: str
    body: Body
    kind: str
    persistent: bool = False
    mandatory: bool = False
    headers: dict[str, Any] | None = None
    content_type: str = "application/msgpack"

    @property
    def size_bytes(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.body))


_OVER: Final = Publication("", "", (), "")


class Unconfirmed(Exception):
    """The link was lost, or the queue was full, before everything was confirmed."""


class NotTaken(Unconfirmed):
    """The broker said so (a negative confirm)."""


@dataclass(eq=False)
class PublishBatch:
    """Messages that succeed or fail together; ``done`` is set either way, ``error`` says which.

    Where ``messages`` yields BLOCKED it is asked again at the next ``pump``.
    """

    messages: Iterable[Publication | None]
    done: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    unconfirmed: int = 0
    exhausted: bool = False

    def finish(self, error: Exception | None = None) -> None:
        """End the job; the first end counts."""
        if not self.done.is_set():
            self.error = error
            self.done.set()


class ConfirmWindow:
    """Jobs in order; ``send(number, message)`` puts a message out under its delivery number."""

    def __init__(self, send: Callable[[int, Publication], None]) -> None:
        self._send = send
        self._jobs: deque[PublishBatch] = deque()
        self._reset()

    def _reset(self) -> None:
        self._messages: Iterator[Publication | None] | None = None  # of the first job
        # Job, size in bytes and kind by number, oldest first; not the bodies, which take memory.
        self._outstanding: dict[int, tuple[PublishBatch, int, str]] = {}
        self._window_bytes = 0
        self._number = 0  # RabbitMQ numbers a channel's publishes from 1
        self.progress = 0  # grows with everything that goes out or is confirmed

    @property
    def waits(self) -> bool:
        """Whether something is out that the broker has not confirmed."""
        return bool(self._outstanding)

    @property
    def newest(self) -> str:
        """What was sent last and is not confirmed, for people; empty if there is nothing."""
        if not self._outstanding:
            return ""
        _job, size_bytes, kind = self._outstanding[max(self._outstanding)]
        return f"a message of {size_bytes} bytes ({kind})"

    def append(self, job: PublishBatch) -> None:
        """Queue a job; safe from any thread (a deque's append is atomic)."""
        self._jobs.append(job)

    def pump(self) -> None:
        """Send as much as the window allows."""
        while self._jobs and self._window_bytes < WINDOW_BYTES:
            job = self._jobs[0]
            if self._messages is None:
                self._messages = iter(job.messages)
            message = _OVER if job.done.is_set() else next(self._messages, _OVER)
            if message is BLOCKED:
                return
            if message is _OVER:
                self._jobs.popleft()
                self._messages = None
                job.exhausted = True
                self._settle(job)
                continue
            self._number += 1
            self.progress += 1
            job.unconfirmed += 1
            self._outstanding[self._number] = (job, message.size_bytes, message.kind)
            self._window_bytes += message.size_bytes
            self._send(self._number, message)

    def confirmed(self, number: int, multiple: bool, accepted: bool) -> None:
        """The broker took (or refused) ``number``, and with ``multiple`` all before it."""
        self.progress += 1
        numbers = [number]
        if multiple:
            numbers = []
            for outstanding in self._outstanding:
                if outstanding > number:
                    break
                numbers.append(outstanding)
        for each in numbers:
            job, size_bytes, _kind = self._outstanding.pop(each)
            self._window_bytes -= size_bytes
            job.unconfirmed -= 1
            if not accepted:
                job.finish(
                    NotTaken("the broker did not take it: its queue is full, or has no majority")
                )
            self._settle(job)

    def returned(self, number: int, error: Exception) -> None:
        """No queue took ``number``; its confirm still follows."""
        self._outstanding[number][0].finish(error)

    def lost(self, error: Exception | None = None) -> None:
        """The channel is gone: fail every job that had begun; the others wait for the next.

        With ``error`` it was the broker that closed it, for good reasons, over what was published.
        """
        begun = {job for job, _size, _kind in self._outstanding.values()}
        if self._messages is not None:
            begun.add(self._jobs.popleft())
        self._reset()
        for job in begun:
            job.finish(error or Unconfirmed("the link was lost before the broker confirmed"))

    def abandon(self, error: Exception) -> None:
        """Fail everything, begun or not."""
        self.lost()
        while self._jobs:
            self._jobs.popleft().finish(error)

    @staticmethod
    def _settle(job: PublishBatch) -> None:
        if job.exhausted and not job.unconfirmed:
            job.finish()
