"""What Keras calls weights: which are trained, measured, or stay, and what they mean."""

from pathlib import Path

import keras
import numpy as np
import pytest

from client_worker import KerasTask
from coordinator_worker import FederatedCoordinator
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import STATISTIC, Weights

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

L = keras.layers
X = np.random.default_rng(0).normal(5, 3, size=(64, 3)).astype("float32")
Y = (X[:, :1] > 5).astype("float32")


def normalised(scale: float = 1.0) -> keras.Model:
    layer = L.Normalization(name="norm")
    layer.adapt(X * scale)
    return keras.Sequential([keras.Input((3,)), layer, L.Dense(1, "sigmoid", name="out")])


def task(model: keras.Model, data: object = (X, Y), **options: object) -> KerasTask:
    return KerasTask(model, data, 0.1, loss="binary_crossentropy", **options)


def test_moving_figures_and_frozen_layers_are_statistics() -> None:
    model = keras.Sequential(
        [keras.Input((3,)), L.Dense(4), L.BatchNormalization(), L.Dense(1, "sigmoid")]
    )
    model.layers[0].trainable = False
    client = task(model).client()
    roles = {t.name.split("/", 1)[-1]: t.role for t in client.layout.tensors}
    found = {name.rpartition("/")[2] for name, role in roles.items() if role == STATISTIC}
    assert found == {"kernel", "bias", "moving_mean", "moving_variance"}
    assert sum(role == STATISTIC for role in roles.values()) == 4
    begun = client.weights()
    delta = client.train(begun).delta
    np.testing.assert_array_equal(delta[0], begun[0])
    coordinator = FederatedCoordinator([client.model])
    assert coordinator.weights.layout == client.layout


def test_a_keras_model_that_nobody_wrapped_says_the_same() -> None:
    model = keras.Sequential([keras.Input((3,)), L.BatchNormalization(), L.Dense(1)])
    model.compile(loss="mse")
    layout = FederatedCoordinator([model]).weights.layout
    assert layout == task(model).client().layout


def test_a_normaliser_of_the_federation_takes_effect() -> None:
    """Keras computes with a copy of its mean and variance, which set_weights leaves as it was."""
    ours, theirs = task(normalised()).client(), task(normalised(10.0)).client()
    ours.train(ours.weights())  # compiles the step with the old copy
    ours.update(theirs.weights())
    predicted = [c.model.model.predict(X, verbose=0) for c in (ours, theirs)]
    np.testing.assert_allclose(*predicted, rtol=1e-6)
    trained = [c.train(theirs.weights()).delta[2:] for c in (ours, theirs)]
    assert np.abs(trained[0][0]).max() < 0.3, "with the old copy inputs of 30 deviations: 1 or more"
    assert ours.evaluate() == {}


def test_a_coordinator_in_one_process_leaves_the_models_their_integers() -> None:
    clients = [task(normalised()).client() for _ in range(2)]
    coordinator = FederatedCoordinator([client.model for client in clients])
    coordinator.send(coordinator.aggregate([c.train(coordinator.weights) for c in clients]))
    counts = [array for array in clients[0].model.get_weights() if array.dtype.kind == "i"]
    assert [int(count) for count in counts] == [0] * len(counts) or len(counts) == 1


def test_lora_on_an_int8_kernel_federates_what_is_trained() -> None:
    model = keras.Sequential([keras.Input((3,)), L.Dense(8, "relu", name="body"), L.Dense(1)])
    model.layers[0].quantize("int8")
    model.layers[0].enable_lora(2)
    client = task(model).client()
    names = " ".join(tensor.name for tensor in client.layout.tensors)
    assert "lora_kernel_a" in names
    assert "quantised kernel" in client.fixed_state
    client.train(client.weights())


def test_half_precision_models_federate() -> None:
    for dtype in ("float16", "bfloat16"):
        model = keras.Sequential(
            [keras.Input((3,)), L.Dense(4, dtype=dtype), L.Dense(1, "sigmoid", dtype="float32")]
        )
        client = task(model).client()
        assert {tensor.dtype for tensor in client.layout.tensors} == {"float32"}
        delta = client.train(client.weights()).delta
        assert np.abs(delta[0]).max() > 0
        client.update(client.weights())


def text(words: list[str]) -> KerasTask:
    lookup = L.StringLookup(vocabulary=words)
    model = keras.Sequential(
        [keras.Input((1,), dtype="string"), lookup, L.Embedding(5, 2), L.Flatten(), L.Dense(1)]
    )
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((np.array([["a"], ["b"]]), np.zeros((2, 1)))).batch(2)
    return KerasTask(model, data, 0.1, loss="mse")


def test_another_vocabulary_is_told_from_ours() -> None:
    ours, same, other = (text(w).client() for w in (["a", "b"], ["a", "b"], ["b", "a"]))
    assert ours.layout.difference(other.layout) is None, "nothing else would tell"
    ours.check_fixed_state(same.fixed_state)
    ours.check_fixed_state({})
    with pytest.raises(ConfigError, match="this site's StringLookup vocabulary is not the fed"):
        ours.check_fixed_state(other.fixed_state)


def net(activation: str = "relu", more: bool = False) -> keras.Model:
    layers = [keras.Input((3,)), L.Dense(4, activation), L.Dense(1)]
    return keras.Sequential([*layers, *([L.Activation("sigmoid")] if more else [])])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: net("tanh"), 'layer 1 is Dense with activation="tanh", the task\'s has "relu"'),
        (lambda: net(more=True), "it has 4 layers, the task's model 3"),
        (lambda: keras.Sequential([keras.Input((3,)), L.Dense(5, "relu"), L.Dense(1)]), "units=5"),
    ],
)
def test_a_keras_file_of_another_architecture_is_refused(
    tmp_path: Path, other: object, words: str
) -> None:
    other().save(tmp_path / "other.keras")  # type: ignore[operator]
    client = task(net()).client()
    before = client.weights()
    with pytest.raises(ConfigError, match="of another model") as told:
        client.trainable.read_keras(tmp_path / "other.keras", "--model other.keras")
    assert words in str(told.value)
    assert client.weights().buffer.tobytes() == before.buffer.tobytes()


def test_a_keras_file_of_the_same_architecture_is_read_whatever_its_layers_are_called(
    tmp_path: Path,
) -> None:
    saved = net()
    saved.compile("adam", "mse", metrics=["mae"])
    saved.fit(X, Y, verbose=0)
    saved.save(tmp_path / "same.keras")
    client = task(net()).client()
    client.trainable.read_keras(tmp_path / "same.keras", "--model same.keras")
    for ours, theirs in zip(client.weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_two_functional_models_wired_otherwise_are_told_apart(tmp_path: Path) -> None:
    def crossed(swap: bool) -> keras.Model:
        a, b = keras.Input((2,)), keras.Input((2,))
        joined = L.Concatenate()([b, a] if swap else [a, b])
        return keras.Model([a, b], L.Dense(1)(joined))

    crossed(True).save(tmp_path / "swapped.keras")
    data = (X[:, :2], X[:, :2])
    client = KerasTask(crossed(False), (data, Y), 0.1, loss="mse", num_examples=64).client()
    with pytest.raises(ConfigError, match="of another model"):
        client.trainable.read_keras(tmp_path / "swapped.keras", "--model swapped.keras")
    assert isinstance(client.weights(), Weights)
