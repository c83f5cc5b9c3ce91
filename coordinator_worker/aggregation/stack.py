"""The deltas of one round as the rows of a matrix, read in blocks of columns.

A median needs all deltas at once. K of them need not fit into memory: they lie in the staging file,
and a block of columns is read from each. What depends on distances alone needs one pass for the K
by K inner products and one for a weighted sum.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from warren_shared.tensors.layout import (
    STATISTIC,
    TRAINABLE,
    Array,
    Layout,
    Role,
    Weights,
    bytes_of,
)

BLOCK_BYTES: Final = 8 << 20

Matrix = npt.NDArray[np.float64]


class Row(Protocol):
    """One whole delta, in memory or in the file."""

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """All of it in pieces of (byte offset, bytes), each good until the next is asked."""
        ...

    def read(self, start: int, into: memoryview) -> None:
        """Copy the bytes from ``start`` on until ``into`` is full."""
        ...

    def release(self) -> None:
        """Give its memory up."""
        ...


class MemoryRow:
    """A delta in memory."""

    def __init__(self, delta: Weights) -> None:
        self._data = bytes_of(delta.buffer)

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """All of it at once."""
        yield 0, self._data

    def read(self, start: int, into: memoryview) -> None:
        """Copy the bytes from ``start`` on until ``into`` is full."""
        into[:] = self._data[start : start + len(into)]

    def release(self) -> None:
        """Nothing is held."""


class Stack:
    """``rows`` of one layout, row k multiplied with ``scales[k]``; ``center`` is one more row.

    Statistics are not scaled, and stand in no inner product: of a rule that chooses whole rows by
    their distances, they are the median of each coordinate, the center left out.
    """

    def __init__(
        self,
        layout: Layout,
        rows: Sequence[Row],
        scales: Sequence[float],
        center: Weights | None = None,
    ) -> None:
        self.layout = layout
        self.center = center
        self._rows = [*rows, MemoryRow(center)] if center is not None else list(rows)
        self._scales = [*scales, 1.0] if center is not None else list(scales)

    def __len__(self) -> int:
        return len(self._rows)

    def blocks(self, role: Role | None = None) -> Iterator[tuple[int, int, Array]]:
        """Blocks of columns: first and last byte, and an array (K, columns) to be used at once.

        Those of one ``role`` only, if it is given. The center's row has no statistics.
        """
        for run in self.layout.runs:
            if role is not None and run.role != role:
                continue
            is_statistic = run.role == STATISTIC
            size = np.dtype(run.dtype).itemsize
            columns = max(1024, BLOCK_BYTES // size // len(self._rows))
            memory = np.empty((len(self._rows), columns), run.dtype)
            for start in range(run.start, run.stop, columns * size):
                stop = min(run.stop, start + columns * size)
                block = memory[: self._rows_with(run.role), : (stop - start) // size]
                for values, row, scale in zip(block, self._rows, self._scales, strict=False):
                    row.read(start, memoryview(values).cast("B"))
                    if scale != 1.0 and not is_statistic:
                        np.multiply(values, scale, out=values)
                yield start, stop, block

    def _rows_with(self, role: Role) -> int:
        return len(self) - (role == STATISTIC and self.center is not None)

    def inner_products(self) -> Matrix:
        """<x_i, x_j> of all pairs of rows' trainable tensors, (K, K), in float64."""
        found = np.zeros((len(self), len(self)))
        for _, _, block in self.blocks(TRAINABLE):
            wide = block.astype(np.float64)
            found += wide @ wide.T
        return found

    def combine(self, coefficients: npt.ArrayLike, out: Weights) -> None:
        """Write sum_k coefficients[k] * x_k into ``out``; of statistics their medians."""
        factors = np.asarray(coefficients, np.float64)

        def weighted(block: Array) -> Array:
            product: Array = factors @ block.astype(np.float64)  # float32 loses 4e-4 of 50,000
            return product

        self.by_column(weighted, out, TRAINABLE)
        self.by_column(median_of_columns, out, STATISTIC)

    def by_column(
        self, function: Callable[[Array], Array], out: Weights, role: Role | None = None
    ) -> None:
        """Write ``function`` of each block, (K, columns) -> (columns,), into ``out``."""
        for start, stop, block in self.blocks(role):
            out.buffer[start:stop].view(block.dtype)[:] = function(block)


def median_of_columns(block: Array) -> Array:
    """The median of each column, which is sorted for it; of an even number the middle mean."""
    block.sort(axis=0)
    half = len(block) // 2
    found: Array = block[half]
    if len(block) % 2 == 0:
        found = (block[half - 1] + found) / 2
    return found


def squared_distances(products: Matrix) -> Matrix:
    """|x_i - x_j|^2 of all pairs, from their inner products."""
    norms = np.diag(products)
    return np.maximum(norms[:, None] + norms[None, :] - 2 * products, 0.0)
