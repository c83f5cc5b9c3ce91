"""What an operator has to hear of: a coordinator, a broker or a site is gone, a run waits.

Pure: ``look`` is told how a federation is now, and says what began and what is over.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from coordinator_worker.monitoring.federation_view import LEFT, FederationView, silence

Kind = Literal["broker", "coordinator", "waits", "site"]
# Where one of these is gone it is not known what becomes of the others.
_HIDES: Final[Mapping[Kind, tuple[Kind, ...]]] = {
    "broker": ("coordinator", "waits", "site"),
    "coordinator": ("waits", "site"),
}
WAITS: Final = ("disk", "diverged", "rejected", "overdue")  # what a view calls its troubles


@dataclass(frozen=True)
class Alarm:
    """Something that lasts, or that ``is_over``; ``words`` are one line."""

    kind: Kind
    about: str
    words: str
    is_over: bool = False


class Alarms:
    """Tells of what has lasted for ``after_s`` seconds, once, and of its end."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._since: dict[tuple[Kind, str], float] = {}
        self._told: dict[tuple[Kind, str], Alarm] = {}

    def look(
        self, view: FederationView, silence_s: float, notice: str, now: float
    ) -> Iterator[Alarm]:
        """What has begun or ended, at monotonic time ``now``.

        ``silence_s``: since the coordinator was heard of; ``notice``: what keeps us from hearing.
        """
        there = {(one.kind, one.about): one for one in _troubles(view, silence_s, notice)}
        unknown = {kind for gone, _ in there for kind in _HIDES.get(gone, ())}
        ended = [key for key in self._since if key not in there and key[0] not in unknown]
        for key in ended:
            del self._since[key]
            if (told := self._told.pop(key, None)) is not None:
                yield Alarm(told.kind, told.about, f"over: {told.words}", is_over=True)
        for key, alarm in there.items():
            began = self._since.setdefault(key, now)
            if now - began >= self._after_s and key not in self._told:
                self._told[key] = alarm
                yield alarm


def _troubles(view: FederationView, silence_s: float, notice: str) -> Iterator[Alarm]:
    name = view.federation
    if notice:
        yield Alarm("broker", "", f"{name}: {notice}" if name else notice)
        return  # nothing else is known now
    if words := silence(view, silence_s):
        yield Alarm("coordinator", "", f"{name}: {words}")
        return
    if view.stopped and not view.finished:
        yield Alarm("coordinator", "", f"{name}: the coordinator has stopped, and the run goes on")
        return
    if view.finished:
        return
    for what in WAITS:
        if what in view.trouble:
            yield Alarm("waits", what, f"{name}: {view.trouble[what]}")
    yield from _sites(view)


def _sites(view: FederationView) -> Iterator[Alarm]:
    name = view.federation
    for row in view.rows():
        client = row.client
        if client.away:
            yield Alarm("site", row.name, f"{name}: {row.name} is not connected")
        elif client.trouble.startswith(LEFT):
            yield Alarm("site", row.name, f"{name}: {row.name} has {client.trouble}")
        elif row.status == "rejected":
            told = client.trouble.removeprefix("rejected: ")
            why = told or f"{client.rejected} messages were rejected"
            yield Alarm("site", row.name, f"{name}: nothing of {row.name} counts: {why}")
        elif row.status == "gone":
            yield Alarm(
                "site", row.name, f"{name}: {row.name} was in none of the last {row.behind} rounds"
            )
