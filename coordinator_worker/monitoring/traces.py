"""A trace of each round: what its time went into, for OpenTelemetry."""

from typing import Final

from coordinator_worker.monitoring.events import Event, RoundClosed, RoundSent
from coordinator_worker.state.round_record import RoundRecord
from warren_shared.observability.event_bus import Phase, Timings
from warren_shared.observability.tracing import Place, Tracer, round_of, training_of, within

MAX_FOLDS: Final = 200  # spans of single updates in a round
TOLD: Final = ("updates", "incomplete", "norm", "bytes_up")


class Spans:
    """Sends a round's spans when its model has gone out; ``federation`` names the trace."""

    def __init__(self, federation: str) -> None:
        self._federation = federation
        self._tracer = Tracer("warren-coordinator", federation)
        self._closed: RoundRecord | None = None

    def on_event(self, event: Event) -> None:
        """Wait for the end of a round."""
        closed = self._closed
        if isinstance(event, RoundClosed):
            self._closed = event.record
        elif isinstance(event, RoundSent) and closed and event.version == closed.version:
            self._send(event.run, closed, event.phases)

    def close(self) -> None:
        """Send what is left."""
        self._tracer.close()

    def _send(self, run: str, record: RoundRecord, phases: Timings) -> None:
        version = record.version
        top = round_of(self._federation, run, version)
        folds = [phase for phase in phases.done if phase.name == "fold"]
        others = [phase for phase in phases.done if phase.name != "fold"]
        whole = Phase("round", phases.began, max(phase.ended for phase in phases.done), {})
        told = {name: getattr(record, name) for name in TOLD if record.knows(name)}
        hidden = max(0, len(folds) - MAX_FOLDS)
        self._tracer.span(whole, top, run=run, version=version, folds_not_shown=hidden, **told)
        quorum = min(phase.began for phase in others)
        for phase in (Phase("collect", phases.began, quorum, {}), *others):
            self._tracer.span(phase, within(top, phase.name), top)
        for phase in folds[:MAX_FOLDS]:
            self._fold(run, top, phase)

    def _fold(self, run: str, top: Place, phase: Phase) -> None:
        """One update, linked to its training, which may belong to the trace of an older round."""
        client, base = phase.about["client"], phase.about["base_version"]
        place = within(top, "fold", client, base)
        self._tracer.span(phase, place, top, [training_of(self._federation, run, client, base)])
