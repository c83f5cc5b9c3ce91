"""Random small Keras models: trained as Keras itself trains them, or refused in one line.

WARREN_TEST_EXAMPLES says how many are drawn (``make property EXAMPLES=500``).
"""

import os
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from client_worker import KerasTask
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.layout import STATISTIC, Weights

L, OPT = keras.layers, keras.optimizers
EXAMPLES = int(os.environ.get("WARREN_TEST_EXAMPLES", "30"))
RATE = 0.05


@dataclass(frozen=True)
class Drawn:
    """One model, its data and its training."""

    rows: int
    inputs: tuple[int, ...]  # widths
    nesting: str
    layers: tuple[str, ...]
    dtype: str
    problem: str
    optimizer: str
    form: str
    batch_size: int
    epochs: int
    steps: int | None
    proximal: float
    clip_norm: float | None
    seed: int
    own_step: bool
    weighted: bool
    evaluated: bool
    labels: str = "right"
    lengths: str = "right"
    options: dict[str, Any] = field(default_factory=dict)


DRAWN = st.builds(
    Drawn,
    rows=st.integers(3, 40),
    inputs=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    nesting=st.sampled_from(["dict", "tuple", "list", "nested"]),
    layers=st.lists(
        st.sampled_from(["dense", "relu", "batch", "layer norm", "dropout", "l2", "frozen"]),
        max_size=3,
    ).map(tuple),
    dtype=st.sampled_from(["float32", "float32", "float64", "mixed_float16", "mixed_bfloat16"]),
    problem=st.sampled_from(["mse", "binary", "logits", "sparse", "hot", "two"]),
    optimizer=st.sampled_from(
        ["sgd", "momentum", "adam", "clipnorm", "ema", "accumulating", "scaled", "decay"]
    ),
    form=st.sampled_from(["arrays", "list", "dict", "dataset", "PyDataset", "float64 arrays"]),
    batch_size=st.integers(4, 16),
    epochs=st.integers(1, 2),
    steps=st.none() | st.integers(1, 6),
    proximal=st.sampled_from([0.0, 0.0, 0.5, 3.0]),
    clip_norm=st.sampled_from([None, None, 0.05, 10.0]),
    seed=st.integers(0, 1000),
    own_step=st.booleans(),
    weighted=st.booleans(),
    evaluated=st.sampled_from([False, False, True]),
    labels=st.sampled_from(["right"] * 5 + ["wrong"]),
    lengths=st.sampled_from(["right"] * 7 + ["wrong"]),
)


class OwnStep(keras.Model):  # type: ignore[misc]
    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            output = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=output, sample_weight=weights, training=True)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


