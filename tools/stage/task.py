"""Hospitals with invented patients: some answer at once, some late, one is often away."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from client_worker import Task
from client_worker.models import mlp

FEATURES = 24


@dataclass
class Unhurried:
    """A model whose training takes about ``seconds``, as a hospital's does."""

    model: Any
    seconds: float
    draw: random.Random

    def get_weights(self) -> Any:
        """As the model within."""
        return self.model.get_weights()

    def set_weights(self, weights: Any, /) -> None:
        """As the model within."""
        self.model.set_weights(weights)

    def fit(self, data: Any, learning_rate: float, guide: Any = None) -> Mapping[str, float]:
        """As the model within, but not so soon."""
        time.sleep(self.seconds * self.draw.lognormvariate(0.0, 0.4))
        return self.model.fit(data, learning_rate, guide)

    def evaluate(self, data: Any) -> Any:
        """As the model within."""
        return self.model.evaluate(data)


def site(shard: int = 0, seconds: float = 0.4, examples: int = 400, scale: float = 1.0) -> Task:
    """``examples`` patients, whose label depends on pairs of what was measured."""
    draw = np.random.default_rng(shard)
    x = draw.normal(size=(examples + 200, FEATURES))
    truth = (x[:, 0] * x[:, 1] + x[:, 2] + 0.4 * draw.normal(size=len(x)) > 0).astype(int)
    model = mlp((FEATURES, 32, 2), epochs=1, batch_size=32, seed=shard)
    slow = Unhurried(model, seconds, random.Random(shard))  # noqa: S311
    data = (x[:examples] * scale, truth[:examples])
    return Task(slow, data, 0.05, validation=(x[examples:], truth[examples:]))
