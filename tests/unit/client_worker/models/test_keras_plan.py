"""Keras trains as a TrainingPlan says: step by step as the model in plain numpy does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from client_worker import FederatedClient, KerasTask, LinearRegressionModel, interpolate
from client_worker.models import linear_regression
from client_worker.models.keras_model import KerasModel
from client_worker.training.plan import TrainingPlan
from client_worker.training.scaffold import longer
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.layout import Weights

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(64, 3)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5]] + 0.3).astype("float32")
START = [np.full((3, 1), 0.1, "float32"), np.zeros(1, "float32")]
CONTROLS = [np.full((3, 1), 0.2, "float32"), np.full(1, -0.1, "float32")]


def clients() -> tuple[FederatedClient, FederatedClient]:
    ours = KerasTask(LinearRegressionModel(3), (X, Y), 0.05, batch_size=64).client()
    model = linear_regression(3, batch_size=None)
    model.weights = [array.astype("float32") for array in model.weights]
    return ours, FederatedClient(model, (X, Y), 0.05)


def close(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    "local",
    [
        LocalTraining(epochs=4),
        LocalTraining(steps=5),
        LocalTraining(proximal=0.7, steps=5),
        LocalTraining(clip_norm=0.5, steps=5),
        LocalTraining(clip_norm=0.5, proximal=0.7, epochs=3, learning_rate_factor=0.5),
    ],
    ids=["epochs", "steps", "fedprox", "clipped", "all"],
)
def test_it_takes_the_steps_that_numpy_takes(local: LocalTraining) -> None:
    keras_client, numpy_client = clients()
    for start in (START, [array + 1 for array in START]):
        ours, theirs = keras_client.train(start, local), numpy_client.train(start, local)
        close(list(ours.delta), list(theirs.delta))
        assert ours.local_steps == theirs.local_steps
        assert np.abs(ours.delta[0]).max() > 1e-3


def test_scaffold_takes_the_steps_that_numpy_takes_and_makes_the_same_controls() -> None:
    keras_client, numpy_client = clients()
    local = LocalTraining(scaffold=True, steps=5)
    start = Weights.of([*START, *CONTROLS])
    for _ in range(3):
        ours, theirs = keras_client.train(start, local), numpy_client.train(start, local)
        close(ours.delta[:2], theirs.delta[:2])
        for one, other in zip(ours.delta[2:], theirs.delta[2:], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_allclose(
        keras_client.control.value[0], numpy_client.control.value[0], atol=1e-5
    )


def test_a_guide_of_one_round_is_forgotten_in_the_next() -> None:
    guided, fresh = clients()[0], clients()[0]
    plain = fresh.train(START)
    for local in (
        LocalTraining(proximal=5.0, steps=3),
        LocalTraining(clip_norm=0.01),
        LocalTraining(scaffold=True),
    ):
        start = [*START, *CONTROLS] if local.scaffold else START
        guided.train(start, local)
        close(list(guided.train(START).delta), list(plain.delta))


def test_without_a_guide_the_optimizer_is_untouched_and_steps_are_counted() -> None:
    model = LinearRegressionModel(3)
    adapted = KerasModel(model, epochs=3, batch_size=16)
    before = model.optimizer.apply
    metrics = adapted.fit((X, Y), 0.01, TrainingPlan(START, epochs=2))
    assert model.optimizer.apply == before
    assert metrics["local_steps"] == 2 * 4
    assert adapted.fit((X, Y), 0.01)["local_steps"] == 3 * 4


def test_a_new_round_does_not_compile_the_step_again() -> None:
    model = LinearRegressionModel(3)
    client = KerasTask(model, (X, Y), 0.05, batch_size=16).client()
    local = LocalTraining(proximal=0.1, steps=3)
    client.train(START, local)
    compiled = model.train_function
    client.train([array + 1 for array in START], LocalTraining(proximal=0.9, steps=3))
    assert model.train_function is compiled


def test_steps_go_round_a_dataset_of_batches() -> None:
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(30)  # 30, 30, 4
    client = FederatedClient(LinearRegressionModel(3), batches, 0.05)
    assert client.train(START, LocalTraining(steps=7)).local_steps == 7


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam(), keras.optimizers.SGD(momentum=0.9)])
def test_scaffold_is_refused_to_an_optimizer_that_is_not_plain(optimizer: object) -> None:
    task = KerasTask(LinearRegressionModel(3), (X, Y), 0.05, loss="mse", optimizer=optimizer)
    with pytest.raises(ConfigError, match="plain SGD only"):
        task.client().train(longer(Weights.of(START)), LocalTraining(scaffold=True))
    assert task.client().train(START, LocalTraining(proximal=0.1)).local_steps == 2


def test_layers_stay_here_by_name() -> None:
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(4, name="body"),
            keras.layers.Dense(1, name="head"),
        ]
    )
    task = KerasTask(
        model, (X, Y), 0.05, loss="mse", validation=(X, Y), local=["head", "norm"], ditto=0.1
    )
    client = task.client()
    assert [tensor.shape for tensor in client.layout.tensors] == [(3, 4), (4,)]
    head = model.get_layer("head").get_weights()
    update = client.train([np.ones((3, 4), "float32"), np.ones(4, "float32")])
    assert "personal_loss" in update.metrics
    assert np.abs(model.get_layer("head").get_weights()[0] - head[0]).max() > 0
    with pytest.raises(ConfigError, match="body/kernel"):
        KerasTask(model, (X, Y), local=["tail"]).client()


def test_a_keras_model_mixes_the_local_and_the_global_model() -> None:
    client = KerasTask(
        LinearRegressionModel(3), (X, Y), 0.05, batch_size=64, update_rule=interpolate(0.5)
    ).client()
    local = [w + d for w, d in zip(START, client.train(START).delta, strict=True)]
    client.update(START)
    close(
        list(client.weights()), [(one + other) / 2 for one, other in zip(local, START, strict=True)]
    )
