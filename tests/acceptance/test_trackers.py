"""MLflow and Weights & Biases, offline: what a run tells them, and that they harm nothing."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from coordinator_worker.monitoring.trackers import TAG
from coordinator_worker.storage import checkpoint
from tests.conftest import Place
from tests.support.processes import Worker, workers

OFFLINE = {"WANDB_MODE": "offline", "MLFLOW_ALLOW_FILE_STORE": "true"}


@pytest.fixture(autouse=True)
def with_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator that is installed alone has none."""
    monkeypatch.delenv("TEST_COORDINATOR_WORKER", raising=False)


def run(place: Place, folder: Path, *words: str, **extra: str) -> Worker:
    with workers() as started:
        task = ("--task", "tests.tasks:line")
        started.append(Worker("client-worker", place.urls["alfa"], *task))
        told = ("--checkpoint-dir", str(folder), "--quorum", "1", *words)
        url = place.urls["coordinator"]
        started.append(one := Worker("coordinator-worker", url, *told, **(OFFLINE | extra)))
        assert [worker.end() for worker in reversed(started)] == [0, 0], one.said
    return one


def test_mlflow_has_settings_rounds_and_the_best_model_of_a_run_that_goes_on(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file://{tmp_path / 'tracked'}"
    told = ("--mlflow", uri, "--monitor", "eval_loss:min", "--server-optimizer", "momentum")
    first = run(place, tmp_path / "run", "--rounds", "2", *told)
    run(place, tmp_path / "run", "--rounds", "4", *told)
    assert "tracker_failed" not in first.said
    state = checkpoint.load(tmp_path / "run")
    assert state is not None
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(place.name)
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.tags[TAG] == state.run
    assert found.data.tags["warren.ended"] == "--rounds 4 are made"
    assert found.data.params["server_optimizer"] == "momentum"
    assert found.info.status == "FINISHED"
    losses = client.get_metric_history(found.info.run_id, "metric/loss")
    by_step = {one.step: one.value for one in losses}
    assert by_step == {
        record.version: pytest.approx(record.metrics["loss"]) for record in state.history
    }
    evaluated = client.get_metric_history(found.info.run_id, "metric/eval_loss")
    assert {one.step for one in evaluated} == {0, 1, 2, 3, 4}
    assert [one.path for one in client.list_artifacts(found.info.run_id, "model")] == [
        "model/best.npz"
    ]


def test_wandb_keeps_a_run_offline(place: Place, tmp_path: Path) -> None:
    one = run(place, tmp_path / "run", "--rounds", "2", "--wandb", "wards")
    assert "tracker_failed" not in one.said
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    told = kept.read_bytes()
    for words in (b"metric/loss", b"server_optimizer", b"--rounds 2 are made"):
        assert words in told


def test_a_tracker_that_is_away_costs_a_line_and_no_round(place: Place, tmp_path: Path) -> None:
    away = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
    one = run(place, tmp_path / "run", "--rounds", "3", "--mlflow", "http://127.0.0.1:9", **away)
    assert one.said.count('"action": "tracker_failed"') == 1
    state = checkpoint.load(tmp_path / "run")
    assert state is not None
    assert state.version == 3
