"""Discrete Gaussian noise, the same for whoever has the key and unpredictable for anybody else.

Integers, because sums of floats round by what they sum up, and samplers of floats leave gaps that
tell what was noised. A sample is a look into a table: 64 random bits, and as many more where those
do not decide, so it is exact to 2^-104. Of a deviation for which the table would be too large it is
x + k y of two independent ones (Micciancio & Walter 2017, "Gaussian Sampling over the Integers",
section 4.2), which are such sums themselves if they have to be.
"""

from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

BLOCK: Final = 1 << 15  # samples at once: they stay in the cache
SMALLEST: Final = 64.0  # deviation of a table
LARGEST: Final = 128.0  # of which the table fits the cache
TAIL: Final = 14  # deviations that a table reaches: less than 2^-140 lies beyond
# k y + x is a Gaussian but for 2^-64 if x has at least sqrt(2) 3.9 k / sqrt(2 pi) as its deviation,
# 3.9 being the smoothing parameter of the integers for 2^-64.
SMOOTHING: Final = 2.21
DIGITS: Final = 90

_BITS: Final = 64


class KeyStream:
    """AES-256 in counter mode: random words, the same for the same ``key`` of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError("a key has 32 bytes")
        # Here, since a worker without noise, keys and encoded updates does without its 7 MB.
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._zeros = bytes(8 * BLOCK)
        self._bytes = bytearray(8 * BLOCK + 16)

    def words(self, count: int) -> Words:
        """The next ``count`` (at most BLOCK) words, good until the next are asked for."""
        self._cipher.update_into(memoryview(self._zeros)[: 8 * count], self._bytes)
        return np.frombuffer(self._bytes, "<u8", count)


class _Table(NamedTuple):
    """An alias table (Vose 1991): 2^``bits`` cells of one size, each with two values at most.

    A word's first bits choose the cell. Below ``threshold``, which includes the cell's number, the
    sample is the cell's own value, else that in ``values``; at it, ``low`` decides by another word.
    """

    bits: int
    reach: int
    threshold: Words
    low: tuple[int, ...]
    values: Integers

    def draw(self, stream: KeyStream, count: int) -> Integers:
        """``count`` samples, at most BLOCK."""
        words = stream.words(count).copy()
        cells = (words >> np.uint64(_BITS - self.bits)).view(np.int64)
        threshold = self.threshold.take(cells)
        found = np.where(words < threshold, cells - self.reach, self.values.take(cells))
        for place in np.flatnonzero(words == threshold):  # one in 2^52 or so
            cell = int(cells[place])
            if int(stream.words(1)[0]) >> self.bits < self.low[cell]:
                found[place] = cell - self.reach
        return found


@lru_cache(maxsize=8)
def _table(sigma: float) -> _Table:
    reach = int(np.ceil(TAIL * sigma))
    bits = (2 * reach).bit_length()
    cells, rest = 1 << bits, _BITS - bits
    size = 1 << (2 * rest)  # of a cell
    masses = _masses(sigma, reach, cells * size) + [0] * (cells - 2 * reach - 1)
    threshold, low, values = np.empty(cells, np.uint64), [0] * cells, np.zeros(cells, np.int64)
    small = [cell for cell, mass in enumerate(masses) if mass < size]
    large = [cell for cell, mass in enumerate(masses) if mass >= size]
    while small and large:
        cell, donor = small.pop(), large.pop()
        _fill(cell, masses[cell], rest, threshold, low)
        values[cell] = donor - reach
        masses[donor] -= size - masses[cell]
        (small if masses[donor] < size else large).append(donor)
    for cell in (*small, *large):  # exactly full
        _fill(cell, size, rest, threshold, low)
        values[cell] = cell - reach
    return _Table(bits, reach, threshold, tuple(low), values)


def _masses(sigma: float, reach: int, total: int) -> list[int]:
    """The probabilities of -``reach`` to ``reach`` as integers whose sum is ``total``."""
    with localcontext() as context:
        context.prec = DIGITS
        ratio = (Decimal(-1) / (2 * Decimal(sigma) ** 2)).exp()
        squared = ratio * ratio
        weights, weight, step = [], Decimal(1), ratio
        for _ in range(reach + 1):  # exp(-k^2 / 2 s^2), from exp(-(2k + 1) / 2 s^2) on
            weights.append(weight)
            weight *= step
            step *= squared
        scale = Decimal(total) / (weights[0] + 2 * sum(weights[1:]))
        found = [int(weights[abs(k)] * scale) for k in range(-reach, reach + 1)]
    found[reach] += total - sum(found)  # what was cut off: less than one for each
    return found


def _fill(cell: int, mass: int, rest: int, threshold: Words, low: list[int]) -> None:
    """Give the first ``mass`` of a cell to itself."""
    end = (cell << rest) + (mass >> rest)
    threshold[cell] = min(end, (1 << _BITS) - 1)  # of a full cell, whose other value is its own
    low[cell] = mass & ((1 << rest) - 1)


class DiscreteGaussian:
    """P(X = k) in proportion to exp(-k^2 / 2 sigma^2), for integers k; ``sigma`` at least 64.

    Raises:
        ValueError: ``sigma`` is below 64 or beyond 10^12.
    """

    def __init__(self, sigma: float) -> None:
        if not sigma >= SMALLEST:
            raise ValueError(f"a deviation of {sigma:g} is below {SMALLEST:g}: use a finer unit")
        self.sigma = sigma
        self._factors: list[int] = []
        rest = sigma
        while rest > LARGEST and len(self._factors) < 4:
            self._factors.append(_factor(rest))
            rest /= (1 + self._factors[-1] ** 2) ** 0.5
        if rest > LARGEST:
            raise ValueError(f"a deviation of {sigma:g} is too large")
        self._table = _table(rest)

    def draw(self, stream: KeyStream, count: int) -> Integers:
        """``count`` independent samples of ``stream``, at most BLOCK."""
        return self._draw(stream, count, 0)

    def _draw(self, stream: KeyStream, count: int, level: int) -> Integers:
        if level == len(self._factors):
            return self._table.draw(stream, count)
        found = self._draw(stream, count, level + 1)
        found += self._factors[level] * self._draw(stream, count, level + 1)
        return found


def _factor(sigma: float) -> int:
    """The largest k for which x + k y of deviation ``sigma`` is a Gaussian."""
    # x has the deviation sigma / sqrt(1 + k^2), which has to be SMOOTHING k, and SMALLEST.
    return max(1, int(min((sigma / SMOOTHING) ** 0.5 - 0.5, ((sigma / SMALLEST) ** 2 - 1) ** 0.5)))
