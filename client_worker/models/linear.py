"""Generalised linear models: weights W (features, outputs) and b (outputs,), in float64."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from client_worker.models import sklearn_file
from client_worker.models.numpy_model import NumpyModel, classes_from_zero, flat_labels
from warren_shared.errors import ConfigError
from warren_shared.tensors.evaluation import Evaluation, most_likely, of_classes, of_scores
from warren_shared.tensors.layout import Array

Step = tuple[float, list[Array]]


def linear_regression(
    features: int, *, outputs: int = 1, l2: float = 0.0, **options: Any
) -> NumpyModel:
    """Least squares: (1/n) sum_i ||x_i W + b - y_i||^2 + (l2/2) ||W||^2.

    y has shape (n,) or (n, ``outputs``); with l2 it is ridge regression, b is not shrunk. With
    several outputs the loss is the mean over them, as Keras has it. ``options``: NumpyModel's.
    Evaluated by the mean square error.
    """

    def check(y: Array) -> None:
        if y.size != len(y) * outputs:
            raise ConfigError(f"y has shape {y.shape}: give {outputs} numbers for each example")

    def gradient(weights: Sequence[Array], x: Array, y: Array) -> Step:
        w, b = weights
        error = x @ w + b - np.asarray(y).reshape(len(x), -1)
        loss = float(np.mean(error**2)) + l2 / 2 * float(np.vdot(w, w))
        error *= 2 / error.size
        return loss, [x.T @ error + l2 * w, error.sum(axis=0)]

    def evaluate(weights: Sequence[Array], x: Array, y: Array) -> dict[str, float]:
        truth = np.asarray(y).reshape(len(x), -1)
        square = (x @ weights[0] + weights[1] - truth) ** 2
        return {"loss": float(square.mean())}

    options = {"labels": check, "estimator": sklearn_file.linear_regression} | options
    return NumpyModel(_zeros(features, outputs), gradient, evaluate=evaluate, **options)


def logistic_regression(features: int, *, l2: float = 0.0, **options: Any) -> NumpyModel:
    """Two classes, y in {0, 1}: (1/n) sum_i [log(1 + exp(z_i)) - y_i z_i] + (l2/2) ||W||^2.

    z = x W + b, the probability of 1 is 1 / (1 + exp(-z)). Evaluated by counts that can be pooled,
    AUC included.
    """

    def losses(z: Array, y: Array) -> float:
        return float(np.mean(np.logaddexp(0, z) - y * z))

    def gradient(weights: Sequence[Array], x: Array, y: Array) -> Step:
        w, b = weights
        z, truth = (x @ w + b)[:, 0], flat_labels(y)
        error = (sigmoid(z) - truth)[:, None] / len(x)
        loss = losses(z, truth) + l2 / 2 * float(np.vdot(w, w))
        return loss, [x.T @ error + l2 * w, error.sum(axis=0)]

    def evaluate(weights: Sequence[Array], x: Array, y: Array) -> Evaluation:
        z, truth = (x @ weights[0] + weights[1])[:, 0], flat_labels(y)
        return of_scores(truth, z, 0.0, loss=losses(z, truth))

    known = {"labels": classes_from_zero(2), "estimator": sklearn_file.logistic_regression}
    options = known | options
    return NumpyModel(_zeros(features, 1), gradient, evaluate=evaluate, **options)


def softmax_regression(
    features: int, classes: int, *, l2: float = 0.0, **options: Any
) -> NumpyModel:
    """Classes 0 to ``classes`` - 1: -(1/n) sum_i log softmax(x_i W + b)[y_i] + (l2/2) ||W||^2."""

    def gradient(weights: Sequence[Array], x: Array, y: Array) -> Step:
        w, b = weights
        loss, error = cross_entropy(x @ w + b, flat_labels(y))
        loss += l2 / 2 * float(np.vdot(w, w))
        return loss, [x.T @ error + l2 * w, error.sum(axis=0)]

    def evaluate(weights: Sequence[Array], x: Array, y: Array) -> Evaluation:
        z, truth = x @ weights[0] + weights[1], flat_labels(y)
        return of_classes(truth, most_likely(z), classes, loss=cross_entropy(z, truth)[0])

    known = {"labels": classes_from_zero(classes), "estimator": sklearn_file.softmax_regression}
    options = known | options
    return NumpyModel(_zeros(features, classes), gradient, evaluate=evaluate, **options)


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * z))


def cross_entropy(z: Array, labels: Array) -> tuple[float, Array]:
    """Mean cross-entropy of softmax(z), z (n, classes), and its gradient by z; uses ``z`` up."""
    z -= z.max(axis=1, keepdims=True)
    rows, truth = np.arange(len(z)), labels.astype(np.intp, copy=False)
    at_truth = z[rows, truth]
    np.exp(z, out=z)
    sums = z.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(sums[:, 0]) - at_truth))
    z /= sums
    z[rows, truth] -= 1
    z /= len(z)
    return loss, z


def _zeros(features: int, outputs: int) -> list[Array]:
    return [np.zeros((features, outputs)), np.zeros(outputs)]
