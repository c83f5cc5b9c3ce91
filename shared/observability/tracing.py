"""OpenTelemetry: the spans of a round, from every party that worked on it, in one trace.

The ids of a round's trace and of its spans are hashes of what they stand for, so parties that never
tell each other an id agree on them all the same, and nothing has to travel with a message. The one
file that knows OpenTelemetry, which is imported by who was told `--traces`.
"""

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from xxhash import xxh3_64_intdigest, xxh3_128_intdigest

from warren_shared.errors import ConfigError
from warren_shared.observability.event_bus import Phase
from warren_shared.observability.log import Log

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

log = Log(__name__)

LAST_CHANCE_S: Final = 2.0  # how long a collector may keep a worker from ending
GIVING_UP_S: Final = 1.0
JUMP_NS: Final = 1_000_000  # by which the machine's clock has to differ to be looked at again
MISSING: Final = "--traces needs OpenTelemetry: pip install 'warren-fl[traces]'"


class Place(NamedTuple):
    """Where a span is: its trace and itself."""

    trace: int
    span: int


def round_of(federation: str, run: str, version: int) -> Place:
    """The round that makes ``version``: the root of its trace."""
    words = f"{federation}/{run}/{version}".encode()
    return Place(xxh3_128_intdigest(words) or 1, xxh3_64_intdigest(words) or 1)


def within(place: Place, *words: object) -> Place:
    """A span in the same trace, told apart from others by ``words``."""
    told = "/".join(map(str, (place.span, *words)))
    return Place(place.trace, xxh3_64_intdigest(told.encode()) or 1)


def training_of(federation: str, run: str, client: str, base_version: int) -> Place:
    """The training that made a client's update, in the trace of the round it was meant for."""
    return within(round_of(federation, run, base_version + 1), "train", client)


class Tracer:
    """Sends spans of things that are over; whether they arrive concerns the log only.

    Raises ConfigError if OpenTelemetry is not installed.
    """

    def __init__(self, service: str, federation: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_NAMESPACE, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise ConfigError(MISSING) from None
        # Each span that did not arrive would be several lines; `_Telling` says it once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        about = {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", service)}
        resource = Resource.create({**about, SERVICE_NAMESPACE: federation})
        self._ids = _chosen_ids()
        self._exporter = _telling(OTLPSpanExporter())
        self._provider = TracerProvider(
            resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("warren")
        self._lock = threading.Lock()
        self._offset_ns = 0  # from the monotonic clock to the time of day

    def span(
        self,
        phase: Phase,
        place: Place,
        parent: Place | None = None,
        links: Iterable[Place] = (),
        **attributes: Any,
    ) -> None:
        """Send one that took the time of ``phase``; ``attributes`` are shown as ``warren.NAME``."""
        from opentelemetry.context import Context
        from opentelemetry.trace import Link, NonRecordingSpan, set_span_in_context

        above = Context()
        if parent is not None:
            above = set_span_in_context(NonRecordingSpan(_context(parent)), above)
        told = {f"warren.{name}": value for name, value in {**phase.about, **attributes}.items()}
        began, ended = self._at(phase.began), self._at(phase.ended)
        with self._lock:  # of two threads each would take the other's ids
            self._ids.next = place
            span = self._tracer.start_span(
                phase.name,
                above,
                attributes=told,
                links=[Link(_context(one)) for one in links],
                start_time=began,
            )
        span.end(ended)

    def _at(self, moment: float) -> int:
        """A moment of the monotonic clock in ns since 1970; the same one is always the same."""
        offset = time.time_ns() - time.monotonic_ns()
        if abs(offset - self._offset_ns) > JUMP_NS:
            self._offset_ns = offset
        return self._offset_ns + int(moment * 1e9)

    def close(self) -> None:
        """Send what is left, as long as that takes no longer than LAST_CHANCE_S."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(LAST_CHANCE_S)
        self._exporter.shutdown()  # what waits for a collector that is not there waits no more
        ending.join(GIVING_UP_S)


def _context(place: Place) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags

    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(place.trace, place.span, is_remote=True, trace_flags=flags)


def _chosen_ids() -> Any:
    """An id generator that gives the ids of its ``next``."""
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    class Chosen(IdGenerator):
        next = Place(1, 1)

        def generate_span_id(self) -> int:
            return self.next.span

        def generate_trace_id(self) -> int:
            return self.next.trace

    return Chosen()


def _telling(exporter: Any) -> Any:
    """``exporter``, with a line in our log when spans begin to be lost."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Telling(SpanExporter):
        lost = False

        def export(self, spans: "Sequence[ReadableSpan]") -> SpanExportResult:
            done: SpanExportResult = exporter.export(spans)
            lost = done is not SpanExportResult.SUCCESS
            if lost and not self.lost:
                log.warning(
                    "traces_lost",
                    "no collector takes our spans at %s; going on without",
                    _endpoint(os.environ),
                )
            self.lost = lost
            return done

        def shutdown(self) -> None:
            exporter.shutdown()

    return Telling()


def _endpoint(environment: Mapping[str, str]) -> str:
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    found = (environment[name] for name in names if environment.get(name))
    return next(found, "http://localhost:4318")
