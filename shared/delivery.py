"""What comes out of a queue, and how one says which queue."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as the broker vouches for it; ``epoch`` counts the connections it came over.

    ``consumer`` is the tag of the consumer it came to: the queue, unless the subscription names it.
    """

    body: memoryview
    tag: int
    epoch: int
    user: str | None
    redelivered: bool
    consumer: str = ""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to consume: the first ``places`` of ``queues`` that let us, alone if ``exclusive``.

    An exclusive consumer is a lease on its queue: no two clients can hold one identity, and the
    broker frees it when the holder's connection ends. ``manual_ack`` keeps deliveries in the
    broker until they are acknowledged. ``follows`` is an (exchange, topic) to follow through a
    queue of our own that lives as long as the connection, instead of ``queues``. ``tag`` names
    the consumer in the management UI; the queue does if there is none.
    """

    queues: tuple[str, ...]
    on_delivery: Callable[[Delivery], None]
    exclusive: bool = False
    manual_ack: bool = True
    follows: tuple[str, str] | None = None
    tag: str | None = None
    places: int = 1


class Unacknowledged:
    """Tags of a channel's deliveries that the broker has not heard of yet, oldest first."""

    def __init__(self) -> None:
        self._tags: dict[int, None] = {}

    def add(self, tag: int) -> None:
        """Another delivery has come."""
        self._tags[tag] = None

    def settle(self, tags: Iterable[int]) -> tuple[int, list[int]]:
        """Forget ``tags``; return the last of those that can go in one acknowledgement (0: none)
        with all before it, and the others.

        A round's deliveries are mostly all there are: one acknowledgement up to the last of them
        instead of a thousand, each of which a quorum queue would write to its log.
        """
        settled = {tag for tag in tags if tag in self._tags}
        last = 0
        for tag in self._tags:
            if tag not in settled:
                break
            last = tag
        for tag in settled:
            del self._tags[tag]
        return last, sorted(tag for tag in settled if tag > last)
