"""Server optimizers against the equations of Reddi et al. 2021 and Hsu et al. 2019."""

from collections.abc import Callable

import numpy as np
import pytest

from coordinator_worker import FederatedCoordinator
from coordinator_worker.aggregation import Diverged, server_optimizer
from coordinator_worker.aggregation.weighted_sum import BLOCK
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Layout, Tensor, Weights
from warren_shared.tensors.update import Update

ROUNDS = 4
Equation = Callable[[np.ndarray, np.ndarray, dict[str, np.ndarray]], np.ndarray]


def sgd(x: np.ndarray, d: np.ndarray, s: dict[str, np.ndarray]) -> np.ndarray:
    return x + 0.3 * d


def momentum(x: np.ndarray, d: np.ndarray, s: dict[str, np.ndarray]) -> np.ndarray:
    s["v"] = 0.8 * s.get("v", 0) + d
    return x + 0.3 * s["v"]


def adaptive(second: Callable[[np.ndarray, np.ndarray], np.ndarray], beta1: float) -> Equation:
    def equation(x: np.ndarray, d: np.ndarray, s: dict[str, np.ndarray]) -> np.ndarray:
        s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * d
        s["v"] = second(s.get("v", np.full_like(d, 0.01**2)), d)
        return x + 0.3 * s["m"] / (np.sqrt(s["v"]) + 0.01)

    return equation


EQUATIONS: dict[str, Equation] = {
    "sgd:learning_rate=0.3": sgd,
    "momentum:learning_rate=0.3,beta=0.8": momentum,
    "adagrad:learning_rate=0.3,beta1=0.0,tau=0.01": adaptive(lambda v, d: v + d**2, 0.0),
    "adam:learning_rate=0.3,beta1=0.9,beta2=0.95,tau=0.01": adaptive(
        lambda v, d: 0.95 * v + 0.05 * d**2, 0.9
    ),
    "yogi:learning_rate=0.3,beta1=0.9,beta2=0.95,tau=0.01": adaptive(
        lambda v, d: v - 0.05 * d**2 * np.sign(v - d**2), 0.9
    ),
}


class Model:
    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def get_weights(self) -> Weights:
        return self.weights

    def set_weights(self, weights: Weights) -> None:
        pass


@pytest.mark.parametrize("spec", EQUATIONS)
def test_a_server_optimizer_is_its_equation_round_after_round(spec: str) -> None:
    draw = np.random.default_rng(3)
    shapes = [(BLOCK + 5,), (3, 2)]  # more than a block, and two dtypes
    x = [draw.normal(size=shapes[0]), draw.normal(size=shapes[1]).astype(np.float32)]
    coordinator = FederatedCoordinator([Model(Weights.of(x))], server_optimizer=spec)
    states: list[dict[str, np.ndarray]] = [{}, {}]
    for _ in range(ROUNDS):
        deltas = [draw.normal(size=array.shape).astype(array.dtype) for array in x]
        coordinator.send(coordinator.aggregate([Update(deltas, 5)]))
        x = [EQUATIONS[spec](*each) for each in zip(x, deltas, states, strict=True)]
    np.testing.assert_allclose(coordinator.weights[0], x[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(coordinator.weights[1], x[1], rtol=1e-4, atol=1e-5)


def test_a_model_that_would_not_be_finite_is_refused_and_the_moments_begin_anew() -> None:
    model = Model(Weights.of([np.zeros(3)]))
    coordinator = FederatedCoordinator([model], server_optimizer="momentum:learning_rate=1e300")
    coordinator.send(coordinator.aggregate([Update([np.ones(3) * 1e-300], 1)]))
    with pytest.raises(Diverged):
        coordinator.aggregate([Update([np.ones(3) * 1e10], 1)])
    np.testing.assert_array_equal(coordinator.weights[0], np.ones(3))
    assert not coordinator.slots["velocity"].buffer.any()


def test_control_variates_move_by_the_share_of_clients_that_took_part() -> None:
    """Karimireddy et al. 2020, algorithm 1, line 17; whatever the server optimizer."""
    layout = Layout((Tensor("0", (3,), "float32"), Tensor("control/0", (3,), "float32")))
    weights = Weights.empty(layout)
    coordinator = FederatedCoordinator([Model(weights)], server_optimizer="adam:learning_rate=0.5")
    coordinator.population = 4
    deltas = [Weights.empty(layout), Weights.empty(layout)]
    deltas[0][1][:], deltas[1][1][:] = 1.0, 3.0
    found = coordinator.aggregate([Update(delta, 1) for delta in deltas])
    np.testing.assert_allclose(found[1], 2 / 4 * 2.0)
    np.testing.assert_array_equal(found[0], 0.0)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("lion", "there are adagrad, adam, momentum, sgd, yogi"),
        ("adam:tau=0", "tau is 0.0"),
        ("adam:beta2=1", "beta2 is 1.0"),
        ("sgd:learning_rate=-1", "above 0"),
        ("sgd:learning_rate=inf", "above 0"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_with_the_reason(spec: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        server_optimizer(spec)
    assert str(refused.value).startswith("--server-optimizer")
    assert said in str(refused.value)


def test_a_running_mean_of_the_versions_is_kept_to_end_with() -> None:
    model = Model(Weights.of([np.zeros(2)]))
    coordinator = FederatedCoordinator([model], average=0.9)
    versions, mean = [np.zeros(2)], np.zeros(2)
    for number in range(1, 4):
        coordinator.send(coordinator.aggregate([Update([np.full(2, float(number))], 1)]))
        versions.append(versions[-1] + number)
        mean = 0.9 * mean + 0.1 * versions[-1]
    np.testing.assert_allclose(coordinator.weights[0], versions[-1])
    last = Weights.empty(coordinator.weights.layout)
    coordinator.average_into(last)
    np.testing.assert_allclose(last[0], mean)
