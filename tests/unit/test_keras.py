"""Keras in a federation: the delta must be gradient descent's, whatever the optimizer remembers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from client_worker import FederatedClient, KerasTask, LinearRegressionModel
from client_worker.keras_model import KerasModel
from shared.errors import ConfigError

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(64, 3)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5]] + 0.3).astype("float32")
START = [np.full((3, 1), 0.1, "float32"), np.zeros(1, "float32")]


def test_linear_regression_is_a_keras_model_of_one_dense_layer() -> None:
    model = LinearRegressionModel(features=3)
    assert isinstance(model, keras.Model)
    assert isinstance(model, tf.keras.Model)
    assert [type(layer) for layer in model.layers] == [keras.layers.Dense]
    assert [array.shape for array in model.get_weights()] == [(3, 1), (1,)]


def test_a_model_without_an_input_shape_is_built_from_the_data() -> None:
    client = FederatedClient(LinearRegressionModel(), (X, Y), 0.1)
    assert [tensor.shape for tensor in client.layout.tensors] == [(3, 1), (1,)]


def test_one_full_batch_round_is_one_step_of_gradient_descent() -> None:
    task = KerasTask(LinearRegressionModel(3), (X, Y), 0.05, batch_size=64)
    update = FederatedClient(task.model, task.data, task.learning_rate).train(START)
    error = X @ START[0] + START[1] - Y
    np.testing.assert_allclose(update.delta[0], -0.05 * 2 * X.T @ error / 64, rtol=1e-4)
    np.testing.assert_allclose(update.delta[1], -0.05 * 2 * error.mean(axis=0), rtol=1e-4)
    assert update.metrics["loss"] == pytest.approx(float(np.mean(error**2)), rel=1e-4)
    assert update.num_examples == 64


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam, keras.optimizers.RMSprop])
def test_a_round_does_not_depend_on_the_rounds_before(optimizer: type) -> None:
    model = LinearRegressionModel(3)
    task = KerasTask(model, (X, Y), 0.05, loss="mse", optimizer=optimizer(), batch_size=64)
    client = FederatedClient(task.model, task.data, task.learning_rate)
    first = [array.copy() for array in client.train(START).delta]
    client.train([array + 1 for array in START])
    for again, before in zip(client.train(START).delta, first, strict=True):
        np.testing.assert_allclose(again, before, rtol=1e-5)


def test_local_epochs_and_batches_are_counted() -> None:
    model = LinearRegressionModel(3)
    KerasModel(model, epochs=3, batch_size=16).fit((X, Y), 0.01)
    assert int(model.optimizer.iterations) == 3 * 4


def test_a_dataset_of_batches_is_data_too() -> None:
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    client = FederatedClient(LinearRegressionModel(3), batches, 0.05)
    update = client.train(START)
    assert update.num_examples == 64
    assert np.abs(update.delta[0]).max() > 0


def test_validation_reports_the_metrics_of_the_global_model() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")])
    labels = (Y[:, 0] > 0).astype("float32")
    auc = keras.metrics.AUC(name="auc")
    task = KerasTask(
        model, (X, labels), 0.5, validation=(X, labels), loss="binary_crossentropy", metrics=[auc]
    )
    client = FederatedClient(task.model, task.data, task.learning_rate, validation=task.validation)
    perfect = [np.array([[1.0], [-2.0], [0.5]], "float32") * 50, np.array([15.0], "float32")]
    assert client.train(perfect).metrics["eval_auc"] > 0.99
    assert client.train([-array for array in perfect]).metrics["eval_auc"] < 0.01


def test_a_model_that_was_not_compiled_is_told_to() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ConfigError, match="has no loss"):
        FederatedClient(model, (X, Y), 0.1)
