"""What Prometheus is shown, of events as the coordinator and the clients tell them."""

import subprocess
import sys
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from client_worker.runtime import events as of_clients
from client_worker.runtime.prometheus import Metrics as ClientMetrics
from coordinator_worker.monitoring import events
from coordinator_worker.monitoring.prometheus import MAX_CLIENTS, MAX_METRICS, Metrics
from coordinator_worker.state.roster import StatusTotal
from coordinator_worker.state.round_record import RoundRecord
from tests.support.ports import free_port
from warren_shared.errors import ConfigError
from warren_shared.observability.event_bus import Phase, Timings
from warren_shared.observability.prometheus import Endpoint, Meters

RUN = "ab" * 4
ROOT = Path(__file__).parents[4]


def accepted(client: str, version: int = 4, base: int = 4, have: int = 1) -> events.UpdateAccepted:
    return events.UpdateAccepted(
        client=client, version=version, base_version=base, staleness=version - base, examples=10,
        size_bytes=100, metrics={}, quorum=(have, 3),
    )  # fmt: skip


def closed(**metrics: float) -> events.RoundClosed:
    record = RoundRecord(
        5, updates=3, incomplete=1, norm=0.5, seconds=2.5, metrics=metrics or {"loss": 0.25},
        participation={"in": StatusTotal(3, 0.75), "gone": StatusTotal(1, 0.25)},
    )  # fmt: skip
    return events.RoundClosed("ab" * 4, record)


def phases(*done: tuple[str, float, dict[str, Any]]) -> Timings:
    found = Timings()
    found.done = [Phase(name, 10.0, 10.0 + seconds, about) for name, seconds, about in done]
    return found


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("clinics", quorum=3)


def value(metrics: Metrics | ClientMetrics, name: str, /, **labels: str) -> float | None:
    return metrics.meters.registry.get_sample_value(name, {"federation": "clinics", **labels})


def test_a_norm_that_is_hidden_is_no_zero(metrics: Metrics) -> None:
    metrics.on_event(closed())
    assert value(metrics, "warren_update_norm") == 0.5
    hidden = replace(closed().record, absent=frozenset({"norm"}))
    metrics.on_event(events.RoundClosed("ab" * 4, hidden))
    assert isnan(value(metrics, "warren_update_norm") or 0.0)


def test_updates_are_counted_and_their_staleness_is_spread(metrics: Metrics) -> None:
    metrics.on_event(accepted("alfa", have=1))
    metrics.on_event(accepted("bravo", base=2, have=2))
    assert value(metrics, "warren_updates_accepted_total") == 2
    assert value(metrics, "warren_update_bytes_total") == 200
    assert value(metrics, "warren_quorum_updates") == 2
    assert value(metrics, "warren_quorum_required") == 3
    assert value(metrics, "warren_update_staleness_versions_bucket", le="1.0") == 1
    assert value(metrics, "warren_update_staleness_versions_bucket", le="2.0") == 2
    assert value(metrics, "warren_member_base_version", client="bravo") == 2


def test_rejections_are_counted_by_why_also_those_of_a_flood(metrics: Metrics) -> None:
    metrics.on_event(events.UpdateRejected("alfa", "stale"))
    metrics.on_event(events.UpdateFlooded("alfa", "stale"))
    metrics.on_event(events.ClientFlooding("alfa", "stale"))
    metrics.on_event(events.UpdateRejected("bravo", "norm"))
    assert value(metrics, "warren_updates_rejected_total", reason="stale") == 2
    assert value(metrics, "warren_updates_rejected_total", reason="norm") == 1
    assert value(metrics, "warren_floods_total") == 1


def test_a_round_that_closed_says_who_took_part_and_what_is_missing(metrics: Metrics) -> None:
    metrics.on_event(accepted("alfa", have=3))
    metrics.on_event(closed())
    assert value(metrics, "warren_quorum_updates") == 0
    assert value(metrics, "warren_round_duration_seconds_sum") == 2.5
    assert value(metrics, "warren_updates_incomplete_total") == 1
    assert value(metrics, "warren_clients", status="in") == 3
    assert value(metrics, "warren_clients", status="late") == 0
    assert value(metrics, "warren_participation_data_share", status="gone") == 0.25
    assert value(metrics, "warren_metric", source="clients", name="loss") == 0.25


