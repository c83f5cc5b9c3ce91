"""What comes out of a queue, and how one says which queue."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from warren_shared.protocol.messages import PROTOCOL


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as the broker vouches for it; ``epoch`` counts the connections it came over.

    ``consumer`` is the tag of the consumer it came to: the queue, unless the subscription names it.
    ``reads`` is the newest protocol that its sender reads, as far as it says so. ``waited``: it was
    in the queue before we came, if the subscription ``counts``. ``unreadable``: its AMQP headers
    cannot be decoded.
    """

    body: memoryview
    tag: int
    epoch: int
    user: str | None
    redelivered: bool
    consumer: str = ""
    reads: int = PROTOCOL
    waited: bool = False
    unreadable: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to consume: the first ``places`` of ``queues`` that let us, alone if ``exclusive``.

    An exclusive consumer is a lease on its queue: no two clients can hold one identity, and the
    broker frees it when the holder's connection ends. ``manual_ack`` keeps deliveries in the
    broker until they are acknowledged. ``follows`` is an (exchange, topic) to follow through a
    queue of our own that lives as long as the connection, instead of ``queues``. ``tag`` names
    the consumer in the management UI; the queue does if there is none. With ``counts`` it is asked
    how many messages wait, so that those can be told from what comes later. With ``spares`` each
    queue has a second one on another node of a cluster, which is consumed in its place while its
    node is away.
    """

    queues: tuple[str, ...]
    on_delivery: Callable[[Delivery], None]
    exclusive: bool = False
    manual_ack: bool = True
    follows: tuple[str, str] | None = None
    tag: str | None = None
    places: int = 1
    counts: bool = False
    spares: bool = False


class AckTracker:
    """Tags of a channel's deliveries that the broker has not heard of yet, oldest first.

    Settled deliveries wait for the connection's thread, which takes all of them at once: under a
    flood, waking it for each took half of the coordinator's time.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._tags: dict[int, None] = {}
        self._acks: deque[list[int]] = deque()

    def add(self, tag: int) -> None:
        """Another delivery has come."""
        self._tags[tag] = None

    def record_acks(self, tags: Iterable[int]) -> bool:
        """Note, on any thread, that ``tags`` are done with; True if nothing waited before them."""
        self._acks.append(list(tags))
        return len(self._acks) == 1

    def take_acks(self) -> tuple[int, list[int]]:
        """Forget what is settled; return the last of those that can go in one acknowledgement
        (0: none) with all before it, and the others.

        A round's deliveries are mostly all there are: one acknowledgement up to the last of them
        instead of a thousand, each of which a quorum queue would write to its log.
        """
        acked: set[int] = set()
        while self._acks:
            acked.update(tag for tag in self._acks.popleft() if tag in self._tags)
        last = 0
        for tag in self._tags:
            if tag not in acked:
                break
            last = tag
        for tag in acked:
            del self._tags[tag]
        return last, sorted(tag for tag in acked if tag > last)
