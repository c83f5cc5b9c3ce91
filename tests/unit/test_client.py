"""FederatedClient and tasks, without a framework."""

from pathlib import Path

import numpy as np
import pytest

from client_worker import FederatedClient, Task
from client_worker.client import count_examples
from client_worker.task import TaskSource
from shared.errors import ConfigError
from tests.tasks import Ledger, Line, line


@pytest.fixture
def client() -> FederatedClient:
    task = line(features=2)
    return FederatedClient(task.model, task.data, task.learning_rate, validation=task.validation)


def test_the_delta_is_what_training_changed(client: FederatedClient) -> None:
    start = [np.ones((2, 1)), np.full(1, 2.0)]
    update = client.train(start)
    for trained, before, delta in zip(client.weights(), start, update.delta, strict=True):
        np.testing.assert_allclose(trained - before, delta, rtol=1e-12)
        assert np.abs(delta).max() > 0.1
    assert update.num_examples == 100


def test_evaluation_is_of_the_global_model_and_the_loss_of_training(
    client: FederatedClient,
) -> None:
    exact = [np.array([[1.0], [2.0]]), np.array([3.0])]
    assert client.train(exact).metrics["eval_loss"] == pytest.approx(0, abs=1e-20)
    off = client.train([np.zeros((2, 1)), np.zeros(1)]).metrics
    assert off["eval_loss"] > 1
    assert off["loss"] > 1


def test_update_replaces_the_local_model(client: FederatedClient) -> None:
    client.update([np.full((2, 1), 7.0), np.full(1, 8.0)])
    np.testing.assert_array_equal(client.weights()[0], [[7.0], [7.0]])
    assert client.evaluate()["loss"] > 1


def test_a_global_model_of_another_layout_is_refused(client: FederatedClient) -> None:
    with pytest.raises(ConfigError, match="tensor 0"):
        client.train([np.ones((3, 1)), np.ones(1)])


def test_a_metric_that_is_not_a_number_is_left_out() -> None:
    class Odd(Ledger):
        def fit(self, data: list[int], learning_rate: float) -> dict[str, float]:
            return {"loss": float("nan"), "norm": 2.0}

    client = FederatedClient(Odd(2), [0], 0.1)
    assert client.train([np.zeros(2, np.float32)]).metrics == {"norm": 2.0}


def test_a_model_that_cannot_take_part_is_told_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match="set_weights, fit"):
        FederatedClient(type("Half", (), {"get_weights": lambda self: []})(), [1], 0.1)


@pytest.mark.parametrize(
    ("data", "count"), [((np.zeros((5, 2)), np.zeros(5)), 5), (np.zeros((4, 2)), 4), ([1, 2], 2)]
)
def test_examples_are_counted(data: object, count: int) -> None:
    assert count_examples(data) == count


def test_a_client_without_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="no training data"):
        count_examples((np.zeros((0, 2)), np.zeros(0)))
    with pytest.raises(ConfigError, match="give num_examples"):
        count_examples(iter([1]))


def test_the_command_line_makes_the_task_and_config_fills_in_the_rest() -> None:
    source = TaskSource("tests.tasks:line", ["--shard", "2", "--learning-rate=0.5"])
    config = {"features": 3, "shard": 1, "unknown": 9}
    assert source.arguments(config) == {"features": 3, "shard": 2, "learning_rate": 0.5}
    assert source.takes("features")
    assert not source.takes("shard")
    task = source.make(source.arguments(config))
    assert (len(task.data[0]), task.data[0].shape[1], task.learning_rate) == (140, 3, 0.5)


def test_a_config_that_a_task_cannot_take_is_one_line() -> None:
    source = TaskSource("tests.tasks:line", [])
    with pytest.raises(ConfigError, match="--features many"):
        source.arguments({"features": "many"})


def test_missing_data_is_one_line_that_names_it(tmp_path: Path) -> None:
    source = TaskSource("tests.tasks:missing_data", ["--data", str(tmp_path / "none.csv")])
    with pytest.raises(ConfigError, match=r"none\.csv"):
        source.make(source.arguments({}))


def test_a_module_that_lacks_a_package_is_told_apart_from_a_missing_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy_task.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="install no_such_package_at_all"):
        TaskSource("needy_task:task", [])


def test_a_task_may_be_an_object_without_arguments() -> None:
    made = Task(Line(1), (np.zeros((1, 1)), np.zeros((1, 1))))
    source = TaskSource.__new__(TaskSource)
    source.path, source._attribute, source._parameters, source._given = "x:y", made, {}, {}
    assert source.make({}) is made
