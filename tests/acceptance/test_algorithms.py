"""Algorithms over a real broker: as in one process, whoever lies, and no spoilt model."""

import signal
from pathlib import Path

import numpy as np
import pytest

from client_worker import FederatedClient
from coordinator_worker import FederatedCoordinator
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests import tasks
from tests.acceptance.test_federation import start_client, start_coordinator
from tests.conftest import Place
from tests.support.processes import BIN, Worker, workers

ROUNDS = 5
CLIENTS = ("alfa", "bravo", "charlie")


def federation(place: Place, folder: Path, task: str, *arguments: str) -> tuple[State, str]:
    """The last state of a run of three clients, and what its coordinator said."""
    with workers() as started:
        for shard, user in enumerate(CLIENTS):
            started.append(start_client(place, user, task, "--shard", str(shard)))
        started.append(start_coordinator(place, folder, "--quorum", "3", *arguments))
        assert started[-1].end() == 0, started[-1].said
        said = started[-1].said
    state = checkpoint.load(folder)
    assert state is not None
    return state, said


@pytest.mark.parametrize(
    ("aggregator", "server_optimizer"),
    [
        ("uniform", "momentum:learning_rate=0.5,beta=0.5"),
        ("median", "adam:learning_rate=0.1"),
        ("geometric-median", "sgd:learning_rate=0.7"),
    ],
)
def test_over_the_broker_and_in_one_process_it_is_the_same_algorithm(
    place: Place, tmp_path: Path, aggregator: str, server_optimizer: str
) -> None:
    names = ("--aggregator", aggregator, "--server-optimizer", server_optimizer)
    state, _ = federation(place, tmp_path, "line", *names, "--rounds", str(ROUNDS))
    made = [tasks.line(shard) for shard in range(3)]
    clients = [FederatedClient(task.model, task.data, task.learning_rate) for task in made]
    coordinator = FederatedCoordinator(
        [client.model for client in clients],
        aggregator=aggregator,
        server_optimizer=server_optimizer,
    )
    for _ in range(ROUNDS):
        updates = [client.train(coordinator.weights) for client in clients]
        coordinator.send(coordinator.aggregate(updates))
    for ours, reference in zip(state.weights, coordinator.weights, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-7, atol=1e-9)


def test_a_run_ends_with_the_mean_of_its_versions_if_one_is_kept(
    place: Place, tmp_path: Path
) -> None:
    names = ("--average", "0.5", "--rounds", "2")
    state, _ = federation(place, tmp_path, "line", *names)
    plain = tmp_path / "plain"
    plain.mkdir()
    first, _ = federation(place, plain, "line", "--rounds", "1")
    again = tmp_path / "again"
    again.mkdir()
    second, _ = federation(place, again, "line", "--rounds", "2")
    for ours, one, two in zip(state.weights, first.weights, second.weights, strict=True):
        np.testing.assert_allclose(ours, 0.25 * one + 0.5 * two)  # and a quarter of the zeros


def test_one_liar_of_three_moves_the_mean_and_not_the_median(place: Place, tmp_path: Path) -> None:
    ends = {}
    for rule in ("mean", "median"):
        folder = tmp_path / rule
        folder.mkdir()
        names = ("--aggregator", rule, "--max-update-norm", "off", "--rounds", "3")
        state, _ = federation(place, folder, "line_or_lie", *names)
        ends[rule] = float(np.abs(state.weights[0]).max())
    assert ends["mean"] > 1e5
    assert ends["median"] < 10


def test_a_spoilt_model_is_never_published(place: Place, tmp_path: Path) -> None:
    names = ("--server-optimizer", "sgd:learning_rate=1e300", "--rounds", "2")
    state, said = federation(place, tmp_path, "line_or_lie", *names, "--max-update-norm", "off")
    assert state.version == 2
    reasons = [str(record.diverged) for record in state.history]
    assert all("not be finite" in reason or "NaN" in reason for reason in reasons)
    assert not state.weights.buffer.any()  # as it began
    assert "round_diverged" in said


def test_the_best_version_is_kept_and_a_plateau_ends_the_run(place: Place, tmp_path: Path) -> None:
    monitor = ("--monitor", "eval_loss:min", "--patience", "4", "--rounds", "500")
    state, _said = federation(place, tmp_path, "line", *monitor)
    losses = [record.metrics["eval_loss"] for record in state.history]
    assert state.best is not None
    assert state.best.value == min(losses)
    assert losses[state.best.version] == state.best.value
    assert state.version == state.best.version + 5
    assert state.version < 500
    with np.load(tmp_path / "best.npz") as best:
        w, b = (best[name] for name in best.files)
    examples = [tasks.line(shard).validation for shard in range(3)]
    squares = [((x @ w + b - y) ** 2).mean() for x, y in examples]
    assert np.mean(squares) == pytest.approx(state.best.value)


def test_the_coordinator_has_models_judged_by_a_program_beside_it(
    place: Place, tmp_path: Path
) -> None:
    program = f"{BIN / 'client-worker'} evaluate --task tests.tasks:line --shard 1 --model"
    with workers() as started:
        for shard, user in enumerate(CLIENTS):
            started.append(start_client(place, user, "line", "--shard", str(shard)))
        told = ("--quorum", "3", "--evaluate", program)
        coordinator = start_coordinator(place, tmp_path, *told)
        started.append(coordinator)
        first = coordinator.wait_for("evaluated")
        second = coordinator.wait_for("evaluated")
        assert first["version"] < second["version"]
        assert second["metrics"]["loss"] < first["metrics"]["loss"]
        assert coordinator.kill(signal.SIGTERM) == 128 + signal.SIGTERM


def test_a_program_that_fails_costs_a_warning(place: Place, tmp_path: Path) -> None:
    _state, said = federation(
        place, tmp_path, "line", "--rounds", "3", "--evaluate", "no-such-program"
    )
    assert "not_evaluated" in said


def test_a_federation_that_is_too_small_for_the_quorum_is_told_at_once(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        arguments = ("--checkpoint-dir", str(tmp_path), "--quorum", "5")
        url = place.urls["coordinator"]
        started.append(Worker("coordinator-worker", url, *arguments, WARREN_CLIENTS="3"))
        assert started[0].end() == 2
        assert "needs 5 clients and the federation has 3" in started[0].said
