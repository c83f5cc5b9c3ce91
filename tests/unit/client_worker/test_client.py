"""FederatedClient and tasks, without a framework."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client_worker import FederatedClient, Task
from client_worker.client import count_examples
from client_worker.tasks.task import TaskSource
from coordinator_worker import FederatedCoordinator
from tests.tasks import Ledger, Line, line
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Weights


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


def test_a_metric_that_is_not_a_number_says_so() -> None:
    class Odd(Ledger):
        def fit(self, data: list[int], learning_rate: float) -> dict[str, float]:
            return {"loss": float("nan"), "norm": 2.0}

    client = FederatedClient(Odd(2), [0], 0.1)
    update = client.train([np.zeros(2, np.float32)])
    assert (update.metrics, update.not_finite) == ({"norm": 2.0}, ["loss"])


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


class InPlace:
    """A model that keeps the arrays it is given, hands out its own, and trains in place."""

    def __init__(self) -> None:
        self.arrays = [np.zeros(3)]

    def get_weights(self) -> list[np.ndarray]:
        return self.arrays

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.arrays = weights

    def fit(self, data: list[int], learning_rate: float) -> None:
        self.arrays[0] += learning_rate


def test_a_model_that_trains_in_place_changes_neither_the_global_model_nor_its_own_delta() -> None:
    start = Weights.of([np.array([1.0, 2.0, 3.0])])
    model = InPlace()
    update = FederatedClient(model, [0], 0.5).train(start)
    np.testing.assert_array_equal(start[0], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(update.delta[0], [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(model.arrays[0], [1.5, 2.5, 3.5])


def test_the_delta_is_not_the_models_own_memory() -> None:
    class Packed(InPlace):
        def get_weights(self) -> Weights:
            self.packed = Weights.of(self.arrays)
            return self.packed

    model = Packed()
    FederatedClient(model, [0], 0.5).train([np.ones(3)])
    np.testing.assert_array_equal(model.packed[0], [1.5, 1.5, 1.5])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-100, 100), min_size=3, max_size=3),
    st.sampled_from(["float32", "float64"]),
)
def test_the_global_model_and_the_delta_make_the_trained_model(
    start: list[float], dtype: str
) -> None:
    model = InPlace()
    model.arrays = [np.zeros(3, dtype)]
    begin = [np.array(start, dtype)]
    update = FederatedClient(model, [0], 0.25).train(begin)
    assert update.delta[0].dtype == dtype
    np.testing.assert_array_equal(begin[0] + update.delta[0], model.arrays[0])


def test_without_validation_there_is_nothing_to_evaluate() -> None:
    task = line(features=2)
    client = FederatedClient(task.model, task.data, task.learning_rate)
    assert client.evaluate() == {}
    assert set(client.train([np.zeros((2, 1)), np.zeros(1)]).metrics) == {"loss"}


def test_a_given_number_of_examples_goes_before_what_is_counted() -> None:
    assert FederatedClient(Ledger(1), [0, 0], 1.0, num_examples=7).num_examples == 7
    assert FederatedClient(Ledger(1), iter([0]), 1.0, num_examples=7).num_examples == 7
    for number in (0, -1):
        with pytest.raises(ConfigError, match=f"num_examples is {number}"):
            FederatedClient(Ledger(1), [0], 1.0, num_examples=number)


def test_a_model_of_integers_or_of_nothing_cannot_take_part() -> None:
    for arrays, what in (([np.zeros(2, int)], "nothing to federate"), ([], "no weights")):
        model = InPlace()
        model.arrays = arrays
        with pytest.raises(ConfigError, match=what):
            FederatedClient(model, [0], 1.0)


def test_clients_and_a_coordinator_in_one_process_learn_the_line() -> None:
    """Full-batch steps of both clients are one step on the data of both: FedAvg is SGD here."""
    tasks = [line(shard, features=2) for shard in (0, 1)]
    clients = [FederatedClient(task.model, task.data, 0.1) for task in tasks]
    coordinator = FederatedCoordinator([client.model for client in clients])
    pooled = Line(2)
    data = tuple(np.concatenate([task.data[part] for task in tasks]) for part in (0, 1))
    for _ in range(60):
        coordinator.send(
            coordinator.aggregate([client.train(coordinator.weights) for client in clients])
        )
        pooled.fit(data, 0.1)
    for ours, theirs in zip(coordinator.weights, pooled.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    np.testing.assert_allclose(coordinator.weights[0], [[1.0], [2.0]], atol=1e-3)
