"""Keras in a federation: the delta must be gradient descent's, whatever the optimizer remembers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from client_worker import FederatedClient, KerasTask, LinearRegressionModel
from client_worker.models.keras_model import KerasModel
from coordinator_worker import FederatedCoordinator
from warren_shared.errors import ConfigError
from warren_shared.tensors.evaluation import Evaluation, pool
from warren_shared.tensors.layout import Weights

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


def two_sites(model: keras.Model, loss: object, labels: np.ndarray) -> tuple[Evaluation, float]:
    """The pooled evaluation of two unlike halves, and Keras's own accuracy on the whole."""
    model.compile("sgd", loss, metrics=["accuracy"])
    order = np.argsort(X[:, 0])
    x, y = X[order], labels[order]
    parts = []
    for half in (slice(0, 20), slice(20, None)):
        task = KerasTask(model, (x[half], y[half]), validation=(x[half], y[half]))
        client = FederatedClient(task.model, task.data, 0.1, validation=task.validation)
        found = client.evaluation()
        assert found is not None
        parts.append(found)
    return pool(parts), float(model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"])


def classifier(outputs: int, activation: str | None) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(outputs, activation)])


def test_a_binary_classifiers_auc_is_pooled_not_averaged() -> None:
    labels = (Y[:, 0] > 0).astype("float32")
    model = classifier(1, "sigmoid")
    found, accuracy = two_sites(model, "binary_crossentropy", labels)
    assert found.metrics()["accuracy"] == pytest.approx(accuracy)
    exact = roc_auc_score(labels, model.predict(X, verbose=0)[:, 0])
    assert found.metrics()["auc"] == pytest.approx(exact, abs=0.01)
    assert "loss" in found.metrics()


def test_logits_are_scores_too() -> None:
    labels = (Y[:, 0] > 0).astype("float32")
    model = classifier(1, None)
    found, _ = two_sites(model, keras.losses.BinaryCrossentropy(from_logits=True), labels)
    exact = roc_auc_score(labels, model.predict(X, verbose=0)[:, 0])
    assert found.metrics()["auc"] == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("sparse", [True, False])
def test_a_classifier_of_several_classes_is_counted(sparse: bool) -> None:
    labels = np.digitize(Y[:, 0], [-1.0, 1.0])
    loss = "sparse_categorical_crossentropy" if sparse else "categorical_crossentropy"
    given = labels if sparse else np.eye(3)[labels]
    found, accuracy = two_sites(classifier(3, "softmax"), loss, given)
    assert found.metrics()["accuracy"] == pytest.approx(accuracy)
    assert "macro_f1" in found.metrics()


def test_a_regression_has_figures_only() -> None:
    client = FederatedClient(LinearRegressionModel(3), (X, Y), 0.1, validation=(X, Y))
    found = client.evaluation()
    assert found is not None
    assert not found.confusion
    assert set(found.means) == {"loss"}


def test_a_model_that_was_not_compiled_is_told_to() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ConfigError, match="has no loss"):
        FederatedClient(model, (X, Y), 0.1)


@pytest.mark.parametrize(
    "optimizer", [keras.optimizers.SGD(momentum=0.9), keras.optimizers.Adam()], ids=lambda o: o.name
)
def test_training_twice_from_one_model_gives_one_delta_bit_by_bit(
    optimizer: keras.optimizers.Optimizer,
) -> None:
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    task = KerasTask(LinearRegressionModel(3), batches, 0.05, loss="mse", optimizer=optimizer)
    client = FederatedClient(task.model, task.data, task.learning_rate)
    first, second = client.train(START), client.train(START)
    for ours, theirs in zip(first.delta, second.delta, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_learning_rate_is_the_clients_and_not_the_optimizers() -> None:
    model = LinearRegressionModel(3)
    model.compile(optimizer=keras.optimizers.SGD(99.0), loss="mse")
    task = KerasTask(model, (X, Y), batch_size=64)
    slow = FederatedClient(task.model, (X, Y), 0.01).train(START).delta
    fast = FederatedClient(task.model, (X, Y), 0.02).train(START).delta
    for ours, theirs in zip(slow, fast, strict=True):
        np.testing.assert_allclose(2 * ours, theirs, rtol=1e-4)


def test_averaging_full_batch_steps_is_a_step_on_all_the_data() -> None:
    """McMahan et al. 2017, section 2: FedSGD, clients of unequal size."""
    parts = [(X[:8], Y[:8]), (X[8:24], Y[8:24]), (X[24:], Y[24:])]
    clients = []
    for part in parts:
        task = KerasTask(LinearRegressionModel(3), part, 0.1, batch_size=64)
        clients.append(FederatedClient(task.model, task.data, task.learning_rate))
    coordinator = FederatedCoordinator([client.model for client in clients])
    coordinator.send(START)
    for _ in range(3):
        coordinator.send(coordinator.aggregate([c.train(coordinator.weights) for c in clients]))
    central = KerasTask(LinearRegressionModel(3), (X, Y), 0.1, batch_size=64)
    central.model.set_weights(START)
    for _ in range(3):
        central.model.fit((X, Y), 0.1)
    for ours, theirs in zip(coordinator.weights, central.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_keras_model_takes_the_global_models_place_in_a_federation_of_keras_models() -> None:
    models = [LinearRegressionModel(3), LinearRegressionModel(3)]
    coordinator = FederatedCoordinator(models)
    coordinator.send(START)
    for model in models:
        for ours, theirs in zip(model.get_weights(), START, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_training_leaves_the_global_model_as_it_was() -> None:
    start = Weights.of(START)
    FederatedClient(LinearRegressionModel(3), (X, Y), 0.1).train(start)
    np.testing.assert_array_equal(start[0], START[0])


def test_a_task_compiles_and_builds_a_model_that_was_neither() -> None:
    model = keras.Sequential([keras.layers.Dense(1)])
    task = KerasTask(model, (X, Y), 0.05, loss="mse", metrics=["mae"])
    update = FederatedClient(task.model, task.data, task.learning_rate).train(START)
    assert set(update.metrics) == {"loss", "mae"}


def test_a_task_without_a_loss_needs_a_compiled_model() -> None:
    with pytest.raises(ConfigError, match="or give KerasTask a loss"):
        KerasTask(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), (X, Y))


def test_a_model_that_cannot_be_built_is_told_to_build() -> None:
    with pytest.raises(ConfigError, match=r"call build\(\)"):
        KerasModel(LinearRegressionModel())


def test_layers_that_are_not_trained_travel_too() -> None:
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    )
    model.compile(optimizer="sgd", loss="mse")
    client = FederatedClient(model, (X, X), 0.1)
    assert [tensor.shape for tensor in client.layout.tensors] == [(3,)] * 4
    zeros, ones = np.zeros(3, "float32"), np.ones(3, "float32")
    moved = client.train([ones, zeros, zeros, ones]).delta
    assert np.abs(moved[2]).max() > 0, "the moving mean is part of the delta"
