"""Whom an open round waits for, and why: said at growing intervals, and at once when all failed."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from coordinator_worker.monitoring.client_view import Client
from warren_shared.observability.log import Log

log = Log(__name__)

TICK_S: Final = 15.0  # a sign of life each; what waits is looked at then, too
FIRST_S: Final = 30.0
LONGEST_S: Final = 1800.0
MAX_NAMED: Final = 5
MAX_WORDS: Final = 200  # characters of a reason

# What to do about a rejection that hits every client of a round alike.
REMEDIES: Final[Mapping[str, str]] = {
    "norm": "raise --max-update-norm, or give off",
    "not-finite": "lower the learning rates, or look at the data",
    "layout": "start the clients with the federation's task",
    "examples": "raise --max-examples",
    "size": "raise --max-model-bytes",
    "stale": "raise --max-staleness",
    "run": "restart the clients, or check whether two coordinators with different folders run",
    "protocol": "upgrade the older side",
    "encoding": "upgrade the clients, or leave --uplink as it was",
    "local-steps": "have the task's fit return local_steps, or choose another --aggregator",
}


class Waiting(NamedTuple):
    """A client that an open round lacks, and what is known of the reason; empty if nothing is."""

    client: str
    why: str


def waited_for(clients: Mapping[str, Client], version: int) -> list[Waiting]:
    """Clients without an update to ``version`` + 1, those with a known reason first."""
    found = [
        Waiting(name, _why(client, version))
        for name, client in clients.items()
        if client.rounds.get(version + 1, -1) < 0
    ]
    return sorted(found, key=lambda one: (not one.why, one.client))


def _why(client: Client, version: int) -> str:
    if client.trouble:
        return client.trouble
    if client.away:
        return "not connected"
    if not client.updates:
        return "has contributed nothing yet"
    behind = version - client.version
    return f"its last update was {behind} versions ago" if behind > 1 else ""


def in_words(have: int, need: int, waiting: Sequence[Waiting]) -> str:
    """``waiting for 1 of 3: hospital-c (left: its model differs)``."""
    missing = f"waiting for {max(need - have, 0)} of {need} updates"
    if not waiting:
        who = "all clients that joined have contributed: start more, or lower --quorum"
        return f"{missing}; {who if have else 'no client has joined'}"
    named = [f"{one.client} ({one.why})" if one.why else one.client for one in waiting[:MAX_NAMED]]
    more = f" and {len(waiting) - MAX_NAMED} more" if len(waiting) > MAX_NAMED else ""
    return f"{missing}: {', '.join(named)}{more}"


class WaitingReport:
    """When to say whom a round waits for: after FIRST_S, then twice as long each time.

    Each call of ``due`` is one look, at monotonic time ``now``.
    """

    def __init__(self) -> None:
        self._version: int | None = None
        self._since = self._next_s = 0.0

    def due(self, version: int, now: float) -> bool:
        """Whether the round from ``version`` has been open for so long that it is time."""
        if version != self._version:
            self._version, self._since, self._next_s = version, now, FIRST_S
            return False
        if now - self._since < self._next_s:
            return False
        self._next_s = min(2 * self._next_s, self._next_s + LONGEST_S)
        return True


def remedy(reasons: Mapping[str, int]) -> str:
    """What to do about the most frequent of ``reasons``."""
    if not reasons:
        return ""
    most = max(reasons, key=lambda reason: reasons[reason])
    return REMEDIES.get(most, "`coordinator-worker rejected` shows the messages")


def shortened(words: Any) -> str:
    """``words`` of a client, printable and no longer than MAX_WORDS."""
    text = "".join(c if c.isprintable() else " " for c in str(words))
    return text if len(text) <= MAX_WORDS else f"{text[: MAX_WORDS - 1]}…"
