"""What Prometheus is shown by a running federation and its broker, and what reads it."""

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3
import yaml
from prometheus_client.parser import text_string_to_metric_families

from broker_config.node.processes import wait_for
from tests.conftest import Place
from tests.support.ports import free_port
from tests.support.processes import DEADLINE_S, Worker, workers
from tests.support.promql import PROMETHEUS_ADDS, Sample, asked, faults, samples
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
ALERTS = [
    rule
    for group in yaml.safe_load((GRAFANA / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
UP = Sample(
    "up", {"job": "warren-coordinator", "instance": "127.0.0.1:9464"}, 1.0
)  # Prometheus's own


def panels() -> list[dict[str, Any]]:
    found = json.loads((GRAFANA / "warren.json").read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def scrape(url: str) -> list[Sample]:
    answer = urllib3.request("GET", url, timeout=DEADLINE_S)
    assert answer.status == 200
    return samples(answer.data.decode())


def scrape_until(url: str, name: str, value: float | None = None, **labels: str) -> list[Sample]:
    """Scrape until there is such a series: RabbitMQ counts a queue's messages every few seconds."""
    pause, deadline = threading.Event(), time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found = scrape(url)
        named = [s for s in found if s.name == name and labels.items() <= s.labels.items()]
        if any(value in (None, sample.value) for sample in named):
            return found
        pause.wait(0.1)
    raise AssertionError(f"no {name} {labels} at {url}")


def queue_metrics(place: Place) -> list[Sample]:
    """What the job `rabbitmq-queues` of our prometheus.yml reads."""
    config = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "rabbitmq-queues"]
    assert job["params"]["vhost"] == ["warren"]
    query = urlencode(job["params"] | {"vhost": place.name}, doseq=True)
    url = str(place.node.metrics_url).removesuffix("/metrics") + job["metrics_path"]
    name = "rabbitmq_detailed_queue_messages_ready"
    scrape_until(f"{url}?{query}", name, queue="update.rejected")
    return scrape_until(f"{url}?{query}", name, queue="update")


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture
def shown(place: Place, tmp_path: Path, ports: tuple[int, int]) -> Iterator[list[Sample]]:
    """All series of a federation of two, whose third member sends rubbish, and of its broker."""
    ours, theirs = ports
    with workers() as started:
        coordinator = Worker(
            "coordinator-worker", place.urls["coordinator"], "--checkpoint-dir", str(tmp_path),
            "--quorum", "2", "--max-staleness", "3", "--metrics-port", str(ours),
            "--monitor", "loss:min",
        )  # fmt: skip
        started.append(coordinator)
        for user, extra in (("alfa", ["--metrics-port", str(theirs)]), ("bravo", [])):
            task = ("--task", "tests.tasks:line")
            started.append(Worker("client-worker", place.urls[user], *task, *extra))
        coordinator.wait_for("model_published", version=2)
        rubbish = Session.for_broker(place.urls["charlie"], "rubbish")
        rubbish.start(DEADLINE_S)
        rubbish.publish([Publication("update", "update", (b"rubbish",), "update", mandatory=True)])
        rubbish.close()
        coordinator.wait_for("update_rejected", client="charlie")
        coordinator.wait_for("model_published")
        found = scrape(f"http://127.0.0.1:{ours}/metrics")
        found += scrape(f"http://127.0.0.1:{theirs}/metrics")
        found += scrape(str(place.node.metrics_url)) + queue_metrics(place)
        yield found


def test_dashboard_and_alerts_ask_only_for_what_a_running_federation_shows(
    shown: list[Sample], place: Place
) -> None:
    wrong: list[str] = []
    for title, expression in (
        *((panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]),
        *((rule["alert"], rule["expr"]) for rule in ALERTS),
    ):
        plain = expression.replace("$federation", place.name).replace("$__rate_interval", "5m")
        wrong.extend(f"{title}: {fault}" for fault in faults(plain, [*shown, UP]))
    assert wrong == []


def test_legends_and_alerts_name_labels_that_are_there(shown: list[Sample]) -> None:
    labels: dict[str, set[str]] = {}
    for sample in (*shown, UP):
        labels.setdefault(sample.name, set()).update(sample.labels)
    texts = [(p["title"], t["expr"], t["legendFormat"]) for p in panels() for t in p["targets"]]
    texts += [
        (rule["alert"], rule["expr"], text)
        for rule in ALERTS
        for text in rule["annotations"].values()
    ]
    for title, expression, text in texts:
        plain = expression.replace("$__rate_interval", "5m")
        names = [selector.name for selector in asked(plain).selectors]
        known = PROMETHEUS_ADDS.union(*(labels[name] for name in names))
        used = re.findall(r"\{\{ *(?:\$labels\.)?([a-z_]+) *\}\}", text)
        assert set(used) <= known, f"{title}: {text}"


def test_the_figures_are_those_of_the_log(place: Place, tmp_path: Path) -> None:
    port = free_port()
    with workers() as started:
        coordinator = Worker(
            "coordinator-worker", place.urls["coordinator"], "--checkpoint-dir", str(tmp_path),
            "--quorum", "2", "--metrics-port", str(port),
        )  # fmt: skip
        started.append(coordinator)
        for user in ("alfa", "bravo"):
            started.append(Worker("client-worker", place.urls[user], "--task", "tests.tasks:line"))
        coordinator.wait_for("model_published", version=3)
        for client in started[1:]:
            assert client.kill(signal.SIGTERM) == 128 + signal.SIGTERM
        found = quiet(f"http://127.0.0.1:{port}/metrics")
        coordinator.kill(signal.SIGTERM)
    actions = [json.loads(line)["action"] for line in coordinator.lines if line.startswith("{")]
    accepted, published = actions.count("update_accepted"), actions.count("model_published")
    for name, expected in (
        ("warren_updates_accepted_total", accepted),
        ("warren_update_staleness_versions_count", accepted),
        ("warren_update_bytes_total", accepted * found["warren_model_bytes"]),
        ("warren_quorum_updates", accepted % 2),
        ("warren_model_version", published - 1),  # the first is version 0
        ("warren_round_duration_seconds_count", published - 1),
        ("warren_checkpoint_duration_seconds_count", published - 1),
        ("warren_publish_duration_seconds_count", published - 1),
        ("warren_client_joins_total", actions.count("client_joined")),
        ("warren_broker_connected", 1),
        ("warren_coordinator_active", 1),
    ):
        assert found[name] == expected, name
    assert 0 < found["warren_fold_seconds_total"] < found["warren_round_duration_seconds_sum"]


def test_a_lost_broker_is_counted_by_both_workers(
    place: Place, tmp_path: Path, ports: tuple[int, int]
) -> None:
    with workers() as started:
        for command, user, port, arguments in (
            ("coordinator-worker", "coordinator", ports[0], ["--checkpoint-dir", str(tmp_path)]),
            ("client-worker", "alfa", ports[1], ["--task", "tests.tasks:line"]),
        ):
            told = ("--metrics-port", str(port), *arguments)
            started.append(Worker(command, place.urls[user], *told))
        for worker, user, port, prefix in zip(
            started, ("coordinator", "alfa"), ports, ("broker", "client"), strict=True
        ):
            url = f"http://127.0.0.1:{port}/metrics"
            worker.wait_for("connected")
            scrape_until(url, f"warren_{prefix}_connected", 1)
            place.management.delete("connections", "username", user)
            worker.wait_for("connection_lost")
            scrape_until(url, f"warren_{prefix}_disconnects_total", 1)
            scrape_until(url, f"warren_{prefix}_connected", 1)


def quiet(url: str) -> dict[str, float]:
    """What is shown at ``url`` of the federation when nothing moves any more."""
    pause, deadline, before = threading.Event(), time.monotonic() + DEADLINE_S, None
    while time.monotonic() < deadline:
        text = urllib3.request("GET", url).data.decode()
        families = text_string_to_metric_families(text)
        named = (s for f in families for s in f.samples if s.name.startswith("warren"))
        found = {s.name: s.value for s in named}
        if found == before:
            return found
        before = found
        pause.wait(0.5)
    raise AssertionError("it never comes to rest")


def is_ours(taken: socket.socket, port: int) -> bool:
    try:
        taken.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_the_coordinator_goes_on_without_metrics_if_the_default_port_is_taken(
    place: Place, tmp_path: Path
) -> None:
    with socket.socket() as taken, workers() as started:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Another test's coordinator may have it.
        assert wait_for(lambda: is_ours(taken, 9464), DEADLINE_S)
        taken.listen()
        worker = Worker(
            "coordinator-worker", place.urls["coordinator"], "--checkpoint-dir", str(tmp_path)
        )
        started.append(worker)
        said = worker.wait_for("metrics_off")["message"]
        assert said.startswith("no metrics: --metrics-port 9464 cannot be had on 127.0.0.1: ")
        worker.wait_for("connected")


@pytest.mark.parametrize("command", ["coordinator-worker", "client-worker"])
def test_a_port_that_was_asked_for_and_is_taken_ends_a_worker_with_one_line(
    place: Place, tmp_path: Path, command: str
) -> None:
    with socket.socket() as taken, workers() as started:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        user, arguments = {
            "coordinator-worker": ("coordinator", ["--checkpoint-dir", str(tmp_path)]),
            "client-worker": ("alfa", ["--task", "tests.tasks:line"]),
        }[command]
        worker = Worker(command, place.urls[user], "--metrics-port", str(port), *arguments)
        started.append(worker)
        assert worker.end() == 2
    said = f"{command}: --metrics-port {port} cannot be had on 127.0.0.1: Address already in use; "
    assert worker.lines[-1] == f"{said}give another one, or off\n"
    assert "Traceback" not in worker.said
