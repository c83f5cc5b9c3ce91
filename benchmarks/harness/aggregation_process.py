"""A round's arithmetic with each algorithm. Started by ``benchmarks.aggregation``.

``python -m benchmarks.harness.aggregation_process COUNT SIZE_BYTES`` takes turns with all of them.
Updates arrive in chunks, as they do at the coordinator: a mean folds them, a robust rule reads them
again from the staging file when the round closes.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.harness.arrays import flat, tensors
from benchmarks.harness.contestants import serve
from coordinator_worker import FederatedCoordinator
from coordinator_worker.aggregation import Contribution
from coordinator_worker.rounds.staging import Staging
from warren_shared.naming import CHUNK_BYTES
from warren_shared.tensors.layout import Array, Layout, Weights, bytes_of

MEANS: Final = ("mean", "fedbuff", "by-participation", "fednova")
OPTIMIZERS: Final = ("momentum", "adagrad", "adam", "yogi")
ROBUST: Final = (
    *("median", "trimmed-mean:fraction=0.2", "krum:f=2", "multi-krum:f=2", "geometric-median"),
    "centered-clipping",
)


class Model:
    """A global model that is sent to nobody."""

    def __init__(self, layout: Layout) -> None:
        self.weights = Weights.empty(layout)

    def get_weights(self) -> Weights:
        """Return the weights."""
        return self.weights

    def set_weights(self, _weights: Sequence[Array], /) -> None:
        """Nobody wants them."""


class Arrived:
    """An update in the staging file."""

    def __init__(self, staging: Staging, update: memoryview) -> None:
        self._staging = staging
        self._pieces = [
            staging.keep(start, update[start : start + CHUNK_BYTES])
            for start in range(0, len(update), CHUNK_BYTES)
        ]

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """All of it."""
        return self._staging.chunks(self._pieces)

    def read(self, start: int, into: memoryview) -> None:
        """A part of it."""
        self._staging.read(self._pieces, start, into)

    def release(self) -> None:
        """It stays: the next repetition uses it again."""


def rounds(count: int, size_bytes: int, staging: Staging) -> dict[str, Callable[[], object]]:
    """A round with each algorithm, on the same ``count`` updates."""
    layout = Layout.of(tensors(np.zeros(size_bytes // 4, np.float32)))
    update = flat(0, size_bytes).view(np.uint8)
    arrived = [Arrived(staging, bytes_of(update)) for _ in range(count)]
    memory = Weights.empty(layout)

    def round_of(aggregator: str, optimizer: str) -> Callable[[], object]:
        made: list[FederatedCoordinator] = []

        def once() -> object:
            if not made:
                made.append(
                    FederatedCoordinator(
                        [Model(layout)], aggregator=aggregator, server_optimizer=optimizer
                    )
                )
            cohort = made[0].begin(memory)
            for number, row in enumerate(arrived):
                cohort.take(Contribution(10 + number, local_steps=5), row)
            return made[0].aggregate([cohort])

        return once

    found = {name: round_of(name, "sgd") for name in (*MEANS, *ROBUST)}
    return found | {name: round_of("mean", name) for name in OPTIMIZERS}


def main() -> None:
    """Serve them all."""
    with tempfile.TemporaryDirectory(prefix="warren-bench-") as folder:
        count, size_bytes = int(sys.argv[1]), int(sys.argv[2])
        serve(rounds(count, size_bytes, Staging(Path(folder), memory_bytes=0)))


if __name__ == "__main__":
    main()
