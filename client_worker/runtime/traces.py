"""A client's part of a round's trace, for OpenTelemetry: training and publishing."""

from typing import Any

from client_worker.runtime.events import Event, UpdateConfirmed, UpdateTrained
from warren_shared.observability.tracing import Tracer, round_of, training_of, within


class Spans:
    """Sends a span for each training and each update that was published."""

    def __init__(self, federation: str) -> None:
        self._federation = federation
        self._tracer = Tracer("warren-client", federation)

    def on_event(self, event: Event) -> None:
        """Send what is over."""
        if not isinstance(event, UpdateTrained | UpdateConfirmed):
            return
        run, client, version = event.run, event.client, event.version
        top = round_of(self._federation, run, version + 1)
        place = training_of(self._federation, run, client, version)
        (phase,) = event.phases.done
        told: dict[str, Any] = {"client": client, "base_version": version}
        if isinstance(event, UpdateTrained):
            told["examples"] = event.examples
            self._tracer.span(phase, place, top, **told)
        else:
            self._tracer.span(phase, within(top, "publish", client), top, [place], **told)

    def close(self) -> None:
        """Send what is left."""
        self._tracer.close()
