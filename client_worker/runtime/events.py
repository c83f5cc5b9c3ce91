"""What a client worker tells metrics and traces in its process: a class for each event."""

from collections.abc import Mapping
from dataclasses import dataclass

from warren_shared.observability.event_bus import Timings


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True, slots=True)
class OfClient(Event):
    """To or by one of the clients in this process."""

    client: str


@dataclass(frozen=True, slots=True)
class ModelReceived(OfClient):
    """``client`` has the model ``version`` of ``run``, of ``size_bytes``."""

    run: str
    version: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class UpdateTrained(OfClient):
    """An update was trained from ``version``, while ``lag`` newer ones came.

    ``phases``: the time of the training alone.
    """

    run: str
    version: int
    lag: int
    examples: int
    metrics: Mapping[str, float]
    phases: Timings


@dataclass(frozen=True, slots=True)
class UpdateLate(OfClient):
    """It is too late to be worth sending."""

    run: str
    version: int


@dataclass(frozen=True, slots=True)
class UpdateConfirmed(OfClient):
    """The broker has it on disk; ``phases``: the time of publishing alone."""

    run: str
    version: int
    size_bytes: int
    phases: Timings


@dataclass(frozen=True, slots=True)
class UpdateRejected(OfClient):
    """The coordinator rejected an update, for ``reason``."""

    reason: str


@dataclass(frozen=True, slots=True)
class TaskFailed(OfClient):
    """The user's code failed."""

    reason: str


@dataclass(frozen=True, slots=True)
class LinkConnected(Event):
    """There is a connection to the broker."""


@dataclass(frozen=True, slots=True)
class LinkLost(Event):
    """It is lost."""
