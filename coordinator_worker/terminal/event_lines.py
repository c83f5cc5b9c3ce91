"""A federation's events as plain lines, for where there is no terminal to draw on."""

import time
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final

from coordinator_worker.monitoring import events
from coordinator_worker.monitoring.events import Stamped
from coordinator_worker.state.roster import StatusTotal
from coordinator_worker.text.formatting import duration, figure, plain, size

METRICS: Final = 4


def line(stamped: Stamped) -> str | None:
    """``12:00:00 round 4: …``, or None if the event is not worth a line."""
    say = _LINES.get(type(stamped.event))
    if say is None:
        return None
    moment = time.strftime("%H:%M:%S", time.localtime(stamped.time))
    return f"{moment} {plain(say(stamped.event))}"


def _closed(event: events.RoundClosed) -> str:
    record = event.record
    figures = "".join(f", {said}" for said in _figures(record.metrics))
    late = (record.participation or {}).get("late", StatusTotal()).clients
    behind = f", {late} clients late" if late else ""
    took, up = duration(record.seconds), size(record.bytes_up)
    if record.raw_bytes_up is not None:
        up += f" of {size(record.raw_bytes_up)}"
    return f"round {record.version}: {record.updates} updates in {took}, {up}{figures}{behind}"


def _evaluated(event: events.RunEvaluated) -> str:
    figures = ", ".join(_figures(event.metrics))
    return f"version {event.version}, the last, is worth {figures}"


def _figures(metrics: Mapping[str, float]) -> list[str]:
    first = list(metrics.items())[:METRICS]
    return [f"{name} {figure(value if isfinite(value) else None)}" for name, value in first]


def _rejected(event: events.UpdateRejected) -> str:
    return f"rejected from {event.client}: {event.reason}: {event.detail}"


def _failed(event: events.ClientFailed) -> str:
    return f"{event.client} {'has ended' if event.ends else 'failed'}: {event.reason}"


def _overdue(event: events.RoundOverdue) -> str:
    have, need = event.quorum
    return f"round {event.version} is overdue with {have} of {need} updates"


_LINES: Final[Mapping[type, Callable[[Any], str]]] = {
    events.ClientJoined: lambda event: f"{event.client} joined",
    events.RunEvaluated: _evaluated,
    events.RunEnds: lambda event: f"version {event.version} is the last: {event.reason}",
    events.RoundWaiting: lambda event: event.words,
    events.RoundRejected: lambda event: event.words,
    events.ClientFailed: _failed,
    events.ClientFlooding: lambda event: f"{event.client} floods us with what is rejected",
    events.UpdateRejected: _rejected,
    events.RoundClosed: _closed,
    events.RoundOverdue: _overdue,
    events.RoundDiverged: lambda event: f"round {event.version} was refused: {event.detail}",
    events.CoordinatorStalled: lambda event: f"the coordinator waits: {event.detail}",
    events.CoordinatorRecovered: lambda _event: "the coordinator goes on",
    events.CoordinatorStopped: lambda _event: "the coordinator has stopped",
    events.FederationFinished: lambda event: f"finished at version {event.version}",
}
