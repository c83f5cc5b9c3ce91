"""FedProx, Ditto, SCAFFOLD and clipping act on true gradients, or are refused before a round."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from client_worker import FederatedClient, KerasTask
from client_worker.training.scaffold import longer
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.layout import Weights

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 3)).astype("f4")
Y = (X @ np.array([[1.0], [2.0], [-1.0]])).astype("f4")
START = [np.zeros((3, 1), "f4"), np.zeros(1, "f4")]
SGD = keras.optimizers.SGD


def line(**options: Any) -> keras.Model:
    return keras.Sequential([keras.Input((3,)), L.Dense(1, **options)])


def site(model: Any = None, *, ditto: float = 0.0, **options: Any) -> FederatedClient:
    options = {"loss": "mse", "optimizer": "sgd", "batch_size": 64, "epochs": 8} | options
    return KerasTask(model or line(), (X, Y), 0.1, ditto=ditto, **options).client()


def by_hand(steps: int, mu: float = 0.0, clip: float | None = None) -> np.ndarray:
    """The kernel after ``steps`` full-batch steps from zero, in float64."""
    w, b = np.zeros((3, 1)), np.zeros(1)
    for _ in range(steps):
        error = X @ w + b - Y
        g, h = 2 * X.T @ error / 64, 2 * error.mean(0)
        if clip is not None:
            factor = min(1.0, clip / np.sqrt((g**2).sum() + (h**2).sum()))
            g, h = g * factor, h * factor
        w, b = w - 0.1 * (g + mu * w), b - 0.1 * (h + mu * b)
    return w.ravel()


class OwnStep(keras.Model):  # type: ignore[misc]
    """A training step as Keras's guide writes it."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


class PastTheOptimizer(OwnStep):
    """Steps its weights by hand."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        for gradient, variable in zip(
            tape.gradient(loss, self.trainable_variables), self.trainable_variables, strict=True
        ):
            variable.assign_sub(0.1 * gradient)
        self.optimizer.iterations.assign_add(1)
        return {"loss": loss}


class Twice(OwnStep):
    """Steps kernel and bias one after the other: no norm is over both of them."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        for variable in self.trainable_variables:
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            self.optimizer.apply([tape.gradient(loss, variable)], [variable])
        return {"loss": loss}


class Scaling(SGD):  # type: ignore[misc]
    """Scales the loss as a LossScaleOptimizer does, and divides in the update itself."""

    def scale_loss(self, loss: Any) -> Any:
        return loss * 4096.0

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient / 4096.0, variable, learning_rate)


class Big(SGD):  # type: ignore[misc]
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign_sub(variable, 10 * learning_rate * gradient)


def own(kind: type[keras.Model]) -> keras.Model:
    inputs = keras.Input((3,))
    return kind(inputs, L.Dense(1)(inputs))


GUIDED: dict[str, Callable[[], dict[str, Any]]] = {
    "plain SGD": dict,
    "a loss scale": lambda: {"optimizer": keras.optimizers.LossScaleOptimizer(SGD())},
    "a fixed loss scale": lambda: {"optimizer": SGD(loss_scale_factor=512.0)},
    "a train_step of one's own": lambda: {"model": own(OwnStep)},
    "no compilation": lambda: {"run_eagerly": True},
}


@pytest.mark.parametrize("kind", GUIDED)
@pytest.mark.parametrize(
    ("local", "hand"),
    [
        ({}, {}),
        ({"proximal": 5.0}, {"mu": 5.0}),
        ({"clip_norm": 0.1}, {"clip": 0.1}),
        ({"proximal": 2.0, "clip_norm": 1.0}, {"mu": 2.0, "clip": 1.0}),
    ],
)
def test_a_guide_acts_on_true_gradients_whatever_wraps_the_optimizer(
    kind: str, local: dict[str, float], hand: dict[str, float]
) -> None:
    client = site(**GUIDED[kind]())
    update = client.train(Weights.of(START, client.layout), LocalTraining(**local))
    assert update.local_steps == 8
    np.testing.assert_allclose(update.delta[0].ravel(), by_hand(8, **hand), rtol=1e-4)


