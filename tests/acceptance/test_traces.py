"""Spans and metrics of real workers at a collector: a round is one trace, whoever worked on it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Place
from tests.support.collector import Collector, Point, Span, collector
from tests.support.pace import allow
from tests.support.ports import free_port
from tests.support.processes import BIN, ROOT, Worker, workers
from warren_shared.observability.tracing import round_of

ROUNDS = 3
CLIENTS = ("alfa", "bravo")
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
METRICS = {"WARREN_OTEL_METRICS": "true"}


@pytest.fixture(autouse=True)
def _with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that `make test` runs the coordinator in has no extras."""
    monkeypatch.setenv("TEST_COORDINATOR_WORKER", str(BIN / "coordinator-worker"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def federation(
    place: Place, folder: Path, endpoint: str, *extra: str, **more: str
) -> Iterator[Worker]:
    told = SOON | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "WARREN_TRACES": "true"} | more
    for user in CLIENTS:
        task = ("--task", "tests.tasks:line")
        yield Worker("client-worker", place.urls[user], *task, **told)
    yield Worker(
        "coordinator-worker", place.urls["coordinator"], "--checkpoint-dir", str(folder),
        "--quorum", "2", "--rounds", str(ROUNDS), *extra, **told,
    )  # fmt: skip


def test_a_round_is_one_trace_of_all_who_worked_on_it(place: Place, tmp_path: Path) -> None:
    with collector() as spans, workers() as started:
        started += federation(place, tmp_path, spans.endpoint)
        assert [worker.end() for worker in started] == [0, 0, 0]
        found = complete(spans)
    runs = {span.attributes["warren.run"] for span in found if span.name == "round"}
    (run,) = runs
    for version in range(1, ROUNDS + 1):
        top = round_of(place.name, run, version)
        trace = [span for span in found if span.trace == f"{top.trace:032x}"]
        (root,) = [span for span in trace if not span.parent]
        assert (root.name, root.id) == ("round", f"{top.span:016x}")
        assert root.attributes["warren.version"] == version
        assert root.attributes["warren.updates"] == 2
        assert {span.parent for span in trace} == {"", root.id}
        assert names(trace, "warren-client") == ["publish", "publish", "train", "train"]
        assert names(trace, "warren-coordinator") == sorted(
            [
                "round",
                "collect",
                "fold",
                "fold",
                "aggregate",
                "checkpoint",
                "publish",
                "acknowledge",
            ]
        )
        for fold in (span for span in trace if span.name == "fold"):
            client = fold.attributes["warren.client"]
            (train,) = [
                s for s in trace if s.name == "train" and s.attributes["warren.client"] == client
            ]
            assert fold.links == ((train.trace, train.id),)
            assert train.ended <= fold.began
        collect, *rest = (one(trace, n) for n in ("collect", "aggregate", "checkpoint"))
        assert collect.ended <= rest[0].began <= rest[0].ended <= rest[1].began
        for span in trace:
            assert span.began <= span.ended
            if span.service == "warren-coordinator":
                assert root.began <= span.began <= span.ended <= root.ended
    assert len({span.id for span in found}) == len(found)


def test_metrics_come_at_the_collector_while_a_run_goes_on_and_at_its_end(
    place: Place, tmp_path: Path
) -> None:
    told = METRICS | {"OTEL_METRIC_EXPORT_INTERVAL": "200"}
    with collector() as found, workers() as started:
        started += federation(place, tmp_path, found.endpoint, "--metrics-port", "off", **told)
        assert [worker.end() for worker in started] == [0, 0, 0]

        def newest(points: list[Point], name: str) -> dict[str, float]:
            """By who sent it."""
            return {one.instance: one.value for one in points if one.name == name}

        points = found.wait_for_points(
            lambda points: (
                ROUNDS in newest(points, "warren_model_version").values()
                and list(newest(points, "warren_client_updates_confirmed").values())
                == [ROUNDS] * len(CLIENTS)
            )
        )
    assert {one.service for one in points} == {"warren-client", "warren-coordinator"}
    accepted = newest(points, "warren_updates_accepted")
    assert list(accepted.values()) == [ROUNDS * len(CLIENTS)]


def complete(spans: Collector) -> list[Span]:
    return spans.wait_for(lambda found: len(found) >= ROUNDS * (8 + 2 * len(CLIENTS)))


def names(spans: list[Span], service: str) -> list[str]:
    return sorted(span.name for span in spans if span.service == service)


def one(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


def test_without_a_collector_work_goes_on_and_ends_and_one_line_says_so(
    place: Place, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    with workers() as started:
        started += federation(place, tmp_path, endpoint, **METRICS)
        coordinator = started[-1]
        coordinator.wait_for("model_published", version=ROUNDS)
        began = time.monotonic()
        assert [worker.end() for worker in started] == [0, 0, 0]
        assert time.monotonic() - began < allow(10)
    for worker in started:
        assert worker.said.count('"traces_lost"') == 1, worker.said
        assert worker.said.count('"metrics_lost"') == 1, worker.said
        assert f"no collector takes our metrics at {endpoint}" in worker.said
        assert f"no collector takes our spans at {endpoint}" in worker.said
        assert "Traceback" not in worker.said
        assert all(line.startswith("{") for line in worker.lines)


@pytest.mark.parametrize("flag", ["--traces", "--otel-metrics"])
@pytest.mark.parametrize("command", ["coordinator-worker", "client-worker"])
def test_a_missing_extra_is_one_line(place: Place, tmp_path: Path, command: str, flag: str) -> None:
    package = command.replace("-", "_")
    words = {
        "coordinator-worker": ["--checkpoint-dir", str(tmp_path)],
        "client-worker": ["--task", "tests.tasks:line"],
    }[command]
    program = (
        "import sys; sys.modules['opentelemetry.sdk.resources'] = None;"
        f"from {package}.cli import main; sys.exit(main({[*words, flag]!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"WARREN_BROKER_URL": place.urls["alfa"], "WARREN_METRICS_PORT": "off"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    told = f"{command}: {flag} needs OpenTelemetry: pip install 'warren-fl[traces]'"
    assert done.stderr.splitlines()[-1] == told
    assert "Traceback" not in done.stderr
