"""Update rules and what stays with a client, computed by hand."""

import numpy as np
import pytest

from client_worker import FederatedClient, Task
from client_worker.models import linear_regression, mlp
from client_worker.training.scaffold import longer
from client_worker.training.update_rules import interpolate
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.layout import Weights

X = np.random.default_rng(0).normal(size=(30, 2))
Y = X @ [1.0, -1.0] + 2.0
RATE = 0.1
START = [np.array([[0.5], [0.5]]), np.array([1.0])]
OTHER = [np.array([[-0.5], [0.0]]), np.array([3.0])]


def step(weights: list[np.ndarray], anchor: list[np.ndarray], pull: float) -> list[np.ndarray]:
    error = X @ weights[0] + weights[1] - Y[:, None]
    gradients = [2 * X.T @ error / len(X), 2 * error.mean(axis=0)]
    return [
        w - RATE * (g + pull * (w - a)) for w, g, a in zip(weights, gradients, anchor, strict=True)
    ]


def client(**options: object) -> FederatedClient:
    model = linear_regression(2, batch_size=None)
    task = Task(model, (X, Y), RATE, validation=(X, Y), **options)  # type: ignore[arg-type]
    return task.client()


def same(ours: list[np.ndarray], reference: list[np.ndarray]) -> None:
    for array, expected in zip(ours, reference, strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-12)


def test_interpolation_begins_between_the_local_and_the_global_model() -> None:
    one = client(update_rule=interpolate(0.25))
    first = one.train(START)
    local = step(START, START, 0)
    same(first.delta, [a - b for a, b in zip(local, START, strict=True)])
    begun = [0.75 * w + 0.25 * new for w, new in zip(local, OTHER, strict=True)]
    trained = step(begun, begun, 0)
    second = one.train(OTHER)
    same(second.delta, [a - b for a, b in zip(trained, OTHER, strict=True)])
    assert second.metrics["eval_loss"] == pytest.approx(
        np.mean((X @ OTHER[0] + OTHER[1] - Y[:, None]) ** 2)
    ), "what is evaluated is the global model"
    assert second.metrics["personal_loss"] == pytest.approx(
        np.mean((X @ trained[0] + trained[1] - Y[:, None]) ** 2)
    )


def test_interpolation_with_one_is_replacement_and_beyond_is_refused() -> None:
    one, plain = client(update_rule=interpolate(1.0)), client()
    for weights in (START, OTHER, START):
        same(one.train(weights).delta, plain.train(weights).delta)
    assert "personal_loss" not in plain.train(START).metrics
    with pytest.raises(ConfigError, match="between 0 and 1"):
        interpolate(1.5)


def test_a_local_tensor_is_trained_and_neither_sent_nor_overwritten() -> None:
    one = client(local=[1])
    assert [tensor.shape for tensor in one.layout.tensors] == [(2, 1)]
    first = one.train([START[0]])
    own = step([START[0], np.zeros(1)], START, 0)
    same(first.delta, [own[0] - START[0]])
    second = one.train([OTHER[0]])
    trained = step([OTHER[0], own[1]], START, 0)
    same(second.delta, [trained[0] - OTHER[0]])
    assert set(second.metrics) == {"eval_loss", "loss", "personal_loss"}


def test_a_local_tensor_has_no_control_variate() -> None:
    one = client(local=[-1])
    assert one.initial(LocalTraining(scaffold=True)).layout.size_bytes == 2 * 2 * 8
    update = one.train(longer(Weights.of([START[0]])), LocalTraining(scaffold=True))
    assert len(update.delta) == 2
    np.testing.assert_allclose(update.delta[1], -update.delta[0] / RATE)


def test_dittos_personal_model_is_the_equation_of_its_paper() -> None:
    one = client(ditto=0.5)
    personal = [array.copy() for array in START]
    for weights in (START, OTHER, START):
        update = one.train(weights)
        personal = step(personal, weights, 0.5)
        same(update.delta, client().train(weights).delta)
        assert one.personal.ditto is not None
        same(one.personal.ditto, personal)
        assert update.metrics["personal_loss"] == pytest.approx(
            np.mean((X @ personal[0] + personal[1] - Y[:, None]) ** 2)
        )


def test_what_is_personal_can_be_put_by_and_recalled() -> None:
    options = {"update_rule": interpolate(0.5), "local": [1], "ditto": 0.3}
    one, again = client(**options), client(**options)
    assert one.personal.state is None, "there is nothing before the first round"
    for weights in (START[:1], OTHER[:1]):
        one.train(weights)
    state = one.personal.state
    assert state is not None
    assert state.layout == again.personal.layout
    again.personal.recall(state)
    same(again.train(START[:1]).delta, one.train(START[:1]).delta)
    assert one.personal.ditto is not None
    assert again.personal.ditto is not None
    same(again.personal.ditto, one.personal.ditto)
    one.personal.forget()
    same(one.train(START[:1]).delta, client(**options).train(START[:1]).delta)


def test_tensors_are_found_by_name_or_position_and_unknown_ones_refused() -> None:
    class Named:
        def __init__(self) -> None:
            self.model = mlp((4, 3, 2))
            for name in ("get_weights", "set_weights", "fit"):
                setattr(self, name, getattr(self.model, name))

        def weight_names(self) -> list[str]:
            return ["net/body/kernel", "net/body/bias", "net/head/kernel", "net/head/bias"]

    data = (np.zeros((2, 4)), np.zeros(2, int))
    for local, kept in (
        (["head"], (2, 3)),
        (["head/bias", 0], (0, 3)),
        (["net/body/kernel"], (0,)),
        ([-1], (3,)),
    ):
        assert FederatedClient(Named(), data, 0.1, local=local).personal.kinds.local == kept
    for wrong, why in (
        (["tail"], "4 tensors, net/body/kernel"),
        ([4], "4 tensors"),
        (["net"], "nothing to federate"),
    ):
        with pytest.raises(ConfigError, match=why):
            FederatedClient(Named(), data, 0.1, local=wrong)
    with pytest.raises(ConfigError, match="give positions"):
        client(local=["head"])
    with pytest.raises(ConfigError, match="ditto=-1"):
        client(ditto=-1.0)