class Numbered(keras.utils.PyDataset):  # type: ignore[misc]
    def __init__(self, parts: Any, size: int, rows: int) -> None:
        super().__init__()
        self._parts, self._size, self._rows = parts, size, rows

    @property
    def num_batches(self) -> int:
        return -(-self._rows // self._size)

    def __getitem__(self, number: int) -> Any:
        part = slice(number * self._size, (number + 1) * self._size)
        return tf.nest.map_structure(lambda array: array[part], self._parts)


def nested(kind: str, parts: list[Any]) -> Any:
    if len(parts) == 1 and kind in ("tuple", "list"):
        return parts[0]
    if kind == "dict":
        return {f"in{n}": part for n, part in enumerate(parts)}
    if kind == "nested":
        return {"in0": parts[0], "rest": tuple(parts[1:])} if len(parts) > 1 else {"in0": parts[0]}
    return tuple(parts) if kind == "tuple" else list(parts)


def network(drawn: Drawn) -> keras.Model:
    keras.utils.set_random_seed(drawn.seed)
    policy = keras.dtype_policies.DTypePolicy(drawn.dtype)
    # Keras itself cannot add a float64 penalty to its float32 loss.
    regularizer = None if drawn.dtype == "float64" else "l2"
    inputs = [keras.Input((width,), name=f"in{n}") for n, width in enumerate(drawn.inputs)]
    x = L.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
    for kind in drawn.layers:
        x = {
            "dense": lambda: L.Dense(3, dtype=policy),
            "relu": lambda: L.Dense(3, "relu", dtype=policy),
            "batch": lambda: L.BatchNormalization(dtype=policy),
            "layer norm": lambda: L.LayerNormalization(dtype=policy),
            "dropout": lambda: L.Dropout(0.3, seed=5, dtype=policy),
            "l2": lambda: L.Dense(2, kernel_regularizer=regularizer, dtype=policy),
            "frozen": lambda: L.Dense(2, trainable=False, dtype=policy),
        }[kind]()(x)
    last = "float64" if drawn.dtype == "float64" else "float32"
    if drawn.problem == "two":
        outputs: Any = {
            "a": L.Dense(1, dtype=last, name="a")(x),
            "b": L.Dense(1, "sigmoid", dtype=last, name="b")(x),
        }
    else:
        units = 3 if drawn.problem in ("sparse", "hot") else 1
        shape = {"binary": "sigmoid", "sparse": "softmax", "hot": "softmax"}
        outputs = L.Dense(units, shape.get(drawn.problem), dtype=last)(x)
    kind = OwnStep if drawn.own_step else keras.Model
    return kind(nested(drawn.nesting, inputs), outputs)


def loss_of(drawn: Drawn) -> Any:
    return {
        "mse": "mse",
        "binary": "binary_crossentropy",
        "logits": keras.losses.BinaryCrossentropy(from_logits=True),
        "sparse": "sparse_categorical_crossentropy",
        "hot": "categorical_crossentropy",
        "two": {"a": "mse", "b": "binary_crossentropy"},
    }[drawn.problem]


def optimizer_of(drawn: Drawn) -> Any:
    return {
        "sgd": OPT.SGD,
        "momentum": lambda: OPT.SGD(momentum=0.9, nesterov=True),
        "adam": OPT.Adam,
        "clipnorm": lambda: OPT.SGD(clipnorm=0.1),
        "ema": lambda: OPT.SGD(use_ema=True, ema_momentum=0.5),
        "accumulating": lambda: OPT.SGD(gradient_accumulation_steps=2),
        "scaled": lambda: OPT.LossScaleOptimizer(OPT.SGD(), initial_scale=256.0),
        "decay": lambda: OPT.SGD(weight_decay=0.01),
    }[drawn.optimizer]()


def data_of(drawn: Drawn) -> tuple[Any, ...]:
    draw = np.random.default_rng(drawn.seed)
    kind = "f8" if drawn.form == "float64 arrays" or drawn.dtype == "float64" else "f4"
    parts = [draw.normal(size=(drawn.rows, width)).astype(kind) for width in drawn.inputs]
    classes = draw.integers(0, 3, drawn.rows)
    one = (classes > 0).astype(kind)[:, None]
    if drawn.labels == "wrong":
        classes, one = classes - 1, 2 * one - 1
        classes[0], one[0] = -1, -1
    real = draw.normal(size=(drawn.rows, 1)).astype(kind)
    y: Any = {
        "mse": real, "binary": one, "logits": one, "sparse": classes,
        "hot": np.eye(3, dtype=kind)[np.abs(classes)] * (-1 if drawn.labels == "wrong" else 1),
        "two": {"a": real, "b": one},
    }[drawn.problem]  # fmt: skip
    if drawn.lengths == "wrong":
        parts[-1] = parts[-1][:-1]
    found = (nested(drawn.nesting, parts), y)
    weights = draw.uniform(0.5, 2, drawn.rows).astype(kind)
    return (*found, weights) if drawn.weighted and drawn.problem != "two" else found


def brought(drawn: Drawn, parts: tuple[Any, ...]) -> Any:
    """The data in the form that the user brings."""
    if drawn.form == "list":
        return list(parts)
    if drawn.form == "dict":
        return dict(zip(("x", "y", "sample_weight"), parts, strict=False))
    if drawn.form == "dataset":
        return dataset(parts, drawn.batch_size)
    if drawn.form == "PyDataset":
        return Numbered(as_tuples(parts), drawn.batch_size, drawn.rows)
    return parts


def as_tuples(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: as_tuples(value) for name, value in part.items()}
    return tuple(map(as_tuples, part)) if isinstance(part, list | tuple) else part


def dataset(parts: Any, size: int) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(as_tuples(parts)).batch(size)


def is_honourable(drawn: Drawn) -> bool:
    """Whether the user asks for what means something."""
    return drawn.lengths == "right" and (drawn.labels == "right" or drawn.problem == "mse")


def by_keras(drawn: Drawn, start: list[np.ndarray], parts: Any) -> tuple[list[np.ndarray], int]:
    """Keras's own training in the same order; the guide as a loss and a clipped gradient."""
    model = network(drawn)
    optimizer = optimizer_of(drawn)
    # Compiling takes longer than the few steps do, and eager steps are another way to the same.
    model.compile(optimizer=optimizer, loss=loss_of(drawn), run_eagerly=True)
    model.set_weights(start)
    optimizer.learning_rate = RATE
    batches = dataset(parts, drawn.batch_size)
    if drawn.steps is not None:
        batches = batches.repeat().take(drawn.steps)
    epochs = 1 if drawn.steps is not None else drawn.epochs
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if drawn.proximal or drawn.clip_norm is not None:
        by_hand(drawn, model, optimizer, batches, epochs)
    else:
        model.fit(batches, epochs=epochs, verbose=0, shuffle=False)
    return model.get_weights(), int(inner.iterations.numpy())


def by_hand(drawn: Drawn, model: Any, optimizer: Any, batches: Any, epochs: int) -> None:
    """The loop that Keras's guide shows, with FedProx's and the clipped gradient written out."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    variables = model.trainable_variables
    anchor = [tf.identity(tf.cast(v, v.dtype)) for v in variables]
    inner.build(variables)
    for batch in [batch for _ in range(epochs) for batch in batches]:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            output = model(x, training=True)
            loss = model.compute_loss(x=x, y=y, y_pred=output, sample_weight=weights, training=True)
        found = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
        if drawn.clip_norm is not None:
            norm = np.sqrt(sum(float((g.numpy().astype("f8") ** 2).sum()) for g in found))
            found = [g * tf.cast(min(1.0, drawn.clip_norm / norm), g.dtype) for g in found]
        pulled = [
            g + tf.cast(drawn.proximal, g.dtype) * (tf.convert_to_tensor(v) - a)
            for g, v, a in zip(found, variables, anchor, strict=True)
        ]
        inner.apply(pulled, variables)
    inner.finalize_variable_values(variables)


def tolerance(drawn: Drawn) -> tuple[float, float]:
    """Relative and absolute, in units of a step; 16-bit arithmetic has three digits."""
    if drawn.dtype.startswith("mixed"):
        return 0.2, 0.05
    return 2e-3, 2e-4


@settings(
    phases=[Phase.explicit, Phase.generate],  # to make a model smaller takes minutes
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
@given(DRAWN)
def test_a_model_trains_as_keras_trains_it_or_is_refused_in_one_line(drawn: Drawn) -> None:
    keras.backend.clear_session()
    if drawn.optimizer == "adam" and {"batch", "layer norm"} & {*drawn.layers}:
        # A bias or scale that the next normalisation cancels has a gradient of rounding errors
        # alone, which Adam blows up to whole steps of chance sign.
        drawn = replace(drawn, optimizer="momentum")
    if drawn.form == "PyDataset":
        # What its batches hold is seen when they are made: uneven ones fail in TensorFlow's words.
        drawn = replace(drawn, lengths="right")
    parts = data_of(drawn)
    refusal = ""
    local = LocalTraining(steps=drawn.steps, proximal=drawn.proximal, clip_norm=drawn.clip_norm)
    try:
        client = KerasTask(
            network(drawn), brought(drawn, parts), RATE, loss=loss_of(drawn),
            optimizer=optimizer_of(drawn), epochs=drawn.epochs,
            validation=brought(drawn, parts) if drawn.evaluated else None,
            **({} if drawn.form in ("dataset", "PyDataset")
               else {"batch_size": drawn.batch_size, "shuffle": False}),
            **({"shuffle": False} if drawn.form == "PyDataset" else {}),
        ).client()  # fmt: skip
        start = [np.array(array) for array in client.trainable.get_weights()]
        update = client.train(client.weights(), local)
    except ConfigError as error:
        refusal = str(error)
    if refusal:
        check_refusal(drawn, refusal)
        return
    assert is_honourable(drawn), "trained on what means nothing"
    event("trained")
    trained = [np.array(array, np.float64) for array in client.trainable.get_weights()]
    expected, steps = by_keras(drawn, start, parts)
    assert (update.num_examples, update.local_steps) == (drawn.rows, steps)
    if drawn.evaluated:
        assert update.evaluation is not None
        assert update.evaluation.num_examples == drawn.rows
    relative, absolute = tolerance(drawn)
    for ours, theirs, before in zip(trained, expected, start, strict=True):
        np.testing.assert_allclose(
            ours - before.astype("f8"), theirs.astype("f8") - before.astype("f8"),
            rtol=relative, atol=absolute,
        )  # fmt: skip
    check_delta(client, update.delta, trained, start)


def check_refusal(drawn: Drawn, refusal: str) -> None:
    event("refused")
    assert "\n" not in refusal
    batches = -(-drawn.rows // drawn.batch_size) * drawn.epochs
    too_few = drawn.optimizer == "accumulating" and (drawn.steps or batches) < 2
    assert not is_honourable(drawn) or too_few, refusal


def check_delta(client: Any, delta: Any, trained: list[np.ndarray], start: list[Any]) -> None:
    """What is sent is what training changed, or of a statistic the value itself."""
    shared = client.personal.shared
    for tensor, sent, after, before in zip(
        client.layout.tensors, Weights.of(delta, client.layout), shared(trained), shared(start),
        strict=True,
    ):  # fmt: skip
        change = after if tensor.role == STATISTIC else after - before
        np.testing.assert_allclose(sent, change, rtol=1e-3, atol=1e-5)