@pytest.mark.parametrize("kind", GUIDED)
def test_dittos_model_is_drawn_to_the_global_one_whatever_wraps_the_optimizer(kind: str) -> None:
    client = site(ditto=5.0, **GUIDED[kind]())
    client.train(Weights.of(START, client.layout))
    assert client.personal.ditto is not None
    np.testing.assert_allclose(client.personal.ditto[0].ravel(), by_hand(8, 5.0), rtol=1e-4)


def test_16_bit_layers_are_guided_like_32_bit_ones() -> None:
    policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    model = keras.Sequential(
        [keras.Input((3,)), L.Dense(1, dtype=policy), L.Activation("linear", dtype="float32")]
    )
    client = site(model, optimizer=keras.optimizers.LossScaleOptimizer(SGD()))
    update = client.train(Weights.of(START, client.layout), LocalTraining(clip_norm=0.1))
    assert update.local_steps is not None
    by_32 = by_hand(update.local_steps, clip=0.1)
    np.testing.assert_allclose(update.delta[0].ravel(), by_32, rtol=0.02)


def test_a_loss_scale_that_is_too_high_costs_no_update() -> None:
    wrapped = keras.optimizers.LossScaleOptimizer(SGD(), initial_scale=2.0**127)
    client = site(optimizer=wrapped, epochs=1)
    update = client.train(Weights.of(START, client.layout), LocalTraining(clip_norm=0.1))
    np.testing.assert_allclose(update.delta[0].ravel(), by_hand(1, clip=0.1), rtol=1e-3)


def test_the_norm_of_a_sparse_gradient_is_that_of_the_dense_one() -> None:
    words = np.tile(np.array([[0, 0, 1]]), (16, 1))  # one word twice: its rows add up

    def trained(embedded: bool, **local: float) -> np.ndarray:
        keras.utils.set_random_seed(1)
        table = L.Embedding(4, 2, embeddings_initializer="ones")
        one_hot = L.Lambda(lambda w: keras.ops.one_hot(w, 4))
        dense = L.Dense(2, use_bias=False, kernel_initializer="ones")
        first = [table] if embedded else [one_hot, dense]
        model = keras.Sequential(
            [keras.Input((3,), dtype="int32"), *first, L.Flatten(),
             L.Dense(1, kernel_initializer="ones")]
        )  # fmt: skip
        target = np.zeros((16, 1), "f4")
        client = KerasTask(model, (words, target), 0.01, loss="mse", batch_size=16).client()
        return np.asarray(client.train(client.weights(), LocalTraining(**local)).delta[0])

    for local in ({}, {"clip_norm": 0.5}, {"proximal": 3.0, "clip_norm": 0.5}):
        np.testing.assert_allclose(trained(True, **local), trained(False, **local), rtol=1e-5)


