"""OpenTelemetry spans of a round, from all who take part in it, in one trace. An extra.

Trace and root span are named by what everybody knows, run and version: so the coordinator's and
the clients' spans meet in one trace, and nothing about it travels with the messages.
"""

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from shared.errors import ConfigError

MISSING = "--traces needs OpenTelemetry: pip install 'warren[traces]'"


def ids(run: str, base_version: int) -> tuple[int, int]:
    """Trace id (128 bits) and root span id (64) of the round that goes on from ``base_version``."""
    digest = hashlib.sha256(f"warren {run} {base_version}".encode()).digest()
    return int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big")


class Traces:
    """Spans of the service ``name``, sent where OTEL_EXPORTER_OTLP_ENDPOINT says.

    Raises ConfigError if OpenTelemetry is not installed.
    """

    def __init__(self, name: str, **attributes: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        except ImportError:
            raise ConfigError(MISSING) from None

        class Named(RandomIdGenerator):
            """Ids of ours for the root of a trace, random ones for all else."""

            root: tuple[int, int] | None = None

            def generate_trace_id(self) -> int:
                return self.root[0] if self.root else super().generate_trace_id()

            def generate_span_id(self) -> int:
                return self.root[1] if self.root else super().generate_span_id()

        self._ids = Named()
        resource = Resource.create({"service.name": name, **attributes})
        self._provider = TracerProvider(id_generator=self._ids, resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("warren")

    def round(
        self, run: str, base_version: int, seconds: float, attributes: Mapping[str, Any]
    ) -> None:
        """The root of a trace: a round that ends now and has lasted ``seconds``."""
        from opentelemetry.context import Context

        self._ids.root = ids(run, base_version)
        began, ended = _times(seconds)
        span = self._tracer.start_span(
            "round", context=Context(), start_time=began, attributes=_plain(attributes)
        )
        self._ids.root = None
        span.end(ended)

    def span(
        self,
        name: str,
        run: str,
        base_version: int,
        seconds: float,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Something within a round that ends now and has lasted ``seconds``."""
        from opentelemetry import trace

        trace_id, root = ids(run, base_version)
        sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
        parent = trace.SpanContext(trace_id, root, is_remote=True, trace_flags=sampled)
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        began, ended = _times(seconds)
        span = self._tracer.start_span(
            name, context=context, start_time=began, attributes=_plain(attributes or {})
        )
        span.end(ended)

    def close(self) -> None:
        """Send what was not sent yet."""
        self._provider.shutdown()


def _times(seconds: float) -> tuple[int, int]:
    ended = time.time_ns()
    return ended - int(seconds * 1e9), ended


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"warren.{name}": value for name, value in attributes.items()}
