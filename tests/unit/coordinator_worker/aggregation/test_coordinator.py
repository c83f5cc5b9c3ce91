"""FederatedCoordinator, as a reader of an article about federated learning would use it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator_worker import FederatedCoordinator
from coordinator_worker.aggregation.weighted_sum import WeightedSum
from warren_shared.errors import ConfigError, Rejected
from warren_shared.tensors.layout import Layout, Weights
from warren_shared.tensors.update import Update


class Model:
    def __init__(self, *weights: list[float]) -> None:
        self.weights = [np.array(array) for array in weights]

    def get_weights(self) -> list[np.ndarray]:
        return self.weights

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.weights = [np.array(array) for array in weights]


@pytest.fixture
def models() -> list[Model]:
    return [Model([1.0, 2.0], [3.0]), Model([0.0, 0.0], [0.0])]


def test_updates_move_the_model_by_their_weighted_mean(models: list[Model]) -> None:
    coordinator = FederatedCoordinator(models)
    updates = [
        Update([np.array([1.0, 0.0]), np.array([4.0])], num_examples=1),
        Update([np.array([0.0, 4.0]), np.array([0.0])], num_examples=3),
    ]
    found = coordinator.aggregate(updates)
    np.testing.assert_array_equal(found[0], [1.25, 5.0])  # 1 + 1/4, 2 + 3*4/4
    np.testing.assert_array_equal(found[1], [4.0])  # 3 + 4/4


def test_aggregating_changes_nothing_until_the_result_is_sent(models: list[Model]) -> None:
    coordinator = FederatedCoordinator(models)
    found = coordinator.aggregate([Update([np.ones(2), np.ones(1)], 5)])
    np.testing.assert_array_equal(coordinator.weights[0], [1.0, 2.0])
    coordinator.send(found)
    np.testing.assert_array_equal(coordinator.weights[0], [2.0, 3.0])
    for model in models:
        np.testing.assert_array_equal(model.weights[0], [2.0, 3.0])
        np.testing.assert_array_equal(model.weights[1], [4.0])


def test_bytes_between_tensors_are_zeros_whatever_updates_have_there() -> None:
    """Or a version that is kept, whose file has none of them, would not have its own digest."""
    coordinator = FederatedCoordinator([Model32()])
    delta = Weights.of([np.ones(3, np.float32)])
    delta.buffer[12:].view(np.float32)[:] = 5
    found = coordinator.aggregate([Update(delta, 5)])
    assert isinstance(found, Weights)
    assert bytes(found.buffer[12:]) == bytes(4)
    np.testing.assert_array_equal(found[0], [1, 1, 1])


class Model32(Model):
    def __init__(self) -> None:
        self.weights = [np.zeros(3, np.float32)]


def test_plain_arrays_can_be_sent(models: list[Model]) -> None:
    coordinator = FederatedCoordinator(models)
    coordinator.send([np.array([7.0, 8.0]), np.array([9.0])])
    np.testing.assert_array_equal(models[1].weights[0], [7.0, 8.0])


def test_sums_and_updates_may_be_mixed(models: list[Model]) -> None:
    coordinator = FederatedCoordinator(models)
    parts = [Update([np.full(2, float(n)), np.full(1, float(n))], n) for n in (1, 2, 3)]
    whole = coordinator.aggregate(parts)
    partial = WeightedSum(coordinator.weights.layout)
    partial.add(parts[1])
    partial.add(parts[2])
    again = coordinator.aggregate([parts[0], partial])
    np.testing.assert_allclose(again[0], whole[0], rtol=1e-12)


def test_there_is_nothing_to_aggregate_without_updates(models: list[Model]) -> None:
    with pytest.raises(ConfigError, match="no updates"):
        FederatedCoordinator(models).aggregate([])


def test_an_update_of_another_model_is_refused(models: list[Model]) -> None:
    with pytest.raises(ConfigError, match="tensor 0"):
        FederatedCoordinator(models).aggregate([Update([np.ones(3), np.ones(1)], 1)])


def test_a_coordinator_needs_a_model() -> None:
    with pytest.raises(ConfigError, match="at least one model"):
        FederatedCoordinator([])


def test_updates_may_come_from_a_generator_and_a_sum_counts_as_all_that_is_in_it(
    models: list[Model],
) -> None:
    coordinator = FederatedCoordinator(models)
    parts = [Update([np.full(2, float(n)), np.full(1, float(n))], n) for n in (1, 2, 3)]
    whole = coordinator.aggregate(part for part in parts)
    sums = [WeightedSum(coordinator.weights.layout) for _ in range(2)]
    sums[0].add(parts[2])
    sums[1].add(parts[1])
    again = coordinator.aggregate([*sums, parts[0]])
    np.testing.assert_allclose(again[0], whole[0], rtol=1e-12)
    assert coordinator.weights[0] is not again[0]


def test_a_sum_of_another_model_is_refused_even_if_it_is_as_large() -> None:
    coordinator = FederatedCoordinator([Matrix((2, 3))])
    other = WeightedSum(Layout.of([np.zeros((3, 2))]))
    other.add(Update([np.ones((3, 2))], 1))
    for updates in ([other], [Update([np.ones((2, 3))], 1), other]):
        with pytest.raises(ConfigError, match="tensor 0"):
            coordinator.aggregate(updates)


def test_a_sum_of_nothing_is_nothing_to_aggregate(models: list[Model]) -> None:
    coordinator = FederatedCoordinator(models)
    with pytest.raises(ConfigError, match="no updates"):
        coordinator.aggregate([WeightedSum(coordinator.weights.layout)])


def test_an_update_that_is_not_finite_is_rejected(models: list[Model]) -> None:
    with pytest.raises(Rejected, match="not-finite"):
        FederatedCoordinator(models).aggregate([Update([np.array([np.nan, 0]), np.ones(1)], 1)])


def test_weights_that_do_not_fit_are_sent_to_nobody(models: list[Model]) -> None:
    coordinator = FederatedCoordinator(models)
    with pytest.raises(ConfigError, match="tensor 1"):
        coordinator.send([np.zeros(2), np.zeros(2)])
    np.testing.assert_array_equal(models[0].weights[0], [1.0, 2.0])
    np.testing.assert_array_equal(coordinator.weights[0], [1.0, 2.0])


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(-100, 100)), min_size=1, max_size=6))
def test_aggregation_is_the_papers_formula(updates: list[tuple[int, float]]) -> None:
    """McMahan et al. 2017, algorithm 1: the mean of the clients' models, weighted by examples."""
    start = np.array([[1.0, -2.0, 3.0]])
    coordinator = FederatedCoordinator([Matrix((1, 3))])
    coordinator.send([start])
    found = coordinator.aggregate([Update([np.full((1, 3), d)], n) for n, d in updates])
    models = np.stack([start + d for _, d in updates])
    expected = np.average(models, axis=0, weights=[n for n, _ in updates])
    np.testing.assert_allclose(found[0], expected, rtol=1e-9, atol=1e-9)


class Matrix(Model):
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.weights = [np.zeros(shape)]
