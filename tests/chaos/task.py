"""The ledger: a model whose every number says how often one update took effect."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_hexdigest

from client_worker import Task
from warren_shared.tensors.compression import BLOCK
from warren_shared.tensors.layout import Array


class Ledger:
    """Clients x versions; training adds 1 where this client and the model's version meet.

    Every round adds 1 in all, a mean of such updates being what it is, and 1 to each value of the
    clock, so the model itself says which version it is, also where it comes as changes that leave
    something for the next: of a block of equal values their mean is right to a few hundredths.
    ``seen`` collects a line for each model: version and digest.
    """

    def __init__(self, index: int, slots: int, padding: int, seconds: float, seen: Path) -> None:
        self.index, self.slots, self.seconds, self.seen = index, slots, seconds, seen
        clock = np.zeros(BLOCK, np.float32)
        self.weights: list[Array] = [np.zeros((8, slots)), np.zeros(padding), clock]

    def get_weights(self) -> Sequence[Array]:
        return self.weights

    def set_weights(self, weights: Sequence[Array]) -> None:
        self.weights = [np.array(array) for array in weights]

    def fit(self, data: Sequence[int], learning_rate: float) -> None:
        counts, _, clock = self.weights
        version = round(float(clock.mean()))
        with self.seen.open("a") as file:
            file.write(f"{version} {xxh3_64_hexdigest(counts.tobytes())}\n")
        threading.Event().wait(self.seconds)
        counts[self.index, version] += 1.0
        clock += 1.0


def ledger(index: int, slots: int, padding: int = 1, seconds: float = 0.05) -> Task:
    """The task of client ``index`` of eight; a round takes it ``seconds``."""
    seen = Path(os.environ["CHAOS_FOLDER"]) / f"seen-{index}.txt"
    return Task(Ledger(index, slots, padding, seconds, seen), [index], 1.0)


class Restless:
    """Moves at random, as far as it likes; ``seen`` collects the digest of each model."""

    def __init__(self, size: int, seen: Path) -> None:
        self.weights: list[Array] = [np.zeros(size, np.float32)]
        self._seen = seen

    def get_weights(self) -> Sequence[Array]:
        return self.weights

    def set_weights(self, weights: Sequence[Array]) -> None:
        self.weights = [np.array(array) for array in weights]

    def fit(self, data: Sequence[int], learning_rate: float) -> None:
        with self._seen.open("a") as file:
            file.write(f"{xxh3_64_hexdigest(self.weights[0].tobytes())}\n")
        threading.Event().wait(0.05)
        draw = np.random.default_rng()
        self.weights[0] += draw.standard_normal(self.weights[0].size, np.float32)


def restless(size: int, seen: str) -> Task:
    """The task of a client in a private run."""
    return Task(Restless(size, Path(seen)), [0], 1.0)
