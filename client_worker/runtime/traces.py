"""A client's part of a round's trace, for OpenTelemetry: training and publishing."""

from collections.abc import Mapping
from typing import Any

from warren_shared.observability.tracing import Tracer, round_of, training_of, within


class Spans:
    """Sends a span for each training and each update that was published."""

    def __init__(self, federation: str) -> None:
        self._federation = federation
        self._tracer = Tracer("warren-client", federation)

    def on_event(self, topic: str, fields: Mapping[str, Any]) -> None:
        """Send what is over."""
        if topic not in ("update.trained", "update.confirmed"):
            return
        run, client, version = fields["run"], fields["client"], fields["version"]
        top = round_of(self._federation, run, version + 1)
        place = training_of(self._federation, run, client, version)
        (phase,) = fields["phases"].done
        told = {"client": client, "base_version": version}
        if topic == "update.trained":
            told["examples"] = fields["examples"]
            self._tracer.span(phase, place, top, **told)
        else:
            self._tracer.span(phase, within(top, "publish", client), top, [place], **told)

    def close(self) -> None:
        """Send what is left."""
        self._tracer.close()
