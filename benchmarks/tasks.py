"""Tasks that train nothing, so that a round costs what the federation costs.

``client-worker --task benchmarks.tasks:counting --size 1000000 --index 3``: a model of ``size``
float32, of which this client counts up the one at ``index``. After R rounds of N such clients, each
with an index of its own, every one of them must read R / N: a ledger of who was counted, how often.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from client_worker import Task
from warren_shared.tensors.layout import Array


class Counting:
    """The model: one array, which stays where it is."""

    def __init__(self, size: int, index: int) -> None:
        self._weights = np.zeros(size, np.float32)
        self._index = index

    def get_weights(self) -> Sequence[Array]:
        """Return the array itself."""
        return [self._weights]

    def set_weights(self, weights: Sequence[Array]) -> None:
        """Copy the global model into the array."""
        np.copyto(self._weights, weights[0])

    def fit(self, _data: Any, _learning_rate: float) -> None:
        """Count one round."""
        self._weights[self._index] += 1


def counting(size: int, index: int = 0) -> Task:
    """The task of the client that counts at ``index`` in a model of ``size`` float32."""
    return Task(Counting(size, index), [0], 1.0, num_examples=1)


class Waiting(Counting):
    """A model whose training takes ``seconds`` and no processor, as if on a machine of its own."""

    def __init__(self, size: int, index: int, seconds: float) -> None:
        super().__init__(size, index)
        self._seconds = seconds

    def fit(self, data: Any, learning_rate: float) -> None:
        """Count one round, which takes its time."""
        threading.Event().wait(self._seconds)
        super().fit(data, learning_rate)


def waiting(size: int, index: int = 0, seconds: float = 0.1) -> Task:
    """`counting` whose training takes ``seconds``."""
    return Task(Waiting(size, index, seconds), [0], 1.0, num_examples=1)
