"""Gradients of single records by a Keras model's weights, and which models have none."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from client_worker import FederatedClient, KerasTask
from client_worker.models import logistic_regression
from client_worker.models.keras_model import KerasModel
from client_worker.privacy import release
from client_worker.privacy.terms import Refused
from tests.unit.client_worker.training.test_private_fit import Silence
from warren_shared.protocol.messages import LocalTraining

pytestmark = pytest.mark.slow

TERMS = "epsilon=1,delta=1e-5,steps=6,examples=30"
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(30, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.float32)


def model(*layers: keras.layers.Layer, optimizer: object = "sgd") -> keras.Model:
    made = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
    made.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))
    return made


def gradients(one: keras.Model, x: np.ndarray = X, y: np.ndarray = Y) -> np.ndarray:
    return np.concatenate(list(KerasModel(one, data=(x, y)).per_example_gradients((x, y))))


def test_they_are_those_of_the_batch_in_the_order_of_the_weights() -> None:
    one = model(keras.layers.Dense(3, activation="tanh"))
    rows = gradients(one)
    with tf.GradientTape() as tape:
        loss = one.compute_loss(x=X, y=Y, y_pred=one(X, training=True))
    whole = tape.gradient(loss, [variable.value for variable in one.weights])
    flat = np.concatenate([np.ravel(each) for each in whole])
    np.testing.assert_allclose(rows.mean(axis=0), flat, rtol=1e-4, atol=1e-6)


def test_a_record_changes_no_other_s_gradient_by_a_bit_with_dropout_either() -> None:
    layers = keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.5, seed=1)
    one = KerasModel(model(*layers), data=(X, Y))
    seeds = iter([b"01234567"] * 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client_worker.models.keras_records.os.urandom", lambda _: next(seeds))
        rows = np.concatenate(list(one.per_example_gradients((X, Y))))
        fewer = np.concatenate(list(one.per_example_gradients((X[3:], Y[3:]))))
    assert rows[3:].tobytes() == fewer.tobytes()
    again = np.concatenate(list(one.per_example_gradients((X, Y))))
    assert (again != rows).any(), "each step drops others"


def test_frozen_weights_have_no_gradient_and_stay_as_they_are() -> None:
    frozen = keras.layers.Dense(3)
    frozen.trainable = False
    one = model(frozen)
    assert gradients(one).shape == (30, 4)
    client = FederatedClient(one, (X, Y), 0.1, record_privacy=TERMS)
    start = client.weights()
    update = client.train(start, LocalTraining(steps=2))
    for tensor, array, old in zip(client.layout.tensors, update.delta, start, strict=True):
        if tensor.role == "statistic":
            np.testing.assert_array_equal(array, old)
        else:
            assert np.asarray(array).any()


def test_what_is_frozen_need_not_travel() -> None:
    frozen = keras.layers.Dense(3)
    frozen.trainable = False
    client = FederatedClient(model(frozen), (X, Y), 0.1, record_privacy=TERMS)
    local = LocalTraining(steps=1, exchange="trainable")
    update = client.train(client.initial(local), local)
    assert [np.shape(array) for array in update.delta] == [(3, 1), (1,)]
    assert all(np.asarray(array).any() for array in update.delta)


def test_keras_and_numpy_take_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "DiscreteGaussian", Silence)
    theirs = FederatedClient(model(), (X, Y), 0.5, record_privacy=TERMS)
    ours = FederatedClient(logistic_regression(4), (X, Y.astype(int)), 0.5, record_privacy=TERMS)
    start, local = theirs.weights(), LocalTraining(steps=3, proximal=0.1)
    expected = ours.train([array.astype(float) for array in start], local).delta
    for array, other in zip(theirs.train(start, local).delta, expected, strict=True):
        np.testing.assert_allclose(array, other, rtol=1e-4, atol=1e-6)


def test_the_compiled_optimizer_takes_the_step_and_begins_each_round_afresh(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(release, "DiscreteGaussian", Silence)
    client = FederatedClient(
        model(optimizer=keras.optimizers.Adam()), (X, Y), 0.01, record_privacy=TERMS
    )
    start = client.weights()
    first, second = (
        np.concatenate([np.ravel(a) for a in client.train(start, LocalTraining(steps=1)).delta])
        for _ in range(2)
    )
    np.testing.assert_allclose(np.abs(first), 0.01, rtol=1e-3)
    np.testing.assert_array_equal(first, second)


class Remembers(keras.layers.Layer):
    """Keeps the mean of what it saw, and adds it."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.mean = self.add_weight(shape=(shape[-1],), trainable=False, name="mean")

    def call(self, inputs: object, training: bool = False) -> object:
        if training:
            self.mean.assign(keras.ops.mean(inputs, axis=0))
        return inputs + self.mean


def own_step() -> keras.Model:
    class Own(keras.Sequential):
        def train_step(self, data: object) -> object:
            return super().train_step(data)

    made = Own([keras.Input((4,)), keras.layers.Dense(1)])
    made.compile("sgd", "mse")
    return made


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda: model(keras.layers.BatchNormalization()), {}, "GroupNormalization"),
        (own_step, {}, "train_step"),
        (model, {"callbacks": [keras.callbacks.TerminateOnNaN()]}, "callbacks"),
        (model, {"class_weight": {0: 1.0, 1: 2.0}}, "class_weight"),
        (lambda: model(optimizer=keras.optimizers.SGD(use_ema=True)), {}, "averages weights"),
        (
            lambda: model(optimizer=keras.optimizers.SGD(gradient_accumulation_steps=2)),
            {},
            "accumulates",
        ),
    ],
)
def test_what_would_mix_records_or_not_be_heeded_is_refused(
    make: object, options: dict[str, object], words: str
) -> None:
    task = KerasTask(make(), (X, Y), 0.1, record_privacy=TERMS, **options)  # type: ignore[operator]
    with pytest.raises(Refused, match=words) as caught:
        task.client()
    assert "\n" not in str(caught.value)


def test_a_stateful_model_is_refused() -> None:
    inputs = keras.Input(batch_shape=(1, 3, 2))
    outputs = keras.layers.Dense(1)(keras.layers.LSTM(2, stateful=True)(inputs))
    made = keras.Model(inputs, outputs)
    made.compile("sgd", "mse")
    task = KerasTask(made, (np.zeros((4, 3, 2)), np.zeros(4)), record_privacy=TERMS)
    with pytest.raises(Refused, match="stateful"):
        task.client()


def test_a_frozen_batch_normalization_mixes_nothing() -> None:
    frozen = keras.layers.BatchNormalization()
    frozen.trainable = False
    client = FederatedClient(model(frozen), (X, Y), 0.1, record_privacy=TERMS)
    client.train(client.weights(), LocalTraining(steps=1))


def test_a_layer_that_remembers_what_it_saw_is_refused_and_forgets_it() -> None:
    client = FederatedClient(model(Remembers()), (X, Y), 0.1, record_privacy=TERMS)
    start = client.weights()
    with pytest.raises(Refused, match="mean, which is no trainable weight"):
        client.train(start)
    for array, old in zip(client.weights(), start, strict=True):
        np.testing.assert_array_equal(array, old)


def test_a_dataset_is_refused_for_it_may_repeat_a_record() -> None:
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).repeat(2).batch(10)
    with pytest.raises(Refused, match="more than once in an epoch: give arrays"):
        KerasTask(model(), batches, 0.1, record_privacy=TERMS).client()