def test_the_time_of_a_round_is_told_by_what_it_went_into(metrics: Metrics) -> None:
    fold = {"client": "alfa", "base_version": 4, "norm": 7.0}
    done = phases(("fold", 1, fold), ("fold", 2, fold), ("aggregate", 3, {}), ("checkpoint", 4, {}))
    metrics.on_event(events.RoundTimed(5, done))
    metrics.on_event(events.RoundSent(RUN, 5, phases(("publish", 5, {}))))
    metrics.on_event(events.RoundSent(RUN, 0, phases()))  # of no round: not zero seconds
    for name, seconds in (
        ("warren_fold_seconds_total", 3),
        ("warren_aggregate_duration_seconds_sum", 3),
        ("warren_checkpoint_duration_seconds_sum", 4),
        ("warren_publish_duration_seconds_sum", 5),
        ("warren_publish_duration_seconds_count", 1),
    ):
        assert value(metrics, name) == pytest.approx(seconds), name
    assert value(metrics, "warren_member_update_norm", client="alfa") == 7


def test_what_there_is_not_yet_is_not_shown_as_zero(metrics: Metrics) -> None:
    assert value(metrics, "warren_model_version") is None
    assert value(metrics, "warren_best_version") is None
    metrics.on_event(events.ModelPublished(RUN, 3, 40, (0, 3)))
    metrics.on_event(events.ModelBest(2, 0.9))
    assert value(metrics, "warren_model_version") == 3
    assert value(metrics, "warren_best_value") == 0.9


def test_the_link_and_the_disk_are_told(metrics: Metrics) -> None:
    for event in (events.LinkConnected(), events.LinkActive(), events.CoordinatorStalled()):
        metrics.on_event(event)
    assert value(metrics, "warren_broker_connected") == 1
    assert value(metrics, "warren_coordinator_active") == 1
    assert value(metrics, "warren_checkpoint_stalled") == 1
    for event in (events.LinkLost(), events.CoordinatorRecovered()):
        metrics.on_event(event)
    assert value(metrics, "warren_broker_connected") == 0
    assert value(metrics, "warren_coordinator_active") == 0
    assert value(metrics, "warren_checkpoint_stalled") == 0
    assert value(metrics, "warren_broker_disconnects_total") == 1


def test_only_so_many_clients_have_series_of_their_own(metrics: Metrics) -> None:
    for number in range(MAX_CLIENTS + 30):
        metrics.on_event(accepted(f"c{number}"))
    last = {"client": f"c{MAX_CLIENTS + 29}", "base_version": 4, "norm": 1.0}
    metrics.on_event(events.RoundTimed(5, phases(("fold", 1, last))))
    families = {family.name: family.samples for family in metrics.meters.registry.collect()}
    for name in ("updates", "last_update_timestamp_seconds", "base_version", "update_norm"):
        clients = [sample.labels["client"] for sample in families[f"warren_member_{name}"]]
        assert len(clients) <= MAX_CLIENTS + 1
    assert value(metrics, "warren_member_updates_total", client="other") == 30
    assert value(metrics, "warren_member_base_version", client="other") is None


def test_made_up_metrics_push_out_none_that_was_there(metrics: Metrics) -> None:
    metrics.on_event(closed(loss=0.5))
    rubbish = {f"a{number}": 1.0 for number in range(200)}
    metrics.on_event(closed(**rubbish, loss=0.25))
    (family,) = [f for f in metrics.meters.registry.collect() if f.name == "warren_metric"]
    assert len(family.samples) == MAX_METRICS
    assert value(metrics, "warren_metric", source="clients", name="loss") == 0.25


