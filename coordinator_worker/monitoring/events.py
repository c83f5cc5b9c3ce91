"""What the coordinator says of a federation: a class for each event, with its topic.

Publishers make them, and consumers (view, terminal, metrics, traces, curves) dispatch on the class.
On the exchange ``event`` each is a JSON object, ``Stamped.to_dict``: ``event`` (its routing key),
``time`` in seconds since the epoch, ``number`` (counted from 1 by each coordinator, so that a
reader notices a missing one), ``federation``, then the fields below, in this order and under these
names; a field that is None is left out. ``tests/golden/federation/events.jsonl`` has one of each.

A reader of another version ignores fields and events that it does not know, and uses the default of
a field that is missing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import nan
from typing import Any, ClassVar, Final, Self

from coordinator_worker.monitoring.waiting import Waiting
from coordinator_worker.state.round_record import ClientFigures, Rollback, RoundRecord
from warren_shared.errors import ConfigError
from warren_shared.observability.event_bus import Timings
from warren_shared.observability.log import Log

log = Log(__name__)

Quorum = tuple[int, int]  # updates that the open round has, and how many close it


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; all listeners in this process get it."""

    TOPIC: ClassVar[str]


@dataclass(frozen=True, slots=True)
class Posted(Event):
    """An event that is also published to the exchange ``event``."""

    @property
    def routing_key(self) -> str:
        """The topic; of an event of one client, with the client behind it."""
        return self.TOPIC

    def to_dict(self) -> dict[str, Any]:
        """Its fields as JSON can hold them."""
        said = ((wire, getattr(self, name)) for name, wire, _ in _FIELDS[type(self)])
        return {wire: value for wire, value in said if value is not None}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """From what ``to_dict`` of this version or another gave; raises as its readers do."""
        known = {name: read(given[wire]) for name, wire, read in _FIELDS[cls] if wire in given}
        return cls(**known)


@dataclass(frozen=True, slots=True)
class OfClient(Posted):
    """An event of one client, whose id is the end of the routing key."""

    client: str

    @property
    def routing_key(self) -> str:
        """Such as ``update.accepted.alfa``."""
        return f"{self.TOPIC}.{self.client}"


# --- clients --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClientJoined(Posted):
    """``client`` is there."""

    TOPIC: ClassVar = "client.joined"
    client: str


@dataclass(frozen=True, slots=True)
class ClientsEnrolled(Posted):
    """These ``names``, of single clients and of fleets, may take part: said when they change."""

    TOPIC: ClassVar = "client.enrolled"
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientFailed(Posted):
    """``client`` says what keeps it from its work; ``ends``: it will not try again."""

    TOPIC: ClassVar = "client.failed"
    client: str
    reason: str = ""
    ends: bool = False


@dataclass(frozen=True, slots=True)
class ClientFlooding(OfClient):
    """So much of ``client`` is rejected that it is only counted from now on."""

    TOPIC: ClassVar = "client.flooding"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateAccepted(OfClient):
    """An update is in the sum that will make ``version`` + 1.

    ``staleness``: how many versions older its ``base_version`` is than ``version``; ``examples`` it
    was trained on; ``size_bytes`` and L2 ``norm`` of the delta, which masks and privacy hide. Older
    coordinators left out ``version`` and ``staleness``.
    """

    TOPIC: ClassVar = "update.accepted"
    version: int | None = None
    base_version: int
    staleness: int | None = None
    examples: int
    size_bytes: int = 0
    norm: float | None = None
    metrics: Mapping[str, float]
    quorum: Quorum


@dataclass(frozen=True, slots=True)
class UpdateRejected(OfClient):
    """Something of ``client`` must not count; ``reason`` is a word, ``detail`` the sentence.

    ``enrolled``: it may take part, also where it has never joined; None of a stranger.
    """

    TOPIC: ClassVar = "update.rejected"
    reason: str
    detail: str = ""
    enrolled: bool | None = None


# --- rounds ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RoundClosed(Posted):
    """A round has made a model, which is in the checkpoint.

    On the wire the record's fields stand beside ``run``, and its ``time`` is the event's.
    """

    TOPIC: ClassVar = "round.closed"
    run: str
    record: RoundRecord

    def to_dict(self) -> dict[str, Any]:
        """The record, behind ``run``."""
        return {"run": self.run, **self.record.to_dict()}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """Raises ValueError if it has no record, ConfigError if that is of a newer format."""
        if "version" not in given:
            raise ValueError("it does not say which version was made")
        record = {name: value for name, value in given.items() if name not in _BESIDE_RECORD}
        return cls(str(given.get("run", "")), RoundRecord.from_dict(record))


