"""The fold's contestants: ours and numpy's bandwidth. Started by ``benchmarks.fold``.

``python -m benchmarks.harness.fold_process COUNT SIZE_BYTES`` holds COUNT updates and times them;
``python -m benchmarks.harness.fold_process COUNT SIZE_BYTES arriving`` holds one at a time, as a
coordinator does, so that its peak memory says what folding needs.
"""

import sys
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.harness.arrays import examples, flat, tensors
from benchmarks.harness.contestants import serve
from coordinator_worker.aggregation.weighted_sum import WeightedSum, sum_of_squares
from warren_shared.naming import CHUNK_BYTES
from warren_shared.tensors.layout import Layout, Weights, bytes_of
from warren_shared.tensors.update import Update

Piece = tuple[int, memoryview]  # byte offset in the update, bytes
Flat = npt.NDArray[Any]
WHOLE: Final = "add"
CHUNKS: Final = "add_chunks"
UNCHECKED: Final = "add_chunks unchecked"
MULTIPLY_ADD: Final = "multiply-add"
ADD: Final = "add alone"


class Fold:
    """Ours: K updates into one sum, in memory that serves round after round."""

    def __init__(self, size_bytes: int) -> None:
        self.layout = Layout.of(tensors(np.zeros(size_bytes // 4, np.float32)))
        self.memory = Weights.empty(self.layout)

    def sum(self) -> WeightedSum:
        """A new sum in the memory of the last one, which it has to clear."""
        return WeightedSum(self.layout, self.memory)

    def add(self, total: WeightedSum, number: int, update: Flat) -> None:
        """Fold in a whole update, as who writes the loop himself does; checks it, too."""
        delta = Weights(self.layout, update.view(np.uint8))
        total.add(Update(delta, examples(number)))

    def add_chunks(self, total: WeightedSum, number: int, update: Flat) -> None:
        """Fold in an update that arrives in pieces, each checked as the worker does."""
        total.add_chunks(map(self.checked, _pieces(update)), examples(number))

    def add_unchecked(self, total: WeightedSum, number: int, update: Flat) -> None:
        """The same without the check: what that costs is the difference."""
        total.add_chunks(_pieces(update), examples(number))

    def checked(self, piece: Piece) -> Piece:
        """``piece``, unless it holds NaN or infinities."""
        sum_of_squares(self.layout, *piece)
        return piece


def _pieces(update: Flat) -> Iterator[Piece]:
    data = bytes_of(update.view(np.uint8))
    return ((at, data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))


def timed(count: int, size_bytes: int) -> None:
    """Serve every contestant on ``count`` updates that lie in memory."""
    fold = Fold(size_bytes)
    updates = [flat(number, size_bytes) for number in range(count)]
    total, scratch = np.zeros_like(updates[0]), np.empty_like(updates[0])

    def ours(add: Any) -> WeightedSum:
        folded = fold.sum()
        for number, update in enumerate(updates):
            add(folded, number, update)
        return folded

    def multiply_add() -> None:
        for number, update in enumerate(updates):
            np.multiply(update, float(examples(number)), out=scratch)
            np.add(total, scratch, out=total)

    def add_alone() -> None:
        for update in updates:
            np.add(total, update, out=total)

    serve(
        {
            WHOLE: lambda: ours(fold.add),
            CHUNKS: lambda: ours(fold.add_chunks),
            UNCHECKED: lambda: ours(fold.add_unchecked),
            MULTIPLY_ADD: multiply_add,
            ADD: add_alone,
        }
    )


def arriving(count: int, size_bytes: int) -> None:
    """Serve our contestants on updates of which there is one at a time, or one chunk."""
    fold = Fold(size_bytes)

    def whole() -> WeightedSum:
        folded, update = fold.sum(), flat(0, size_bytes)
        for number in range(count):
            fold.add(folded, number, update)
        return folded

    def chunks() -> WeightedSum:
        folded, piece = fold.sum(), flat(0, CHUNK_BYTES).view(np.uint8)
        for number in range(count):
            pieces = (
                (at, bytes_of(piece[: size_bytes - at])) for at in range(0, size_bytes, CHUNK_BYTES)
            )
            folded.add_chunks(map(fold.checked, pieces), examples(number))
        return folded

    serve({WHOLE: whole, CHUNKS: chunks})


if __name__ == "__main__":
    (arriving if "arriving" in sys.argv else timed)(int(sys.argv[1]), int(sys.argv[2]))
