"""What a keeper tells metrics in its process: a class for each event."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True, slots=True)
class SumGiven(Event):
    """A sum of ``updates`` masks was published and confirmed; it took ``seconds`` to add up."""

    run: str
    version: int
    updates: int
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RequestRefused(Event):
    """A request got no sum, for ``reason``."""

    reason: str


@dataclass(frozen=True, slots=True)
class SeedDropped(Event):
    """A seed is of no use, for ``reason``."""

    reason: str


@dataclass(frozen=True, slots=True)
class SeedsWaiting(Event):
    """So many seeds are in no set yet, or may be asked for again."""

    count: int


@dataclass(frozen=True, slots=True)
class LinkConnected(Event):
    """There are both connections to the broker."""


@dataclass(frozen=True, slots=True)
class LinkLost(Event):
    """One of them is lost."""