@dataclass(frozen=True, slots=True)
class RoundWaiting(Posted):
    """The open round has waited long; ``waiting``: whom for, and what is known of the reason."""

    TOPIC: ClassVar = "round.waiting"
    version: int
    quorum: Quorum
    waiting: tuple[Waiting, ...]
    words: str = ""


@dataclass(frozen=True, slots=True)
class RoundRejected(Posted):
    """All that clients sent for ``version`` was rejected, the last for ``reason``."""

    TOPIC: ClassVar = "round.rejected"
    version: int
    reason: str
    words: str = ""


@dataclass(frozen=True, slots=True)
class RoundOverdue(Posted):
    """The round to ``version`` lasts longer than ``--deadline-s``."""

    TOPIC: ClassVar = "round.overdue"
    version: int
    quorum: Quorum


@dataclass(frozen=True, slots=True)
class RoundDiverged(Posted):
    """The round's updates would have spoilt the model: ``version`` has the weights before it."""

    TOPIC: ClassVar = "round.diverged"
    version: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RoundNotFinite(Posted):
    """``metric`` is NaN or infinite in the round to ``version``."""

    TOPIC: ClassVar = "round.not-finite"
    version: int
    metric: str


@dataclass(frozen=True, slots=True)
class RoundMetricMissing(Posted):
    """The run is steered by ``metric``, and no client reports it."""

    TOPIC: ClassVar = "round.metric-missing"
    version: int
    metric: str


# --- models and the run ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelPublished(Posted):
    """Every mailbox has ``version``, a model of ``size_bytes``."""

    TOPIC: ClassVar = "model.published"
    run: str
    version: int
    size_bytes: int
    quorum: Quorum


@dataclass(frozen=True, slots=True)
class FederationFinished(ModelPublished):
    """Every mailbox has the run's last model."""

    TOPIC: ClassVar = "federation.finished"


@dataclass(frozen=True, slots=True)
class ModelBest(Posted):
    """``version``, whose monitored metric is ``value``, is better than all before it."""

    TOPIC: ClassVar = "model.best"
    version: int
    value: float


@dataclass(frozen=True, slots=True)
class ModelEvaluated(Posted):
    """What the program of ``--evaluate`` says of ``version``."""

    TOPIC: ClassVar = "model.evaluated"
    version: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ModelRolledBack(Posted):
    """``version`` has the weights of an older one, ``origin``."""

    TOPIC: ClassVar = "model.rolled_back"
    run: str
    version: int
    origin: Rollback

    def to_dict(self) -> dict[str, Any]:
        """The origin is called ``to``."""
        return {"run": self.run, "version": self.version, "to": self.origin.to_dict()}


@dataclass(frozen=True, slots=True)
class RunEvaluated(Posted):
    """What the clients find ``version``, the last, to be worth."""

    TOPIC: ClassVar = "run.evaluated"
    version: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunEnds(Posted):
    """``version`` is the last, for this ``reason``."""

    TOPIC: ClassVar = "run.ends"
    version: int
    reason: str


# --- the coordinator ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CoordinatorAlive(Posted):
    """A sign of life, which comes every ``every_s`` seconds.

    ``away``: clients without a connection; None if that was not checked.
    """

    TOPIC: ClassVar = "coordinator.alive"
    every_s: float = 0.0
    away: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class CoordinatorStalled(Posted):
    """The checkpoint's disk does not take what must be on it, or the keeper does not answer."""

    TOPIC: ClassVar = "coordinator.stalled"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CoordinatorRecovered(Posted):
    """There is room again, or the keeper has answered."""

    TOPIC: ClassVar = "coordinator.recovered"


@dataclass(frozen=True, slots=True)
class CoordinatorStopped(Posted):
    """The coordinator ends, having been asked to or done."""

    TOPIC: ClassVar = "coordinator.stopped"


# --- in this process alone ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpdateFlooded(Event):
    """Something of a client that floods was rejected: counted, not kept."""

    TOPIC: ClassVar = "update.flooded"
    client: str
    reason: str


@dataclass(frozen=True, slots=True)
class RoundContributions(Event):
    """What each client said with its updates in the round that made ``version``."""

    TOPIC: ClassVar = "round.contributions"
    run: str
    version: int
    updates: Sequence[ClientFigures]


@dataclass(frozen=True, slots=True)
class RoundTimed(Event):
    """What the time of the round that made ``version`` went into, until its checkpoint."""

    TOPIC: ClassVar = "round.timed"
    version: int
    phases: Timings


