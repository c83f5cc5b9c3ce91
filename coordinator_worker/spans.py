"""A round's spans, from the coordinator's events."""

from collections.abc import Mapping
from typing import Any

from shared.tracing import Traces


class Spans:
    """``feed`` takes each event; ends of rounds become traces."""

    def __init__(self, federation: str) -> None:
        self._traces = Traces("coordinator-worker", federation=federation)

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take one event."""
        topic = event["event"]
        if topic == "round.closed":
            told = {name: event[name] for name in ("version", "updates", "bytes_up", "norm")}
            base = event["version"] - 1
            self._traces.round(event["run"], base, event["seconds"], told)
            self._traces.span("checkpoint", event["run"], base, event["checkpoint_seconds"])
        elif topic in {"model.published", "federation.finished"} and event["seconds"] is not None:
            told = {"version": event["version"], "bytes": event["bytes"]}
            self._traces.span("publish", event["run"], event["version"] - 1, event["seconds"], told)

    def close(self) -> None:
        """Send what was not sent yet."""
        self._traces.close()
