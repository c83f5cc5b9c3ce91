"""Support vector machines: a linear one, and random features that make it a kernel machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from client_worker.models.linear import Step
from client_worker.models.numpy_model import NumpyModel, flat_labels
from warren_shared.errors import ConfigError
from warren_shared.tensors.evaluation import Evaluation, of_scores
from warren_shared.tensors.layout import Array


def linear_svm(
    features: int, *, l2: float = 1e-4, squared: bool = False, **options: Any
) -> NumpyModel:
    """Two classes: (l2/2) ||w||^2 + (1/n) sum_i max(0, 1 - s_i (x_i w + b))^p.

    s_i is 1 where y_i > 0 and -1 elsewhere; labels are {0, 1} or {-1, 1}, any other is refused; p
    is 1 (hinge, Cortes & Vapnik 1995) or, ``squared``, 2, which is smooth. b is not shrunk.
    scikit-learn's C is 1 / (l2 n) for both. Scores for the AUC are the margins.
    """
    if l2 < 0:
        raise ConfigError(f"l2={l2}: it is 0 or more")

    def losses(w: Array, room: Array) -> float:
        hinge = np.mean(room**2 if squared else room)
        return float(hinge) + l2 / 2 * float(np.vdot(w, w))

    def gradient(weights: Sequence[Array], x: Array, y: Array) -> Step:
        w, b = weights
        sign = _signs(y, w.dtype)
        room = np.maximum(0, 1 - sign * (x @ w + b)[:, 0])
        slope = -sign * (2 * room if squared else room > 0) / len(x)
        return losses(w, room), [(x.T @ slope)[:, None] + l2 * w, slope.sum(keepdims=True)]

    def evaluate(weights: Sequence[Array], x: Array, y: Array) -> Evaluation:
        w, b = weights
        z = (x @ w + b)[:, 0]
        room = np.maximum(0, 1 - _signs(y, w.dtype) * z)
        return of_scores(flat_labels(y) > 0, z, 0.0, loss=losses(w, room))

    options = {"labels": _check_signs} | options
    return NumpyModel(
        [np.zeros((features, 1)), np.zeros(1)], gradient, evaluate=evaluate, **options
    )


@dataclass(frozen=True)
class RandomFeatures:
    """A map: x (n, features) -> sqrt(2 / D) cos(x ``directions`` + ``phases``), (n, D)."""

    directions: Array
    phases: Array

    def __call__(self, x: Array) -> Array:
        """Map ``x``; do so once, before training."""
        found = x @ self.directions + self.phases
        np.cos(found, out=found)
        found *= np.sqrt(2 / len(self.phases))
        return found


def random_features(features: int, count: int, *, gamma: float, seed: int) -> RandomFeatures:
    """Random Fourier features (Rahimi & Recht 2007, algorithm 1) of exp(-gamma ||x - y||^2).

    Inner products of ``count`` of them approximate that kernel, with an error of about
    1 / sqrt(count); a linear SVM on them is a kernel SVM that can be averaged. Directions are drawn
    from N(0, 2 gamma I), phases uniformly from [0, 2 pi). All clients need the same ``seed``.
    """
    if gamma <= 0 or count < 1:
        raise ConfigError(f"gamma={gamma}, count={count}: both must be above 0")
    draw = np.random.default_rng(seed)
    directions = draw.normal(0, np.sqrt(2 * gamma), (features, count))
    return RandomFeatures(directions, draw.uniform(0, 2 * np.pi, count))


def _check_signs(y: Array) -> None:
    """Raise ConfigError unless labels are 0 and 1, or -1 and 1."""
    found = np.unique(y)
    if y.size != len(y) or not (np.isin(found, (0, 1)).all() or np.isin(found, (-1, 1)).all()):
        shown = ", ".join(f"{value:g}" for value in found[:4])
        raise ConfigError(f"labels are {shown} in shape {y.shape}: an SVM takes 0 and 1, or -1 and"
                          " 1, one for each example; map the labels to that")  # fmt: skip


def _signs(y: Array, dtype: Any) -> Array:
    return np.where(flat_labels(y) > 0, 1, -1).astype(dtype)