@dataclass(frozen=True, slots=True)
class RoundSent(Event):
    """The same when its model has gone out."""

    TOPIC: ClassVar = "round.sent"
    run: str
    version: int
    phases: Timings


@dataclass(frozen=True, slots=True)
class LinkConnected(Event):
    """There is a connection to the broker."""

    TOPIC: ClassVar = "link.connected"


@dataclass(frozen=True, slots=True)
class LinkLost(Event):
    """It is lost."""

    TOPIC: ClassVar = "link.lost"


@dataclass(frozen=True, slots=True)
class LinkActive(Event):
    """We are the coordinator that makes rounds."""

    TOPIC: ClassVar = "link.active"


@dataclass(frozen=True, slots=True)
class LinkStandby(Event):
    """Another one is."""

    TOPIC: ClassVar = "link.standby"


POSTED: Final[Mapping[str, type[Posted]]] = {
    kind.TOPIC: kind
    for kind in (
        ClientJoined, ClientsEnrolled, ClientFailed, ClientFlooding, UpdateAccepted, UpdateRejected,
        RoundClosed, RoundWaiting, RoundRejected, RoundOverdue, RoundDiverged, RoundNotFinite,
        RoundMetricMissing, ModelPublished, FederationFinished, ModelBest, ModelEvaluated,
        ModelRolledBack, RunEvaluated, RunEnds, CoordinatorAlive, CoordinatorStalled,
        CoordinatorRecovered, CoordinatorStopped,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stamped:
    """An event as it is published: with its time, its number and its federation.

    ``event`` is None if its topic is not known here, or it cannot be read.
    """

    time: float
    number: int
    federation: str
    event: Posted | None

    @classmethod
    def now(cls, event: Posted, number: int, federation: str) -> Self:
        """``event`` with the time that it is now; a closed round has its time in its record."""
        moment = event.record.time if isinstance(event, RoundClosed) else time.time()
        return cls(moment, number, federation, event)

    def to_dict(self) -> dict[str, Any]:
        """As it is on the exchange; raises ValueError of an event that is not known."""
        if self.event is None:
            raise ValueError("an event that is not known cannot be written")
        stamp = {"event": self.event.routing_key, "time": self.time, "number": self.number}
        return {**stamp, "federation": self.federation, **self.event.to_dict()}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """From a message of the exchange, which may be of another version, or malformed."""
        kind = POSTED.get(".".join(str(given.get("event", "")).split(".")[:2]))
        event: Posted | None = None
        try:
            event = kind.from_dict(given) if kind is not None else None
        except _UNREADABLE as error:
            log.warning("event_not_read", "an event %s is ignored: %s", given["event"], error)
        try:
            moment, number = float(given.get("time", 0.0)), int(given.get("number", 0))
        except (TypeError, ValueError, OverflowError):
            moment, number = 0.0, 0
        return cls(moment, number, str(given.get("federation", "")), event)


_UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError, ConfigError)
NOTHING: Final = Stamped(0.0, 0, "", None)  # of a message that is no JSON object
_BESIDE_RECORD: Final = frozenset(("event", "number", "federation", "run"))
_WIRE_NAMES: Final = {"size_bytes": "bytes", "origin": "to"}


def _number(value: float | None) -> float:
    return nan if value is None else float(value)  # JSON has no NaN: it was null


def _figures(given: Mapping[str, float | None]) -> dict[str, float]:
    return {name: nan if value is None else value for name, value in given.items()}


def _optional(value: int | None) -> int | None:
    return None if value is None else int(value)


def _quorum(given: tuple[int, int]) -> Quorum:
    have, need = given
    return int(have), int(need)


def _waiting(given: list[tuple[str, str]]) -> tuple[Waiting, ...]:
    return tuple(Waiting(client, why) for client, why in given)


_READERS: Final[Mapping[Any, Callable[[Any], Any]]] = {
    str: str, int: int, bool: bool, bool | None: bool, float: _number, int | None: _optional,
    float | None: _number, Quorum: _quorum,
    Mapping[str, float]: _figures, tuple[str, ...]: tuple, tuple[str, ...] | None: tuple,
    tuple[Waiting, ...]: _waiting,
    Rollback: Rollback.from_dict, RoundRecord: RoundRecord.from_dict,
}  # fmt: skip


# Of each class the fields: name, name on the wire, reader.
_FIELDS: Final[Mapping[type, tuple[tuple[str, str, Callable[[Any], Any]], ...]]] = {
    kind: tuple(
        (field.name, _WIRE_NAMES.get(field.name, field.name), _READERS[field.type])
        for field in fields(kind)
    )
    for kind in POSTED.values()
}
