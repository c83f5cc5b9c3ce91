"""The metrics of Prometheus at an OpenTelemetry collector: the same list, the same figures."""

from math import nan

import pytest

from coordinator_worker.monitoring import events
from coordinator_worker.monitoring.prometheus import Metrics
from tests.support.collector import Point, collector
from warren_shared.errors import ConfigError
from warren_shared.observability.otlp_metrics import INTERVAL, OtlpMetrics, interval_s
from warren_shared.observability.prometheus import Meters


@pytest.fixture(autouse=True)
def _no_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in (INTERVAL, "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)


def sent(meters: Meters, monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    """What comes at the collector when the worker ends."""
    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
        sender = OtlpMetrics("warren-coordinator", "f")
        sender.show(meters.registry)
        sender.close()
        return found.wait_for_points(bool)


def test_all_that_prometheus_is_shown_comes_under_the_same_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = Metrics("f", 2)
    metrics.on_event(events.UpdateRejected("alfa", "stale"))
    points = sent(metrics.meters, monkeypatch)
    families = list(metrics.meters.registry.collect())
    shown = {family.name for family in families if family.samples}
    assert {point.name for point in points} == shown
    kinds = {"counter": "sum", "gauge": "gauge", "histogram": "histogram"}
    wanted = {family.name: kinds[family.type] for family in families if family.samples}
    assert {point.name: point.kind for point in points} == wanted
    (rejected,) = [one for one in points if one.name == "warren_updates_rejected"]
    assert rejected.labels == {"federation": "f", "reason": "stale"}
    assert rejected.value == 1
    assert {one.service for one in points} == {"warren-coordinator"}


def test_a_histogram_counts_between_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    meters = Meters({"federation": "f"})
    spread = meters.histograms("warren_size", "sizes", (1, 2, 5), "client")
    for value in (0.5, 1.5, 1.6, 4, 99):
        spread.one("alfa").observe(value)
    spread.one("bravo").observe(3)
    found = {
        one.labels["client"]: (one.value, one.buckets)
        for one in sent(meters, monkeypatch)
        if one.name == "warren_size"
    }
    assert found == {"alfa": (5, (1, 2, 1, 1)), "bravo": (1, (0, 0, 1, 0))}


def test_a_gauge_without_a_value_is_no_reason_to_send_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meters = Meters({"federation": "f"})
    meters.gauge("warren_loss", "loss").set(nan)
    assert any(one.name == "warren_loss" for one in sent(meters, monkeypatch))


def test_an_interval_that_is_none_is_refused() -> None:
    assert interval_s({}) == 60
    assert interval_s({INTERVAL: "100"}) == 0.1
    for text in ("soon", "0", "-1", "inf", "nan"):
        with pytest.raises(ConfigError, match=f"{INTERVAL}={text}: write milliseconds"):
            interval_s({INTERVAL: text})
