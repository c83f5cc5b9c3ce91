"""What waits for the keeper's main thread."""

from dataclasses import dataclass

from warren_shared.amqp.delivery import Delivery
from warren_shared.service.inbox import BoundedInbox


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


class Inbox(BoundedInbox[Item]):
    """Items in order; only seeds count, so the bound is of the connection that they come over."""

    def deliver_seed(self, delivery: Delivery) -> None:
        """Put a seed in; for the connection's thread."""
        self.put(SeedCame(delivery), len(delivery.body))

    def deliver_request(self, delivery: Delivery) -> None:
        """Put a request in; for the connection's thread."""
        self.put(RequestCame(delivery))
