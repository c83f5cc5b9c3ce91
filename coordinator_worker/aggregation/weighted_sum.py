"""The weighted sum of weight deltas: pure arithmetic on buffers, no broker, clock or disk."""

from collections.abc import Iterable
from typing import Final

import numpy as np

from warren_shared.errors import Rejected
from warren_shared.tensors.layout import STATISTIC, Array, Layout, Run, Weights, bytes_of
from warren_shared.tensors.update import Update

# Elements: the product of a block stays in the cache, so the sum is one pass over memory; smaller
# ones cost calls (10 x 40 MB: 6.9 GB/s at 32 k, 9.3 at 128 k, 10.7 at 256 k; two whole passes 6.8).
BLOCK: Final = 262144


SMALL_BLOCK: Final = 32_768  # where six operations share a cache
# Updates that are added up before what they come to is set apart. In a sum of so many float32 of
# like sign roundings come to 5e-7 of it, in one of 50,000 to 4e-4.
GROUP: Final = 40


class WeightedSum:
    """Sum over updates k of w_k * delta_k, together with the sum of w_k.

    Sums form a commutative monoid (up to rounding): ``WeightedSum(layout)`` is its zero, ``add``
    and ``merge`` its operation, so updates may be folded in any order and in parts. The weighted
    mean of FedAvg (McMahan et al. 2017, algorithm 1) is ``sum / weight``.

    Statistics have their own weight, ``statistics_weight``, and are values: with ``model``,
    the global model, what is summed of them is how far they are from its own, so one that no client
    changed (a frozen kernel) stays the same to the last bit.

    From GROUP updates on a second buffer holds the high part of the sum: after each GROUP the two
    are added without error (Knuth's TwoSum), and the rest stays where the next ones are added to.
    So the roundings do not grow with the number of updates; the price is the memory of one more
    model in rounds of more than GROUP, and one pass more in GROUP.
    """

    def __init__(
        self, layout: Layout, memory: Weights | None = None, model: Weights | None = None
    ) -> None:
        self.layout = layout
        self.total = memory if memory is not None else Weights.uninitialized(layout)
        self.total.buffer.fill(0)  # fresh pages would cost more than the arithmetic: reuse them
        self._high: Weights | None = None
        self._added = 0  # to `total` since it was set apart
        self.weight = 0.0
        self.statistics_weight = 0.0
        self.count = 0
        self._model = model

    def add(self, update: Update, weight: float | None = None) -> None:
        """Fold a whole update in with ``weight`` (its number of examples unless told)."""
        delta = Weights.of(update.delta, self.layout)
        data = bytes_of(delta.buffer)
        sum_of_squares(self.layout, 0, data)
        factor = float(update.num_examples) if weight is None else weight
        self.add_chunks([(0, data)], factor)

    def add_chunks(
        self,
        chunks: Iterable[tuple[int, memoryview]],
        weight: float,
        scale: float = 1.0,
        statistics_weight: float | None = None,
    ) -> None:
        """Fold ``scale`` times an update in, given in pieces of (byte offset, bytes).

        Statistics are folded with ``statistics_weight`` (``weight`` unless told), not scaled.
        """
        of_statistics = weight if statistics_weight is None else statistics_weight
        for start, data in chunks:
            for run, low, values in _aligned(self.layout, start, data):
                total = self.total.buffer[low : low + values.nbytes].view(run.dtype)
                if run.role == STATISTIC:
                    _add_scaled(total, self._from_model(low, values), of_statistics)
                else:
                    _add_scaled(total, values, weight * scale)
        self.weight += weight
        self.statistics_weight += of_statistics
        self.count += 1
        self._added += 1
        if self._added > GROUP:
            self._set_apart()

    def _from_model(self, start: int, values: Array) -> Array:
        """How far statistics are from the global model's, as a new array."""
        if self._model is None:
            return values
        known = self._model.buffer[start : start + values.nbytes].view(values.dtype)
        return np.subtract(values, known)

    def merge(self, other: "WeightedSum") -> None:
        """Fold another sum in, one that knows no model."""
        for part in (other.total, other._high):
            if part is None:
                continue
            if self.count and self.count + other.count > GROUP:
                self._set_apart()
            for mine, theirs in zip(self.total.runs(), part.runs(), strict=True):
                np.add(mine, theirs, out=mine)
        for run, mine in zip(self.layout.runs, self.total.runs(), strict=True):
            if run.role == STATISTIC and self._model is not None:
                known = self._model.buffer[run.start : run.stop].view(run.dtype)
                _add_scaled(mine, known, -other.statistics_weight)
        self._added += other._added + 1
        self.weight += other.weight
        self.statistics_weight += other.statistics_weight
        self.count += other.count

    def mean(self) -> Weights:
        """``sum / weight``, computed in this sum's own memory, which is given away."""
        self.collapse()
        for run, total in zip(self.layout.runs, self.total.runs(), strict=True):
            of_statistics = run.role == STATISTIC
            np.divide(total, self.statistics_weight if of_statistics else self.weight, out=total)
        return self.total

    def collapse(self) -> None:
        """Make ``total`` the whole sum, as near as its dtypes are."""
        if self._high is not None:
            for total, high in zip(self.total.runs(), self._high.runs(), strict=True):
                np.add(total, high, out=total)
            self._high, self._added = None, 0

    def _set_apart(self) -> None:
        if self._high is None:
            # What is there becomes the high part, and fresh pages the low one's.
            self._high, self._added = Weights.empty(self.layout), 0
            self._high.buffer[:] = self.total.buffer
            self.total.buffer.fill(0)
            return
        for low, high in zip(self.total.runs(), self._high.runs(), strict=True):
            _two_sum(high, low)
        self._added = 0


