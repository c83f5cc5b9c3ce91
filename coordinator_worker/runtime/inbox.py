"""What waits for the coordinator's main thread."""

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator_worker.state.enrolled import Enrolled
from warren_shared.amqp.delivery import Delivery
from warren_shared.service.inbox import BoundedInbox


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


class Inbox(BoundedInbox[Delivery | Event]):
    """Deliveries and events in order."""

    def deliver(self, delivery: Delivery) -> None:
        """Put a delivery in; for the connection's thread."""
        self.put(delivery, len(delivery.body))
