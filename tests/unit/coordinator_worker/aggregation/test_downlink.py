"""What clients have when models are sent as changes in few bits, and what the coordinator keeps."""

import numpy as np
import pytest

from coordinator_worker import FederatedCoordinator
from coordinator_worker.aggregation.coordinator import MASTER
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Weights
from warren_shared.tensors.model_change import move
from warren_shared.tensors.update import Update

SIZE = 5000


class Model:
    def __init__(self) -> None:
        self.weights: list[np.ndarray] = [np.zeros(SIZE, np.float32)]

    def get_weights(self) -> list[np.ndarray]:
        return self.weights

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.weights = [np.array(array) for array in weights]


def update(seed: int) -> Update:
    return Update([np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)], 1)


def master(coordinator: FederatedCoordinator) -> np.ndarray:
    return coordinator.slots[MASTER][0]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("encoding", ["1bit", "2bit", "int8"])
def test_the_master_moves_as_a_model_that_is_sent_whole(encoding: str, optimizer: str) -> None:
    """So nothing of an update is lost, however little of it clients hear at once."""
    whole = FederatedCoordinator([Model()], server_optimizer=optimizer)
    coded = FederatedCoordinator([model := Model()], server_optimizer=optimizer, downlink=encoding)
    for seed in range(6):
        whole.send(whole.aggregate([update(seed)]))
        before = Weights.of([array.copy() for array in coded.weights])
        sent, change = coded.compressed(coded.aggregate([update(seed)]))
        assert change is not None
        coded.send(sent)
        np.testing.assert_array_equal(master(coded), whole.weights[0])
        np.testing.assert_array_equal(model.weights[0], coded.weights[0])
        after = Weights.empty(before.layout)
        move(before, change, after)
        np.testing.assert_array_equal(after[0], model.weights[0])
    assert 0 < np.linalg.norm(master(coded) - model.weights[0]) < np.linalg.norm(master(coded))


def test_a_model_that_is_sent_as_it_was_computed_goes_whole() -> None:
    coordinator = FederatedCoordinator([model := Model()], downlink="1bit")
    coordinator.send(coordinator.aggregate([update(1)]))
    coordinator.send(coordinator.aggregate([update(2)]))
    both = update(1).delta[0] + update(2).delta[0]
    np.testing.assert_allclose(model.weights[0], both, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(master(coordinator), model.weights[0])


def test_what_is_current_can_be_sent_again_and_the_master_stays() -> None:
    """As after a restart, with both from the checkpoint."""
    coordinator = FederatedCoordinator([Model()], downlink="1bit")
    sent, _ = coordinator.compressed(coordinator.aggregate([update(1)]))
    coordinator.send(sent)
    coordinator.send(coordinator.weights)
    np.testing.assert_array_equal(master(coordinator), update(1).delta[0])
    np.testing.assert_array_equal(coordinator.weights[0], sent[0])
    assert not np.shares_memory(coordinator.weights.buffer, coordinator.slots[MASTER].buffer)


def test_a_model_that_is_sent_whole_leaves_nothing_to_be_brought_later() -> None:
    coordinator = FederatedCoordinator([model := Model()], downlink="1bit")
    coordinator.send(coordinator.compressed(coordinator.aggregate([update(1)]))[0])
    coordinator.send(coordinator.whole(coordinator.aggregate([update(2)])))
    np.testing.assert_array_equal(model.weights[0], master(coordinator))
    np.testing.assert_allclose(model.weights[0], update(1).delta[0] + update(2).delta[0], rtol=1e-6)
    assert not np.shares_memory(coordinator.weights.buffer, coordinator.slots[MASTER].buffer)


def test_a_change_that_is_too_large_goes_whole() -> None:
    coordinator = FederatedCoordinator([model := Model()], downlink="1bit")
    huge = Update([np.full(SIZE, 3e16, np.float32)], 1)
    sent, change = coordinator.compressed(coordinator.aggregate([huge]))
    coordinator.send(sent)
    assert change is None
    np.testing.assert_array_equal(model.weights[0], huge.delta[0])
    np.testing.assert_array_equal(master(coordinator), huge.delta[0])


def test_raw_keeps_no_master() -> None:
    coordinator = FederatedCoordinator([Model()])
    sent, change = coordinator.compressed(coordinator.aggregate([update(1)]))
    assert change is None
    np.testing.assert_array_equal(sent[0], update(1).delta[0])
    assert MASTER not in coordinator.slots


@pytest.mark.parametrize("encoding", ["0.25bit", "3bit", ""])
def test_an_encoding_that_loses_more_than_it_brings_is_refused(encoding: str) -> None:
    with pytest.raises(ConfigError, match="give one of raw, int8, 2bit, 1bit"):
        FederatedCoordinator([Model()], downlink=encoding)