def test_a_metric_that_is_no_longer_reported_is_no_longer_shown(metrics: Metrics) -> None:
    metrics.on_event(closed(loss=0.5, auc=0.9))
    metrics.on_event(events.ModelEvaluated(5, {"auc": 0.8}))
    metrics.on_event(closed(loss=0.25))
    assert value(metrics, "warren_metric", source="clients", name="auc") is None
    assert value(metrics, "warren_metric", source="evaluation", name="auc") == 0.8


def test_a_client_tells_of_its_training_and_of_what_became_of_it() -> None:
    metrics = ClientMetrics("clinics")
    about = ("alfa", RUN, 4)
    training, publishing = phases(("train", 3, {})), phases(("publish", 1, {}))
    for event in (
        of_clients.LinkConnected(),
        of_clients.ModelReceived(*about, 100),
        of_clients.UpdateTrained(*about, 2, 10, {"loss": 0.5}, training),
        of_clients.UpdateLate(*about),
        of_clients.UpdateConfirmed(*about, 100, publishing),
        of_clients.UpdateRejected("alfa", "stale"),
        of_clients.LinkLost(),
    ):
        metrics.on_event(event)
    for name, expected in (
        ("model_version", 4), ("model_bytes_total", 100), ("lag_versions", 2),
        ("training_duration_seconds_sum", 3), ("publish_duration_seconds_sum", 1),
        ("updates_confirmed_total", 1), ("update_bytes_total", 100), ("updates_late_total", 1),
    ):  # fmt: skip
        assert value(metrics, f"warren_client_{name}", client="alfa") == pytest.approx(expected)
    reason = {"client": "alfa", "reason": "stale"}
    assert value(metrics, "warren_client_updates_rejected_total", **reason) == 1
    assert value(metrics, "warren_client_metric", client="alfa", name="loss") == 0.5
    assert value(metrics, "warren_client_connected") == 0
    assert value(metrics, "warren_client_disconnects_total") == 1


# --- the endpoint ---


def test_the_endpoint_shows_what_prometheus_reads_in_both_its_formats() -> None:
    endpoint = Endpoint("127.0.0.1", 0)
    try:
        meters = Meters({"federation": 'of "quotes"'})
        meters.counter("warren_things", "things").inc(3)
        endpoint.show(meters.registry)
        url = f"http://127.0.0.1:{endpoint.port}"
        plain = urllib3.request("GET", f"{url}/metrics")
        wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
        newer = urllib3.request("GET", f"{url}/metrics?x=1", headers=wanted)
        elsewhere = urllib3.request("GET", f"{url}/")
    finally:
        endpoint.close()
    samples = [s for f in text_string_to_metric_families(plain.data.decode()) for s in f.samples]
    (found,) = [s for s in samples if s.name == "warren_things_total"]
    assert (found.labels, found.value) == ({"federation": 'of "quotes"'}, 3)
    assert newer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert newer.data.decode().endswith("# EOF\n")
    assert elsewhere.status == 404


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    first = Endpoint("127.0.0.1", free_port())
    try:
        with pytest.raises(ConfigError, match=f"--metrics-port {first.port} cannot be had on 127"):
            Endpoint("127.0.0.1", first.port)
    finally:
        first.close()


def test_an_address_that_is_not_ours_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"--metrics-port 9464 cannot be had on 192\.0"):
        Endpoint("192.0.2.1", 9464)


def test_who_asked_for_no_metrics_does_not_even_load_the_library() -> None:
    program = (
        "import sys; import coordinator_worker.runtime.worker;"
        "from coordinator_worker.monitoring import listeners as one;"
        "from client_worker.runtime import listeners as two; import client_worker.runtime.worker;"
        "from coordinator_worker.settings import CoordinatorSettings as C;"
        "from client_worker.settings import ClientSettings as D;"
        "url = 'amqp://a:b@127.0.0.1/f';"
        "assert one.from_settings(C(broker_url=url, metrics_port='off')) == [];"
        "assert two.from_settings(D(broker_url=url, task='a:b')) == [];"
        "print([m for m in sys.modules if m.startswith(('prom', 'opentel', 'tensorb'))])"
    )  # fmt: skip
    said = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT)
    assert said == "[]\n"
