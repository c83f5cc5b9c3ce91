"""A transformer that reads bytes and says the next one; small enough to train while one waits."""

import hashlib
from math import sqrt
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from client_worker import enable_lora
from warren_examples.language_adapters.text import CONTEXT, Pieces
from warren_shared import weights_file
from warren_shared.tensors.layout import Layout, Weights

BYTES, WIDTH, HEADS, BLOCKS = 128, 128, 4, 4
PROJECTIONS = ("query", "key", "value", "out")
ADAPTED = (f"block_{BLOCKS - 1}/out", f"block_{BLOCKS - 1}/down")  # the last block's
RANK = 32
SEED = 1  # of A
BATCH, RATE = 32, 3e-3  # of the base's training


class Positions(layers.Layer):
    """Adds a vector for each place in the context."""

    def build(self, shape: Any) -> None:
        start = keras.initializers.RandomNormal(stddev=0.02)
        self.where = self.add_weight(shape=shape[1:], initializer=start, name="where")

    def call(self, x: Any) -> Any:
        return x + self.where


class Block(layers.Layer):
    """Causal attention and a perceptron, each on what is normalised and added to what was there.

    The projections are Dense layers of their own: Keras's LoRA of a MultiHeadAttention, whose are
    EinsumDense, would have a B for one head that all heads share.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.norm_1 = layers.LayerNormalization(name="norm_1")
        self.norm_2 = layers.LayerNormalization(name="norm_2")
        self.query, self.key, self.value, self.out = (
            layers.Dense(WIDTH, use_bias=False, name=name) for name in PROJECTIONS
        )
        self.up = layers.Dense(4 * WIDTH, "gelu", name="up")
        self.down = layers.Dense(WIDTH, name="down")

    def build(self, shape: Any) -> None:
        for layer in (self.norm_1, self.norm_2, self.query, self.key, self.value, self.out):
            layer.build(shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], 4 * WIDTH))

    def call(self, x: Any) -> Any:
        x = x + self.out(self._attended(self.norm_1(x)))
        return x + self.down(self.up(self.norm_2(x)))

    def _attended(self, x: Any) -> Any:
        shape = (-1, CONTEXT, HEADS, WIDTH // HEADS)
        query, key, value = (
            ops.transpose(ops.reshape(layer(x), shape), (0, 2, 1, 3))
            for layer in (self.query, self.key, self.value)
        )
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / sqrt(WIDTH // HEADS)
        future = np.triu(np.full((CONTEXT, CONTEXT), -1e9, np.float32), 1)
        found = ops.matmul(ops.softmax(scores + future), value)
        return ops.reshape(ops.transpose(found, (0, 2, 1, 3)), (-1, CONTEXT, WIDTH))


def untrained() -> Any:
    """The architecture, with weights of the process's random seed."""
    inputs = keras.Input((CONTEXT,), dtype="int32")
    x = Positions(name="positions")(layers.Embedding(BYTES, WIDTH, name="bytes")(inputs))
    for number in range(BLOCKS):
        x = Block(name=f"block_{number}")(x)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Dense(BYTES, name="next")(x), name="reader")


def compiled(model: Any, rate: Any) -> Any:
    """``model`` with Adam; the loss is of the logits."""
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def base(file: Path) -> Any:
    """The pre-trained model in ``file``."""
    model = untrained()
    model.set_weights(weights_file.read(file).weights)
    return model


def adapted(file: Path, rank: int = RANK) -> Any:
    """The same with low-rank adapters in its last block; nothing else trains."""
    return enable_lora(base(file), rank, seed=SEED, layers=ADAPTED)


def thawed(file: Path) -> Any:
    """The same with the whole of these layers to train: what adapters are compared with."""
    model = base(file)
    for layer in model.layers:
        if layer.name != f"block_{BLOCKS - 1}":
            layer.trainable = False
            continue
        for inner in layer._flatten_layers():
            if inner is not layer and f"{layer.name}/{inner.name}" not in ADAPTED:
                inner.trainable = False
    return model


def cached(folder: Path, text: str, steps: int) -> Path:
    """Where the base that ``steps`` of ``text`` make is kept: by a digest of all that makes it."""
    recipe = repr((text, CONTEXT, WIDTH, HEADS, BLOCKS, BATCH, RATE, steps))
    return folder / f"base-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.npz"


def pre_train(file: Path, text: Pieces, steps: int) -> None:
    """Train a base on ``text`` and write it to ``file``."""
    keras.utils.set_random_seed(0)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=RATE, warmup_steps=min(100, steps // 2), alpha=0.05
    )
    model = fitted(untrained(), text, steps, schedule, seed=0)
    arrays = model.get_weights()
    named = Layout.of(arrays, [variable.path for variable in model.weights])
    weights_file.write(file, Weights.of(arrays, named))


def fitted(model: Any, text: Pieces, steps: int, rate: Any, seed: int) -> Any:
    """``model`` after ``steps`` batches of ``text``."""
    order = np.resize(np.random.default_rng(seed).permutation(len(text[0])), steps * BATCH)
    compiled(model, rate)
    model.fit(text[0][order], text[1][order], batch_size=BATCH, shuffle=False, verbose=0)
    return model


def judged(model: Any, text: Pieces) -> tuple[float, float]:
    """Share of the next bytes that ``model`` names, and its perplexity for a byte."""
    if not model.compiled:
        compiled(model, 0.1)
    loss, accuracy = model.evaluate(*text, batch_size=200, verbose=0)
    return float(accuracy), float(np.exp(loss))
