"""Any form of data gives Keras the same batches, and states outside the weights begin anew."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from client_worker import FederatedClient, KerasTask
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining

L = keras.layers
R = np.random.default_rng(0)
A, B = R.normal(size=(48, 2)).astype("f4"), R.normal(size=(48, 1)).astype("f4")
Y = (A[:, :1] + B).astype("f4")
SEQUENCES, TARGETS = R.normal(size=(32, 5, 3)).astype("f4"), R.normal(size=(32, 1)).astype("f4")


def two_inputs(kind: type) -> keras.Model:
    a, b = keras.Input((2,), name="a"), keras.Input((1,), name="b")
    start = keras.initializers.Ones()
    output = L.Dense(1, kernel_initializer=start)(L.Concatenate()([a, b]))
    return keras.Model({"a": a, "b": b} if kind is dict else [a, b], output)


class Numbered(keras.utils.PyDataset):  # type: ignore[misc]
    num_batches = 3

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        part = slice(number * 16, number * 16 + 16)
        return {"a": A[part], "b": B[part]}, Y[part]


FORMS: dict[str, tuple[type, Callable[[], Any]]] = {
    "a dict": (dict, lambda: ({"a": A, "b": B}, Y)),
    "float64": (dict, lambda: ({"a": A.astype("f8"), "b": B.astype("f8")}, Y.astype("f8"))),
    "a list": (list, lambda: ([A, B], Y)),
    "a tuple": (list, lambda: ((A, B), Y)),
    "a list of both": (list, lambda: [[A, B], Y]),
    "x and y by name": (dict, lambda: {"x": {"a": A, "b": B}, "y": Y}),
    "weights of one": (dict, lambda: ({"a": A, "b": B}, Y, np.ones(48))),
    "no weights": (dict, lambda: ({"a": A, "b": B}, Y, None)),
    "plain lists of rows": (dict, lambda: ({"a": A.tolist(), "b": B.tolist()}, Y.tolist())),
    "a dataset": (
        dict,
        lambda: tf.data.Dataset.from_tensor_slices(({"a": A, "b": B}, Y)).batch(16),
    ),
    "a PyDataset": (dict, Numbered),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [None, 7])
def test_every_form_of_the_same_data_trains_the_same_model(form: str, steps: int | None) -> None:
    def trained(kind: type, data: Any) -> tuple[int, list[np.ndarray], float]:
        task = KerasTask(two_inputs(kind), data, 0.01, loss="mse", shuffle=False, batch_size=16,
                         validation=data)  # fmt: skip
        client = task.client()
        update = client.train(client.weights(), LocalTraining(steps=steps))
        assert update.local_steps == (steps or 3)
        assert update.evaluation is not None
        assert update.evaluation.num_examples == 48
        return client.num_examples, list(update.delta), update.metrics["eval_loss"]

    kind, make = FORMS[form]
    count, delta, loss = trained(kind, make())
    expected = trained(dict, ({"a": A, "b": B}, Y))
    assert (count, loss) == (48, pytest.approx(expected[2], rel=1e-5))
    for one, other in zip(delta, expected[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


def once() -> Iterator[Any]:
    yield A, Y


def generated(source: Iterator[Any]) -> tf.data.Dataset:
    spec = (tf.TensorSpec((None, 2)), tf.TensorSpec((None, 1)))
    return tf.data.Dataset.from_generator(lambda: source, output_signature=spec)


def line(**options: Any) -> keras.Model:
    return keras.Sequential([keras.Input((2,)), L.Dense(1, **options)])


def dataset() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((A, Y)).batch(16)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a generator": (once, "used up after one round"),
    "an endless dataset": (lambda: dataset().repeat(), "steps_per_epoch"),
    "single examples": (lambda: dataset().unbatch().map(lambda x, y: (x, y[0])), "call batch"),
    "labels for fewer": (lambda: (A, Y[:9]), "differ in length"),
    "four arrays": (lambda: (A, Y, Y, Y), "4 parts"),
    "names that mean nothing": (lambda: {"features": A, "labels": Y}, "'x'"),
    "objects": (lambda: (np.array([[1, None]] * 4, object), Y[:4]), "objects"),
    "rows of several lengths": (lambda: ([[1.0], [1.0, 2.0]], [0.0, 1.0]), "no array|objects"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_data_that_cannot_be_trained_on_twice_or_fit_not_together_are_one_line(kind: str) -> None:
    make, said = REFUSED[kind]
    with pytest.raises(ConfigError, match=said) as refusal:
        KerasTask(line(), make(), 0.1, loss="mse", num_examples=48)
    assert "\n" not in str(refusal.value)


def test_a_training_that_got_no_data_is_no_update() -> None:
    task = KerasTask(line(), generated(once()), 0.1, loss="mse", num_examples=48)
    client = task.client()
    assert client.train(client.weights()).local_steps == 1
    with pytest.raises(ConfigError, match="no optimizer step"):
        client.train(client.weights())


def test_a_training_of_fewer_batches_than_are_accumulated_is_no_update() -> None:
    slow = keras.optimizers.SGD(gradient_accumulation_steps=8)
    client = KerasTask(line(), (A, Y), 0.1, loss="mse", optimizer=slow, batch_size=16).client()
    with pytest.raises(ConfigError, match="gradient_accumulation_steps"):
        client.train(client.weights())


def test_held_out_data_that_can_be_read_once_are_not_evaluated_twice() -> None:
    client = KerasTask(line(), (A, Y), 0.1, loss="mse", validation=generated(once())).client()
    with pytest.raises(ConfigError, match="held-out data gave no batch"):
        client.evaluate()


def test_an_epoch_of_more_steps_than_the_data_hold_is_no_update() -> None:
    client = KerasTask(line(), dataset(), 0.1, loss="mse", steps_per_epoch=5).client()
    with pytest.raises(ConfigError, match="fewer than asked for"):
        client.train(client.weights())


def test_an_endless_dataset_is_trained_on_for_the_steps_that_are_given() -> None:
    endless = dataset().repeat()
    client = KerasTask(
        line(), endless, 0.1, loss="mse", steps_per_epoch=5, epochs=2, num_examples=48
    ).client()
    assert client.train(client.weights()).local_steps == 10
    assert client.train(client.weights(), LocalTraining(steps=4)).local_steps == 4


def stateful(**options: Any) -> FederatedClient:
    keras.utils.set_random_seed(0)
    inputs = keras.Input(batch_shape=(16, 5, 3))
    inner = keras.Sequential([L.GRU(3, stateful=True), L.Dense(1)])
    output = inner(L.SimpleRNN(4, stateful=True, return_sequences=True)(inputs))
    task = KerasTask(keras.Model(inputs, output), (SEQUENCES, TARGETS), 0.1, loss="mse", **options)
    return task.client()


@pytest.mark.parametrize("evaluated", [False, True])
def test_states_of_recurrent_layers_begin_anew_each_round(evaluated: bool) -> None:
    held_out = {"validation": (SEQUENCES, TARGETS)} if evaluated else {}
    client = stateful(**held_out)
    weights = client.weights()
    rounds = [client.train(weights) for _ in range(2)]
    for one, other in zip(rounds[0].delta, rounds[1].delta, strict=True):
        np.testing.assert_array_equal(one, other)
    assert rounds[0].metrics == rounds[1].metrics
    assert rounds[0].local_steps == 2  # batches of 16 without being told


def test_a_stateful_models_batches_are_whole_and_in_order() -> None:
    with pytest.raises(ConfigError, match="leave shuffle out"):
        stateful(shuffle=True)
    with pytest.raises(ConfigError, match="batch_size=16"):
        stateful(batch_size=8)
    uneven = (SEQUENCES[:20], TARGETS[:20])
    inputs = keras.Input(batch_shape=(16, 5, 3))
    model = keras.Model(inputs, L.Dense(1)(L.SimpleRNN(4, stateful=True)(inputs)))
    client = KerasTask(model, uneven, 0.1, loss="mse").client()
    with pytest.raises(ConfigError, match="no multiple"):
        client.train(client.weights())


def test_as_many_inputs_as_rows_of_unlike_lengths_are_one_line() -> None:
    """Three arrays for three labels could be three examples; they are three inputs here."""
    inputs = [keras.Input((width,)) for width in (2, 1, 4)]
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(inputs)))
    x = tuple(np.zeros((rows, width), "f4") for rows, width in ((3, 2), (3, 1), (2, 4)))
    client = KerasTask(model, (x, np.zeros((3, 1), "f4")), 0.1, loss="mse").client()
    with pytest.raises(ConfigError, match="give each example a row"):
        client.train(client.weights())
