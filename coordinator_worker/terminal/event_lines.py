"""A federation's events as plain lines, for where there is no terminal to draw on."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from coordinator_worker.text.formatting import duration, figure, plain, size

METRICS: Final = 4

Event = Mapping[str, Any]


def line(event: Event) -> str | None:
    """``12:00:00 round 4: …``, or None if the event is not worth a line."""
    say = _LINES.get(".".join(str(event.get("event", "")).split(".")[:2]))
    if say is None:
        return None
    moment = time.strftime("%H:%M:%S", time.localtime(event.get("time", 0.0)))
    return f"{moment} {plain(say(event))}"


def _closed(event: Event) -> str:
    metrics = list(event["metrics"].items())[:METRICS]
    figures = "".join(f", {name} {figure(value)}" for name, value in metrics)
    late = event.get("participation", {}).get("late", {}).get("clients", 0)
    behind = f", {late} clients late" if late else ""
    took, up = duration(event.get("seconds", 0.0)), size(event.get("bytes_up", 0))
    return f"round {event['version']}: {event['updates']} updates in {took}, {up}{figures}{behind}"


def _evaluated(event: Event) -> str:
    metrics = list(event["metrics"].items())[:METRICS]
    figures = ", ".join(f"{name} {figure(value)}" for name, value in metrics)
    return f"version {event['version']}, the last, is worth {figures}"


def _rejected(event: Event) -> str:
    return f"rejected from {event['client']}: {event['reason']}: {event.get('detail', '')}"


def _overdue(event: Event) -> str:
    have, need = event["quorum"]
    return f"round {event['version']} is overdue with {have} of {need} updates"


_LINES: Final[Mapping[str, Callable[[Event], str]]] = {
    "client.joined": lambda event: f"{event['client']} joined",
    "run.evaluated": _evaluated,
    "run.ends": lambda event: f"version {event['version']} is the last: {event['reason']}",
    "round.waiting": lambda event: event["words"],
    "round.rejected": lambda event: event["words"],
    "client.failed": lambda event: (
        f"{event['client']} {'has ended' if event['ends'] else 'failed'}: {event['reason']}"
    ),
    "client.flooding": lambda event: f"{event['client']} floods us with what is rejected",
    "update.rejected": _rejected,
    "round.closed": _closed,
    "round.overdue": _overdue,
    "round.diverged": lambda event: f"round {event['version']} was refused: {event['detail']}",
    "coordinator.stalled": lambda event: f"the coordinator waits: {event['detail']}",
    "coordinator.recovered": lambda _event: "the coordinator goes on",
    "coordinator.stopped": lambda _event: "the coordinator has stopped",
    "federation.finished": lambda event: f"finished at version {event['version']}",
}
