"""Low-rank adapters of Keras models: what trains, what travels, and what Keras makes of them."""

import hashlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from client_worker import FederatedClient, KerasTask, enable_lora
from client_worker.models import keras_state
from coordinator_worker import FederatedCoordinator
from tests.tasks import Held
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.frozen import FROZEN_WEIGHTS
from warren_shared.tensors.layout import Weights

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

L = keras.layers
TRAINABLE = LocalTraining(exchange="trainable")
X = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
Y = np.sin(X.sum(axis=1, keepdims=True)).astype("float32")


def base(seed: int = 1) -> Any:
    """A network with weights of ``seed``, as if it had been pre-trained."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            L.Dense(8, "relu", name="body"),
            L.BatchNormalization(name="norm"),
            L.Dense(1, name="head"),
        ],
        name="net",
    )
    draw = np.random.default_rng(seed)
    model.set_weights(
        [draw.uniform(0.1, 1, w.shape).astype("float32") for w in model.get_weights()]
    )
    return model


def attention() -> Any:
    inputs = keras.Input((5, 8))
    inner = L.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    return keras.Model(inputs, L.Dense(1, name="head")(inner))


def client(model: Any, shard: int = 0, **options: Any) -> FederatedClient:
    rows = slice(16 * shard, 16 * (shard + 1))
    return KerasTask(model, (X[rows], Y[rows]), 0.05, loss="mse", **options).client()


def adapted(seed: int = 7, rank: int = 1, **options: Any) -> Any:
    return enable_lora(base(), rank, seed=seed, **options)


def trained(model: Any) -> set[str]:
    return {variable.path.split("/", 1)[-1] for variable in model.trainable_variables}


# --- enable_lora ----------------------------------------------------------------------------------


def test_nothing_but_b_trains_and_only_that_travels() -> None:
    model = adapted()
    assert trained(model) == {"body/lora_kernel_b", "head/lora_kernel_b"}
    layout = client(model).layout_for(TRAINABLE)
    assert [tensor.name for tensor in layout.tensors] == [
        "net/body/lora_kernel_b",
        "net/head/lora_kernel_b",
    ]
    assert len(client(adapted()).layout.tensors) == 12, "with all the rest travels, too"


def test_an_adapter_changes_nothing_before_it_is_trained() -> None:
    np.testing.assert_array_equal(adapted().predict(X, verbose=0), base().predict(X, verbose=0))


def test_a_seed_makes_the_same_bytes_on_every_machine() -> None:
    a, _ = keras_state.lora(adapted().get_layer("body"))
    assert a.numpy().shape == (3, 1)
    assert hashlib.sha256(a.numpy().tobytes()).hexdigest()[:16] == "e5f49c1bd91c4699"
    other, _ = keras_state.lora(adapted(seed=8).get_layer("body"))
    assert not np.array_equal(a.numpy(), other.numpy())
    assert np.abs(a.numpy()).max() <= np.sqrt(6 / 3)


def test_layers_inside_of_others_are_found_by_name() -> None:
    model = enable_lora(attention(), 2, seed=0, layers=["query", "attention/value"])
    assert {path.removeprefix("attention/") for path in trained(model)} == {
        "query/lora_kernel_b",
        "value/lora_kernel_b",
    } or trained(model) == {"query/lora_kernel_b", "value/lora_kernel_b"}


def test_embeddings_and_a_head_that_trains_whole() -> None:
    model = keras.Sequential(
        [keras.Input((3,)), L.Embedding(9, 4, name="words"), L.Flatten(), L.Dense(2, name="head")]
    )
    enable_lora(model, 2, seed=0, layers=["words"], train=["head"])
    names = {path.rpartition("/")[2] for path in trained(model)}
    assert names == {"lora_embeddings_b", "kernel", "bias"}


def test_what_was_frozen_before_gets_an_adapter_that_trains() -> None:
    model = base()
    model.trainable = False
    enable_lora(model, 1, seed=0, layers=["body"])
    assert trained(model) == {"body/lora_kernel_b"}
    begun = client(model)
    assert np.abs(begun.train(begun.initial(TRAINABLE), TRAINABLE).delta[0]).max() > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": ["tail"]}, "layers='tail': the model has body, norm, head"),
        ({"layers": "body"}, r"layers is a list of names: \['body'\]"),
        ({"layers": ["norm"]}, "norm is a BatchNormalization, which Keras knows no LoRA for"),
        ({"rank": 0}, "rank=0: of body it is from 1 to 3"),
        ({"rank": 4}, "rank=4: of body it is from 1 to 3"),
        ({"rank": True}, "rank=True"),
        ({"rank": 2}, "rank=2: of head it is from 1 to 1"),
        ({"seed": -1}, "seed=-1: give a whole number from 0"),
        ({"train": ["nose"]}, "train='nose'"),
    ],
)
def test_what_cannot_be_adapted_is_one_line(options: dict[str, Any], words: str) -> None:
    model = base()
    with pytest.raises(ConfigError, match=words):
        enable_lora(model, **{"rank": 1, "seed": 0, **options})


def test_a_second_adapter_a_constraint_and_a_trained_optimizer_are_refused() -> None:
    with pytest.raises(ConfigError, match="body has LoRA already"):
        enable_lora(adapted(), 1, seed=0)
    bound = keras.Sequential([keras.Input((3,)), L.Dense(2, kernel_constraint="max_norm")])
    with pytest.raises(ConfigError, match="incompatible with kernel constraints"):
        enable_lora(bound, 1, seed=0)
    fitted = base()
    fitted.compile("sgd", "mse")
    fitted.fit(X, Y, verbose=0)
    with pytest.raises(ConfigError, match="compile\\(\\) again"):
        enable_lora(fitted, 1, seed=0)
    with pytest.raises(ConfigError, match="call build"):
        enable_lora(keras.Sequential([L.Dense(2)]), 1, seed=0)


# --- what travels ---------------------------------------------------------------------------------


def test_the_mean_of_the_sites_is_the_mean_of_their_models() -> None:
    """W + A mean(B) is the mean of W + A B: what freezing A is for."""
    sites = [client(adapted(), shard) for shard in range(3)]
    begun = sites[0].initial(TRAINABLE)
    coordinator = FederatedCoordinator([Held(begun)])
    updates = [site.train(coordinator.weights, TRAINABLE) for site in sites]
    kernels = [np.array(site.model.model.get_layer("body").kernel) for site in sites]
    coordinator.send(coordinator.aggregate(updates))
    sites[0].update(coordinator.weights, TRAINABLE)
    found = np.array(sites[0].model.model.get_layer("body").kernel)
    np.testing.assert_allclose(found, np.mean(kernels, axis=0), rtol=1e-5, atol=1e-6)
    assert np.abs(found - np.array(base().get_layer("body").kernel)).max() > 1e-4


def test_a_and_b_that_both_train_are_refused_with_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = base()
    for layer in model.layers:
        layer.trainable = False
    body = model.get_layer("body")
    body.trainable = True
    body.enable_lora(1)
    both = client(model)
    with pytest.raises(ConfigError, match="both A and B of the LoRA of net/body train, and the me"):
        both.layout_for(TRAINABLE)
    assert "adapters_not_averaged" not in caplog.text
    for _ in range(2):
        both.train(both.weights())
    assert caplog.text.count("the mean of products is not") == 1, "with all it is a warning"
    personal = client(model, local=["body/lora_kernel_b"])  # FedSA-LoRA: B stays at the site
    assert "lora_kernel_a" in {
        t.name.rpartition("/")[2] for t in personal.layout_for(TRAINABLE).tensors
    }
    body.lora_kernel_a.trainable = False
    client(model).layout_for(TRAINABLE)


def test_another_base_another_seed_or_another_frozen_layer_is_another_digest() -> None:
    ours = client(adapted())
    federation = ours.fixed_state_for(TRAINABLE)
    assert ours.fixed_state_for(LocalTraining()) == {}
    client(adapted()).check_fixed_state(federation)
    ours.check_fixed_state({})
    others = [
        adapted(seed=8),
        enable_lora(base(2), 1, seed=7),
        adapted(layers=["body"]),
        adapted(train=["norm"]),
    ]
    for other in others:
        with pytest.raises(ConfigError, match="frozen weights are not the federation's") as told:
            client(other).check_fixed_state(federation)
        assert "the same seed" in str(told.value)
        assert len(str(told.value)) <= 256, "a coordinator is told no more"


def test_the_digest_depends_on_what_is_there_and_not_on_what_was_made_before() -> None:
    known = client(adapted()).fixed_state_for(TRAINABLE)
    assert known == {FROZEN_WEIGHTS: "98878717af6379f730904fcc31ced638"}
    for _ in range(3):
        L.Dense(1)
    again = keras.models.clone_model(base())
    again.set_weights(base().get_weights())
    assert client(enable_lora(again, 1, seed=7)).fixed_state_for(TRAINABLE) == known


# --- files ----------------------------------------------------------------------------------------


def test_keras_saves_the_sum_and_forgets_a_and_b(tmp_path: Path) -> None:
    """So a saved model predicts the same, and cannot be trained as an adapter any more."""
    site = client(adapted())
    site.update(site.train(site.initial(TRAINABLE), TRAINABLE).delta, TRAINABLE)
    wanted = site.model.model.predict(X, verbose=0)
    assert np.abs(wanted - base().predict(X, verbose=0)).max() > 0.01
    site.trainable.write_keras(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), wanted, rtol=1e-5, atol=1e-6)
    a, b = keras_state.lora(loaded.get_layer("body"))
    assert not a.numpy().any()
    assert not b.numpy().any()
    with pytest.raises(ConfigError, match=r"has LoRA already; a \.keras that was saved with it"):
        enable_lora(loaded, 1, seed=7)
    for layer in loaded.layers:
        if pair := keras_state.lora(layer):
            pair[0].trainable = False
    with pytest.raises(ConfigError, match=r"A and B of the LoRA of .* are all zero"):
        client(loaded).layout_for(TRAINABLE)


def test_a_keras_file_with_lora_is_read_into_the_tasks_model(tmp_path: Path) -> None:
    site = client(adapted())
    site.update(site.train(site.initial(TRAINABLE), TRAINABLE).delta, TRAINABLE)
    site.trainable.write_keras(tmp_path / "m.keras")
    other = client(adapted())
    other.trainable.read_keras(tmp_path / "m.keras", "--model m.keras")
    np.testing.assert_allclose(
        other.model.model.predict(X, verbose=0), site.model.model.predict(X, verbose=0), rtol=1e-5
    )


def test_keras_unfreezes_everything_when_a_model_is_switched_off_and_on() -> None:
    """Known of the installed Keras; then A and kernel would train, and it is refused."""
    model = adapted()
    model.trainable = False
    model.trainable = True
    assert {"body/kernel", "body/lora_kernel_a"} <= trained(model)
    with pytest.raises(ConfigError, match="both A and B"):
        client(model).layout_for(TRAINABLE)


def test_an_int8_base_with_adapters(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), L.Dense(8, "relu", name="body"), L.Dense(1)])
    model.layers[0].quantize("int8")
    enable_lora(model, 2, seed=1, layers=["body"])
    site = client(model)
    assert "quantised kernel" in site.fixed_state_for(TRAINABLE)
    delta = site.train(site.initial(TRAINABLE), TRAINABLE).delta
    assert len(delta) == 1
    assert isinstance(delta, Weights)
    assert np.abs(delta[0]).max() > 0
