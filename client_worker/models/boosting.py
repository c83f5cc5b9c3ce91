"""What boosted trees of any kind have in common: losses, derivatives, predictions, data."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from client_worker.models.numpy_model import classes_from_zero
from client_worker.training.example_count import rows
from warren_shared.errors import ConfigError
from warren_shared.tensors.evaluation import Evaluation, of_classes, of_scores
from warren_shared.tensors.layout import Array

LOSSES: Final = ("logistic", "squared", "softmax")


def derivatives(loss: str, score: Array, y: Array) -> tuple[float, Array, Array]:
    """Mean loss, and first and second derivatives of each row's by its score, (n, outputs)."""
    if loss == "squared":
        away = score - y[:, None]
        return float((away**2).mean()), away, np.ones_like(away)
    if loss == "logistic":
        p = _sigmoid(score)
        each = np.logaddexp(0.0, score[:, 0]) - y * score[:, 0]
        return float(each.mean()), p - y[:, None], p * (1 - p)
    p = _softmax(score)
    truth = np.zeros_like(p)
    truth[np.arange(len(y)), y.astype(np.int64)] = 1.0
    each = -np.log(np.maximum(p[truth > 0], 1e-300))
    return float(each.mean()), p - truth, p * (1 - p)


def evaluation(loss: str, score: Array, y: Array) -> Evaluation | Mapping[str, float]:
    """Loss, and counts of a classifier's predictions."""
    mean, _, _ = derivatives(loss, score, y)
    if loss == "logistic":
        return of_scores(y, _sigmoid(score[:, 0]), loss=mean)
    if loss == "softmax":
        return of_classes(y, score.argmax(axis=1), score.shape[1], loss=mean)
    return {"loss": mean}


def predictions(loss: str, score: Array) -> Array:
    """Probabilities of class 1 (n,), of each class (n, classes), or values (n,)."""
    if loss == "softmax":
        return _softmax(score)
    return _sigmoid(score[:, 0]) if loss == "logistic" else score[:, 0]


def examples(data: Any, loss: str, outputs: int, dtype: type) -> tuple[Array, Array]:
    """Return x (n, features) of ``dtype`` and y (n,) as float64.

    Raises ConfigError if ``data`` are not two arrays, or the labels are none for ``loss``.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ConfigError("this model takes data of two arrays, (x, y)")
    rows((data[0], data[1]))
    x: Array = np.asarray(data[0], dtype)
    y = np.asarray(data[1])
    if loss != "squared":
        classes_from_zero(max(2, outputs))(y)
    elif y.size != len(y) or not np.isfinite(y.astype(np.float64)).all():
        raise ConfigError(f"labels have shape {y.shape}: give one finite number for each example")
    return x, y.reshape(len(y)).astype(np.float64)


def _sigmoid(score: Array) -> Array:
    found: Array = 0.5 * (1 + np.tanh(0.5 * score))
    return found


def _softmax(score: Array) -> Array:
    found: Array = np.exp(score - score.max(axis=1, keepdims=True))
    found /= found.sum(axis=1, keepdims=True)
    return found
