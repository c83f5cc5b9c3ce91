"""An OpenTelemetry collector as small as it can be: it keeps what workers send."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, TypeVar

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.processes import DEADLINE_S

T = TypeVar("T")


class Span(NamedTuple):
    """A span as it came; ids as hexadecimal, ``parent`` empty at the root, times in ns."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    began: int
    ended: int
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any]


class Point(NamedTuple):
    """A point of a metric as it came; of a histogram ``value`` is its count."""

    service: str
    instance: str
    name: str
    kind: str
    labels: dict[str, Any]
    value: float
    buckets: tuple[int, ...] = ()


class Collector:
    """Spans and points so far, and where they are sent to."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self._spans: list[Span] = []
        self._points: list[Point] = []
        self._came = threading.Condition()

    def take(self, request: ExportTraceServiceRequest) -> None:
        with self._came:
            self._spans += _spans(request)
            self._came.notify_all()

    def take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        with self._came:
            self._points += _points(request)
            self._came.notify_all()

    def wait_for(self, enough: Callable[[list[Span]], bool]) -> list[Span]:
        """All spans, as soon as they are ``enough``."""
        return self._wait_for(self._spans, enough)

    def wait_for_points(self, enough: Callable[[list[Point]], bool]) -> list[Point]:
        """All points of metrics, as soon as they are ``enough``."""
        return self._wait_for(self._points, enough)

    def _wait_for(self, found: list[T], enough: Callable[[list[T]], bool]) -> list[T]:
        deadline = time.monotonic() + DEADLINE_S
        with self._came:
            while not enough(found):
                left = deadline - time.monotonic()
                assert left > 0, f"never enough: {found}"
                self._came.wait(left)
            return list(found)


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for group in request.resource_spans:
        about = _values(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Span(
                    about["service.name"],
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    _values(span.attributes),
                )


def _points(request: ExportMetricsServiceRequest) -> Iterator[Point]:
    for group in request.resource_metrics:
        about = _values(group.resource.attributes)
        whose = about["service.name"], about["service.instance.id"]
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points:
                    labels = _values(point.attributes)
                    if kind == "histogram":
                        buckets = tuple(point.bucket_counts)
                        yield Point(*whose, metric.name, kind, labels, point.count, buckets)
                    else:
                        yield Point(*whose, metric.name, kind, labels, point.as_double)


def _values(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector that listens while the block runs."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/metrics":
                found.take_metrics(ExportMetricsServiceRequest.FromString(body))
                answer = ExportMetricsServiceResponse().SerializeToString()
            else:
                assert self.path == "/v1/traces"
                found.take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    found = Collector(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
