"""What became of a delivery: a class for each fate, which the worker acts on."""

from dataclasses import dataclass

from coordinator_worker.rounds.incoming_update import IncomingUpdate
from warren_shared.errors import Rejected
from warren_shared.protocol.messages import Evaluated, Failed, Join


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """``client``: the sender, or the broker's user if that is all that is known, or None.

    ``acknowledgeable``: tags of deliveries that need not come again, this one's or earlier ones'.
    """

    client: str | None
    acknowledgeable: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(_Judged):
    """It was the last piece of a transfer, ``arrival``, which is whole and valid."""

    arrival: IncomingUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending(_Judged):
    """It is a piece of a transfer that is not whole yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined(_Judged):
    """A client is there."""

    message: Join


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReported(_Judged):
    """A client says what keeps it from its work."""

    message: Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReported(_Judged):
    """A client says what the final model is worth."""

    message: Evaluated


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReturned(_Judged):
    """Our own question has come back: all that was in the queue before it has been read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate(_Judged):
    """It adds nothing: known already, superseded, too late, or the rest of what was rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(_Judged):
    """It must not count, for the reason ``rejected``; ``base_version`` if it was an update."""

    rejected: Rejected
    base_version: int | None = None


Outcome = (
    Accepted | Pending | Joined | FailureReported | EvaluationReported | ProbeReturned | Duplicate
    | Refused
)  # fmt: skip
