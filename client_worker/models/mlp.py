"""Multilayer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from client_worker.models.linear import Step, cross_entropy
from client_worker.models.numpy_model import NumpyModel, classes_from_zero, flat_labels
from warren_shared.errors import ConfigError
from warren_shared.tensors.evaluation import Evaluation, most_likely, of_classes
from warren_shared.tensors.layout import Array

EVALUATION_BATCH = 2048


def mlp(sizes: Sequence[int] = (784, 200, 200, 10), *, seed: int = 0, **options: Any) -> NumpyModel:
    """Layers of ``sizes`` with ReLU between them and softmax cross-entropy, in float32.

    h_0 = x, h_l = max(0, h_{l-1} W_l + b_l), loss -(1/n) sum_i log softmax(h_{L-1} W_L + b_L)[y_i].
    Two hidden layers of 200 are the "2NN" of McMahan et al. 2017, section 3. Weights are
    W_1, b_1, W_2, … with W_l (from, to) drawn from N(0, 2 / from) (He et al. 2015) by ``seed``.
    """
    if len(sizes) < 2:
        raise ConfigError(f"sizes={tuple(sizes)}: an input and an output size at least")
    draw = np.random.default_rng(seed)
    weights: list[Array] = []
    for before, after in pairwise(sizes):
        scale = np.sqrt(2 / before)
        weights.append(draw.normal(0, scale, (before, after)).astype(np.float32))
        weights.append(np.zeros(after, np.float32))

    def gradient(weights: Sequence[Array], x: Array, y: Array) -> Step:
        outputs, z = _forward(weights, x)
        loss, error = cross_entropy(z, flat_labels(y))
        found: list[Array] = []
        for layer in range(len(outputs) - 1, -1, -1):
            found[:0] = [outputs[layer].T @ error, error.sum(axis=0)]
            if layer:
                error = error @ weights[2 * layer].T
                error *= outputs[layer] > 0
        return loss, found

    def evaluate(weights: Sequence[Array], x: Array, y: Array) -> Evaluation:
        truth, guesses, total = flat_labels(y), [], 0.0
        for start in range(0, len(x), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            z = _forward(weights, x[part])[1]
            guesses.append(most_likely(z))
            total += cross_entropy(z, truth[part])[0] * len(z)
        return of_classes(truth, np.concatenate(guesses), sizes[-1], loss=total / len(x))

    options = {"labels": classes_from_zero(sizes[-1])} | options
    return NumpyModel(weights, gradient, seed=seed, evaluate=evaluate, **options)


def _forward(weights: Sequence[Array], x: Array) -> tuple[list[Array], Array]:
    """The input of each layer, and what the last one puts out."""
    inputs = [np.asarray(x, weights[0].dtype)]
    for w, b in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        hidden = inputs[-1] @ w
        hidden += b
        np.maximum(hidden, 0, out=hidden)
        inputs.append(hidden)
    return inputs, inputs[-1] @ weights[-2] + weights[-1]
