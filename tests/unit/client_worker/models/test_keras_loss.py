"""Labels that a loss does not take are refused, and logits are never taken for probabilities."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from client_worker import FederatedClient, KerasTask
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.layout import Weights

L, losses = keras.layers, keras.losses
R = np.random.default_rng(0)
X = R.normal(size=(64, 3)).astype("f4")
Z = X @ np.array([1.0, 2.0, -1.0])
BINARY = (R.random(64) < 1 / (1 + np.exp(-Z))).astype("f4")
THREE = R.integers(0, 3, 64)
HOT = np.eye(3, dtype="f4")[THREE]


def network(units: int, activation: str | None) -> keras.Model:
    return keras.Sequential([keras.Input((3,)), L.Dense(units, activation)])


TAKEN: dict[str, tuple[int, str | None, Any, Any]] = {
    "0 and 1": (1, "sigmoid", "binary_crossentropy", BINARY),
    "shares": (1, "sigmoid", "binary_crossentropy", BINARY * 0.9),
    "booleans": (1, "sigmoid", losses.BinaryCrossentropy(), BINARY > 0),
    "three classes": (3, "softmax", "sparse_categorical_crossentropy", THREE),
    "classes as floats": (3, "softmax", "sparse_categorical_crossentropy", THREE.astype("f4")),
    "one-hot": (3, "softmax", "categorical_crossentropy", HOT),
    "ignored ones": (
        3, "softmax", losses.SparseCategoricalCrossentropy(ignore_class=-1),
        np.where(R.random(64) < 0.3, -1, THREE),
    ),
    "signs of a hinge": (1, None, "hinge", 2 * BINARY - 1),
    "counts": (1, "exponential", "poisson", THREE),
    "any number": (1, None, "mse", Z),
}  # fmt: skip

REFUSED: dict[str, tuple[int, str | None, Any, Any]] = {
    "-1 and 1": (1, "sigmoid", "binary_crossentropy", 2 * BINARY - 1),
    "1 and 2": (1, "sigmoid", "binary_crossentropy", BINARY + 1),
    "1 and 2 of a loss object": (1, None, losses.BinaryCrossentropy(from_logits=True), BINARY + 1),
    "1 and 2 of a function": (1, "sigmoid", losses.binary_crossentropy, BINARY + 1),
    "focal": (1, "sigmoid", "binary_focal_crossentropy", 2 * BINARY - 1),
    "1 to 3": (3, "softmax", "sparse_categorical_crossentropy", THREE + 1),
    "a class too many": (2, "softmax", "sparse_categorical_crossentropy", THREE),
    "a negative class": (3, "softmax", "sparse_categorical_crossentropy", THREE - 1),
    "halves": (3, "softmax", "sparse_categorical_crossentropy", THREE / 2),
    "NaN": (1, "sigmoid", "binary_crossentropy", np.where(BINARY > 0, np.nan, 0)),
    "hot in another way": (3, "softmax", "categorical_crossentropy", 2 * HOT - 1),
    "1 and 2 of a hinge": (1, None, "squared_hinge", BINARY + 1),
    "a negative count": (1, "exponential", "poisson", THREE - 1),
}


def task(kind: tuple[int, str | None, Any, Any], *, dataset: bool, **options: Any) -> KerasTask:
    units, activation, loss, y = kind
    data: Any = (X, y)
    if dataset:
        data = tf.data.Dataset.from_tensor_slices(data).batch(16)
    return KerasTask(network(units, activation), data, 0.1, loss=loss, **options)


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize("dataset", [False, True])
def test_labels_that_the_loss_takes_are_trained_on(kind: str, dataset: bool) -> None:
    client = task(TAKEN[kind], dataset=dataset).client()
    assert client.train(client.weights(), LocalTraining(steps=2)).local_steps == 2


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("dataset", [False, True])
def test_labels_that_the_loss_does_not_take_are_refused_in_one_line(
    kind: str, dataset: bool
) -> None:
    def trained() -> None:
        client = task(REFUSED[kind], dataset=dataset).client()
        client.train(client.weights())

    with pytest.raises(ConfigError, match=r"takes .*map the labels") as refusal:
        trained()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("local", [{}, {"proximal": 1.0}])
@pytest.mark.parametrize("held_out", [False, True])
def test_labels_of_a_dataset_are_one_line_wherever_they_are_first_read(
    local: dict[str, float], held_out: bool
) -> None:
    data = [
        tf.data.Dataset.from_tensor_slices((X, labels)).batch(16) for labels in (BINARY, BINARY + 1)
    ]
    client = KerasTask(
        network(1, "sigmoid"), data[not held_out], 0.1, loss="binary_crossentropy",
        validation=data[held_out],
    ).client()  # fmt: skip
    with pytest.raises(ConfigError, match="map the labels"):
        client.train(client.weights(), LocalTraining(**local))


class Numbered(keras.utils.PyDataset):  # type: ignore[misc]
    num_batches = 2

    def __getitem__(self, number: int) -> Any:
        return X[:8], BINARY[:8] + number  # the second batch is wrong


def test_labels_of_every_batch_of_a_pydataset_are_looked_at() -> None:
    client = KerasTask(network(1, "sigmoid"), Numbered(), 0.1, loss="binary_crossentropy").client()
    assert client.num_examples == 16
    with pytest.raises(ConfigError, match="map the labels"):
        client.train(client.weights())


def test_labels_of_held_out_data_and_of_each_output_are_looked_at_too() -> None:
    with pytest.raises(ConfigError, match="map the labels"):
        task(TAKEN["0 and 1"], dataset=False, validation=(X, BINARY + 1))
    inputs = keras.Input((3,))
    outputs = {"a": L.Dense(1, "sigmoid", name="a")(inputs), "b": L.Dense(1, name="b")(inputs)}
    both = {"a": "binary_crossentropy", "b": "mse"}
    with pytest.raises(ConfigError, match="map the labels"):
        KerasTask(keras.Model(inputs, outputs), (X, {"a": BINARY + 1, "b": Z}), 0.1, loss=both)
    KerasTask(keras.Model(inputs, outputs), (X, {"a": BINARY, "b": Z}), 0.1, loss=both)


class Own(losses.Loss):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="weighted_binary_crossentropy")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        truth = tf.cast(y_true, y_pred.dtype)
        return tf.nn.weighted_cross_entropy_with_logits(truth, y_pred, pos_weight=2.0)


class Sub(losses.BinaryCrossentropy):  # type: ignore[misc]
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.softplus(y_pred) - y_true * y_pred, axis=-1)


def my_binary_crossentropy(y_true: Any, y_pred: Any) -> Any:
    return keras.losses.binary_crossentropy(y_true, y_pred, from_logits=True)


def weighing(loss: Any) -> FederatedClient:
    model = network(1, None)
    y = BINARY[:, None]
    client = KerasTask(model, (X, y), 0.1, loss=loss, validation=(X, y)).client()
    weights = [np.array([[1.0], [2.0], [-1.0]], "f4"), np.zeros(1, "f4")]
    client.update(Weights.of(weights, client.layout))
    return client


@pytest.mark.parametrize(
    "loss",
    [Own(), Sub(), my_binary_crossentropy, "binary_crossentropy", losses.BinaryCrossentropy()],
)
def test_logits_are_not_taken_for_probabilities(loss: Any) -> None:
    found = weighing(loss).evaluate()
    assert "loss" in found
    assert not {"auc", "accuracy"} & set(found)


def test_logits_that_the_loss_calls_so_are_counted() -> None:
    found = weighing(losses.BinaryCrossentropy(from_logits=True)).evaluate()
    assert found["accuracy"] == pytest.approx(((Z > 0) == (BINARY > 0.5)).mean())
    assert found["auc"] > 0.8


def test_ignored_labels_are_not_counted() -> None:
    labels = np.where(np.arange(64) < 24, -1, THREE)
    loss = losses.SparseCategoricalCrossentropy(ignore_class=-1)
    client = KerasTask(network(3, "softmax"), (X, labels), 0.1, loss=loss,
                       validation=(X, labels)).client()  # fmt: skip
    found = client.evaluation()
    assert found is not None
    assert np.sum(found.confusion) == 40
