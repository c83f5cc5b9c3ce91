"""What the clients of the benchmark ``start`` train: a line, with and without Keras."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from client_worker import Task
from warren_shared.tensors.layout import Array

EXAMPLES: Final = 256
FEATURES: Final = 8


class Line:
    """Linear regression by one full-batch gradient step."""

    def __init__(self) -> None:
        self._weights: list[Array] = [np.zeros((FEATURES, 1), np.float32), np.zeros(1, np.float32)]

    def get_weights(self) -> Sequence[Array]:
        """The slopes (FEATURES, 1) and the intercept (1,)."""
        return self._weights

    def set_weights(self, weights: Sequence[Array]) -> None:
        """Take over slopes and intercept."""
        self._weights = [np.array(array) for array in weights]

    def fit(self, data: tuple[Array, Array], learning_rate: float) -> Mapping[str, float]:
        """One step down the gradient of the mean square error."""
        x, y = data
        w, b = self._weights
        error = x @ w + b - y
        self._weights = [
            w - learning_rate * x.T @ error / len(x),
            b - learning_rate * error.mean(0),
        ]
        return {"loss": float(np.mean(error**2))}


def plain() -> Task:
    """The line in numpy."""
    return Task(Line(), _data(), 0.1)


def keras() -> Task:
    """The line in Keras, which nothing else in this benchmark imports."""
    from keras import Input, Sequential, layers

    from client_worker import KerasTask

    model = Sequential([Input((FEATURES,)), layers.Dense(1)])
    return KerasTask(model, _data(), 0.1, loss="mse")


def _data() -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
    return x, x.sum(axis=1, keepdims=True)
