"""The metrics that Prometheus is shown, sent to an OpenTelemetry collector as well.

There is one list of metrics, the registry of `warren_shared.observability.prometheus`: what it has
at a moment is turned into OTLP's counters, gauges and histograms. Imported by who was told
`--otel-metrics`.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from warren_shared.errors import ConfigError
from warren_shared.observability.log import Log

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.samples import Sample

log = Log(__name__)

INTERVAL: Final = "OTEL_METRIC_EXPORT_INTERVAL"  # milliseconds
INTERVAL_MS: Final = 60_000  # as the standard has it
LAST_CHANCE_S: Final = 2.0  # how long a collector may keep a worker from ending
GIVING_UP_S: Final = 1.0
ATTRIBUTES: Final = "OTEL_RESOURCE_ATTRIBUTES"
INSTANCE: Final = "service.instance.id"
MISSING: Final = "--otel-metrics needs OpenTelemetry: pip install 'warren-fl[traces]'"


class OtlpMetrics:
    """Sends a registry every OTEL_METRIC_EXPORT_INTERVAL ms, and once more at the end.

    Whether it arrives concerns the log only. Several workers of one federation are told apart by
    ``service.instance.id``, which is host and process unless OTEL_RESOURCE_ATTRIBUTES names one.

    Raises:
        ConfigError: OpenTelemetry is not installed, or the interval is none.
    """

    def __init__(self, service: str, federation: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_NAMESPACE, Resource
        except ImportError:
            raise ConfigError(MISSING) from None
        self._interval_s = interval_s(os.environ)
        # Each attempt that failed would be several lines; `_send` says it once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        about = {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", service)}
        if INSTANCE not in os.environ.get(ATTRIBUTES, ""):
            about[INSTANCE] = f"{socket.gethostname()}-{os.getpid()}"
        self._resource = Resource.create({**about, SERVICE_NAMESPACE: federation})
        self._exporter = OTLPMetricExporter()
        self._began_ns = time.time_ns()
        self._ends = threading.Event()
        self._has_failed = False
        self._thread: threading.Thread | None = None

    def show(self, registry: "CollectorRegistry") -> None:
        """Send what ``registry`` has, from now on."""
        self._thread = threading.Thread(
            target=self._serve, args=(registry,), name="otel-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Send the newest once more, as long as that takes no longer than LAST_CHANCE_S."""
        self._ends.set()
        if self._thread is not None:
            self._thread.join(LAST_CHANCE_S)
        self._exporter.shutdown()  # what waits for a collector that is not there waits no more
        if self._thread is not None:
            self._thread.join(GIVING_UP_S)

    def _serve(self, registry: "CollectorRegistry") -> None:
        is_last = False
        while not is_last:
            is_last = self._ends.wait(self._interval_s)
            self._send(registry)

    def _send(self, registry: "CollectorRegistry") -> None:
        from opentelemetry.sdk.metrics.export import (
            MetricExportResult,
            MetricsData,
            ResourceMetrics,
            ScopeMetrics,
        )
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        found = list(converted(registry.collect(), self._began_ns, time.time_ns()))
        scope = ScopeMetrics(InstrumentationScope("warren"), found, "")
        data = MetricsData([ResourceMetrics(self._resource, [scope], "")])
        has_failed = self._exporter.export(data) is not MetricExportResult.SUCCESS
        if has_failed and not self._has_failed:
            log.warning(
                "metrics_lost",
                "no collector takes our metrics at %s; going on without",
                _endpoint(os.environ),
            )
        self._has_failed = has_failed


def interval_s(environment: Mapping[str, str]) -> float:
    """How often, as OTEL_METRIC_EXPORT_INTERVAL says; raises ConfigError if that is no number."""
    text = environment.get(INTERVAL) or str(INTERVAL_MS)
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ConfigError(f"{INTERVAL}={text}: write milliseconds, such as {INTERVAL_MS}")
    return found / 1e3


def converted(families: Iterable["Family"], began_ns: int, now_ns: int) -> Iterator[Any]:
    """What Prometheus's ``families`` are as metrics of OpenTelemetry, cumulative since ``began``.

    A counter loses its ``_total``, which whoever writes it for Prometheus adds again.
    """
    from opentelemetry.sdk.metrics.export import (
        AggregationTemporality,
        Gauge,
        Histogram,
        Metric,
        NumberDataPoint,
        Sum,
    )

    cumulative = AggregationTemporality.CUMULATIVE
    for family in families:
        data: Any
        if family.type == "histogram":
            data = Histogram(list(_histograms(family.samples, began_ns, now_ns)), cumulative)
        else:
            points = [
                NumberDataPoint(dict(sample.labels), began_ns, now_ns, sample.value)
                for sample in family.samples
            ]
            is_counter = family.type == "counter"
            data = Sum(points, cumulative, is_monotonic=True) if is_counter else Gauge(points)
        if data.data_points:
            yield Metric(family.name, family.documentation, "", data)


def _histograms(samples: Iterable["Sample"], began_ns: int, now_ns: int) -> Iterator[Any]:
    """A point for each combination of labels; Prometheus counts up to each bound, OTLP between."""
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    found: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for sample in samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        one = found.setdefault(tuple(labels.items()), {"labels": labels, "bounds": [], "to": []})
        if sample.name.endswith("_bucket"):
            one["bounds"].append(float(sample.labels["le"]))
            one["to"].append(int(sample.value))
        elif sample.name.endswith("_sum"):
            one["sum"] = sample.value
    for one in found.values():
        counts = [to - below for to, below in zip(one["to"], [0, *one["to"]], strict=False)]
        yield HistogramDataPoint(
            attributes=one["labels"],
            start_time_unix_nano=began_ns,
            time_unix_nano=now_ns,
            count=one["to"][-1],
            sum=one["sum"],
            bucket_counts=counts,
            explicit_bounds=one["bounds"][:-1],  # the last is infinity
            min=None,  # type: ignore[arg-type]  # not known, which OTLP allows
            max=None,  # type: ignore[arg-type]
        )


def _endpoint(environment: Mapping[str, str]) -> str:
    names = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    found = (environment[name] for name in names if environment.get(name))
    return next(found, "http://localhost:4318")
