"""What comes out of a queue, and how one says which queue."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as the broker vouches for it; ``epoch`` counts the connections it came over."""

    body: memoryview
    tag: int
    epoch: int
    user: str | None
    redelivered: bool


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to consume: the first of ``queues`` that lets us, alone if ``exclusive``.

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
