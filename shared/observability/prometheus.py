"""Prometheus: the metrics of a worker and the endpoint that shows them.

The one file that knows prometheus_client. It is imported only by processes that have an endpoint,
since that takes 40 ms.
"""

import socketserver
import threading
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from warren_shared.errors import ConfigError

# A series beside each counter that says when it began; nothing of ours asks for it.
disable_created_metrics()  # type: ignore[no-untyped-call]

PATH: Final = "/metrics"
OTHER: Final = "other"
SLOW_S: Final = 10.0  # a scraper that sends half a line keeps a thread for no longer


class Row(NamedTuple):
    """A metric as the documentation lists it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    about: str


T = TypeVar("T", Counter, Gauge, Histogram)


class Many(Generic[T]):
    """Metrics of one name, one for each combination of label values."""

    def __init__(self, made: T, constant: tuple[str, ...]) -> None:
        self._made: T = made
        self._constant = constant
        self._shown: dict[tuple[str, ...], T] = {}

    def one(self, *values: str) -> T:
        """The one with these label values."""
        if (found := self._shown.get(values)) is None:
            found = self._shown[values] = self._made.labels(*self._constant, *values)
        return found

    def keep_only(self, wanted: Iterable[tuple[str, ...]]) -> None:
        """Take away all others: what is no longer said must not look as if it still were."""
        for values in set(self._shown).difference(wanted):
            del self._shown[values]
            self._made.remove(*self._constant, *values)


class Meters:
    """Makes the metrics of one worker, all with the labels ``constant``; ``rows`` lists them."""

    def __init__(self, constant: Mapping[str, str]) -> None:
        self.registry = CollectorRegistry()
        self.rows: list[Row] = []
        self._names, self._values = tuple(constant), tuple(constant.values())
        ProcessCollector(registry=self.registry)

    def counter(self, name: str, about: str) -> Counter:
        """What only grows; ``name`` is without its ``_total``."""
        return self.counters(name, about).one()

    def counters(self, name: str, about: str, *labels: str) -> Many[Counter]:
        """The same, for each combination of ``labels``."""
        names = self._list(f"{name}_total", "counter", about, labels)
        return Many(Counter(name, about, names, registry=self.registry), self._values)

    def gauge(self, name: str, about: str) -> Gauge:
        """What goes up and down."""
        return self.gauges(name, about).one()

    def gauges(self, name: str, about: str, *labels: str) -> Many[Gauge]:
        """The same, for each combination of ``labels``."""
        names = self._list(name, "gauge", about, labels)
        return Many(Gauge(name, about, names, registry=self.registry), self._values)

    def histogram(self, name: str, about: str, buckets: Sequence[float]) -> Histogram:
        """How something is spread."""
        return self.histograms(name, about, buckets).one()

    def histograms(
        self, name: str, about: str, buckets: Sequence[float], *labels: str
    ) -> Many[Histogram]:
        """The same, for each combination of ``labels``."""
        names = self._list(name, "histogram", about, labels)
        made = Histogram(name, about, names, buckets=buckets, registry=self.registry)
        return Many(made, self._values)

    def _list(self, name: str, kind: str, about: str, labels: tuple[str, ...]) -> tuple[str, ...]:
        self.rows.append(Row(name, kind, labels, about))
        return (*self._names, *labels)


class View(Protocol):
    """Where metrics are seen."""

    def show(self, registry: CollectorRegistry) -> None:
        """From now on, what ``registry`` has at that moment."""
        ...

    def close(self) -> None:
        """No more."""
        ...


class Views:
    """Several of them; the same metrics are seen in each."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = tuple(views)

    def show(self, registry: CollectorRegistry) -> None:
        """Show ``registry`` everywhere."""
        for view in self._views:
            view.show(registry)

    def close(self) -> None:
        """Show it nowhere."""
        for view in self._views:
            view.close()


class Few:
    """Label values of which there could be any number: the first ``most``, then only "other".

    Prometheus keeps a series for each value that it has ever seen.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, value: str) -> str:
        """``value``, or "other"."""
        if value not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(value)
        return value


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Not so that a second worker may take a port that the first one has.
    allow_reuse_port = False

    def server_bind(self) -> None:
        """Bind without asking the network for our own name, which may take it seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: object, client_address: object) -> None:
        """A scraper that went away is no news."""


class Endpoint:
    """Metrics over HTTP at ``/metrics``; ``port`` is where it is."""

    def __init__(self, address: str, port: int) -> None:
        """Take the port; raises ConfigError if that cannot be."""
        kind = type(
            "Server", (_Server,), {"address_family": AF_INET6 if ":" in address else AF_INET}
        )
        try:
            self._server: _Server = kind((address, port), _Answer)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"--metrics-port {port} cannot be had on {address}: {why}; give another one, or off"
            ) from None
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def show(self, registry: CollectorRegistry) -> None:
        """Answer from now on, with what ``registry`` has at that moment."""
        self._server.registry = registry  # type: ignore[attr-defined]
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _Answer(BaseHTTPRequestHandler):
    timeout = SLOW_S
    server_version, sys_version = "warren", ""  # the Python version is not for others

    def do_GET(self) -> None:
        """Show the metrics."""
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND, f"metrics are at {PATH}")
            return
        encode, kind = choose_encoder(self.headers.get("Accept", ""))
        body = encode(self.server.registry)  # type: ignore[attr-defined]
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: each scrape would be a line."""