def sum_of_squares(layout: Layout, start: int, data: memoryview) -> float:
    """Sum of squares of the trainable tensors in a piece of an update.

    Raises Rejected(``not-finite``) for NaN and infinities, in statistics too. One dot product is
    both norm and probe, at twice the speed of ``isfinite``; a float32 beyond 1e19 overflows it and
    is refused too.
    """
    total = of_statistics = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for run, _, values in _aligned(layout, start, data):
            squares = float(np.dot(values, values))
            if run.role == STATISTIC:
                of_statistics += squares
            else:
                total += squares
    if not np.isfinite(total + of_statistics):
        raise Rejected("not-finite", "the delta holds NaN, infinite or absurdly large values")
    return total


def _aligned(layout: Layout, start: int, data: memoryview) -> Iterable[tuple[Run, int, Array]]:
    """(run, first byte in the model, values) of each run that a piece of an update touches."""
    stop = start + len(data)
    for run in layout.runs:
        low, high = max(start, run.start), min(stop, run.stop)
        if low < high:
            yield run, low, np.frombuffer(data[low - start : high - start], run.dtype)


def _add_scaled(total: Array, values: Array, weight: float) -> None:
    scratch = np.empty(min(BLOCK, values.size), values.dtype)
    for start in range(0, values.size, BLOCK):
        piece = values[start : start + BLOCK]
        product = scratch[: piece.size]
        np.multiply(piece, weight, out=product)
        target = total[start : start + BLOCK]
        np.add(target, product, out=target)


def _two_sum(high: Array, low: Array) -> None:
    """``high`` = high + low rounded, ``low`` = what that lost (Knuth 1998, section 4.2.2)."""
    whole, part = (np.empty(min(SMALL_BLOCK, high.size), high.dtype) for _ in range(2))
    for start in range(0, high.size, SMALL_BLOCK):
        a, b = high[start : start + SMALL_BLOCK], low[start : start + SMALL_BLOCK]
        s, v = whole[: a.size], part[: a.size]
        np.add(a, b, out=s)
        np.subtract(s, a, out=v)  # b as it went into the sum
        np.subtract(b, v, out=b)
        np.subtract(s, v, out=v)  # a as it went into the sum
        np.subtract(a, v, out=a)
        np.add(b, a, out=b)
        a[:] = s