def test_frozen_layers_are_left_as_they_are() -> None:
    model = keras.Sequential([keras.Input((3,)), L.Dense(3, name="body"), L.Dense(1)])
    model.layers[0].trainable = False
    client = KerasTask(model, (X, Y), 0.1, loss="mse").client()
    before = [array.copy() for array in client.weights()]
    client.train(client.weights(), LocalTraining(proximal=1.0, clip_norm=0.1))
    changed = [not np.array_equal(a, b) for a, b in zip(before, client.weights(), strict=True)]
    assert changed == [False, False, True, True]


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "weights that are stepped by hand": (lambda: {"model": own(PastTheOptimizer)}, "0 times"),
    "two updates a step": (lambda: {"model": own(Twice)}, "2 times"),
    "two loss scales, one of which is not multiplied": (
        lambda: {
            "optimizer": keras.optimizers.LossScaleOptimizer(
                keras.optimizers.LossScaleOptimizer(SGD())
            )
        },
        "not those",
    ),
    "an optimizer that scales the loss by itself": (lambda: {"optimizer": Scaling()}, "not those"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("local", [{"proximal": 1.0}, {"clip_norm": 0.1}, {"scaffold": True}])
def test_what_cannot_be_guided_is_refused_before_the_first_step(
    kind: str, local: dict[str, Any]
) -> None:
    make, said = REFUSED[kind]
    client = site(**make())
    asked = LocalTraining(**local)
    begin = client.initial(asked)
    before = [array.copy() for array in client.weights()]
    with pytest.raises(ConfigError, match=said if "scaffold" not in local else "."):
        client.train(begin, asked)
    for one, other in zip(before, client.weights(), strict=True):
        np.testing.assert_array_equal(one, other)


NOT_PLAIN: dict[str, Callable[[], dict[str, Any]]] = {
    "use_ema": lambda: {"optimizer": SGD(use_ema=True)},
    "momentum": lambda: {"optimizer": SGD(momentum=0.5)},
    "nesterov": lambda: {"optimizer": SGD(momentum=0.5, nesterov=True)},
    "clipnorm": lambda: {"optimizer": SGD(clipnorm=0.1)},
    "clipvalue": lambda: {"optimizer": SGD(clipvalue=0.1)},
    "global_clipnorm": lambda: {"optimizer": SGD(global_clipnorm=0.1)},
    "weight_decay": lambda: {"optimizer": SGD(weight_decay=0.1)},
    "a subclass": lambda: {"optimizer": Big()},
    "Adam": lambda: {"optimizer": "adam"},
    "Lion": lambda: {"optimizer": keras.optimizers.Lion()},
    "use_ema under a loss scale": lambda: {
        "optimizer": keras.optimizers.LossScaleOptimizer(SGD(use_ema=True))
    },
    "a constraint": lambda: {"model": line(kernel_constraint=keras.constraints.NonNeg())},
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_scaffold_is_refused_to_what_is_nearly_plain(kind: str) -> None:
    client = site(**NOT_PLAIN[kind]())
    with pytest.raises(ConfigError, match="SCAFFOLD"):
        client.train(longer(client.weights()), LocalTraining(scaffold=True))


PLAIN: dict[str, Callable[[], Any]] = {
    "SGD": SGD,
    "a loss scale": lambda: keras.optimizers.LossScaleOptimizer(SGD()),
    "gradients that are accumulated": lambda: SGD(gradient_accumulation_steps=4),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_scaffolds_control_is_the_mean_gradient(kind: str) -> None:
    client = KerasTask(
        line(), (X, Y), 1e-4, loss="mse", optimizer=PLAIN[kind](), batch_size=64, epochs=4
    ).client()
    begin = longer(Weights.of(START, client.layout))
    update = client.train(begin, LocalTraining(scaffold=True))
    expected = 2 / 64 * X.T @ (0 - Y)
    np.testing.assert_allclose(update.delta[2], expected, rtol=5e-3)


def test_the_trial_step_leaves_no_trace() -> None:
    """With and without it a round is the same: weights, optimizer, dropout, statistics, metrics."""

    def trained(local: LocalTraining) -> tuple[list[np.ndarray], dict[str, float]]:
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.Input((3,)), L.BatchNormalization(), L.Dropout(0.5, seed=7), L.Dense(1)]
        )
        client = KerasTask(model, (X, Y), 0.1, loss="mse", optimizer="adam", metrics=["mae"],
                           shuffle=False, batch_size=16).client()  # fmt: skip
        update = client.train(client.weights(), local)
        return [np.array(array) for array in update.delta], dict(update.metrics)

    plain, figures = trained(LocalTraining())
    guided, their_figures = trained(LocalTraining(clip_norm=1e9))
    for one, other in zip(plain, guided, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert figures == pytest.approx(their_figures, rel=1e-4)


def test_keras_on_another_backend_is_refused_in_one_line() -> None:
    from client_worker.models.keras_backend import check_backend

    with pytest.raises(ConfigError, match="KERAS_BACKEND=tensorflow"):
        check_backend("jax")
