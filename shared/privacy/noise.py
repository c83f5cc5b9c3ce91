"""Discrete Gaussian noise, the same for whoever has the key and unpredictable for anybody else.

Integers, because sums of floats round by what they sum up, and samplers of floats leave gaps that
tell what was noised. A sample is an inversion of the distribution's table (Peikert 2010): 64 random
bits, and 64 more where those do not decide. Of a deviation for which the table would be too large
it is x + k y of two independent ones (Micciancio & Walter 2017, "Gaussian Sampling over the
Integers", section 4.2), which are such sums themselves if they have to be.
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
LARGEST: Final = 128.0  # that fits the cache: 40 M samples a second, 13 M of 512
TAIL: Final = 14  # deviations that a table reaches: less than 2^-140 lies beyond
# k y + x is a Gaussian but for 2^-64 if x has at least sqrt(2) 3.9 k / sqrt(2 pi) as its deviation,
# 3.9 being the smoothing parameter of the integers for 2^-64.
SMOOTHING: Final = 2.21
DIGITS: Final = 90

_BITS: Final = 64
_GUIDE_BITS: Final = 16


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
    """``high`` and ``low`` words of 2^128 P(X <= k - reach); ``guide`` where to begin to look."""

    reach: int
    high: Words
    low: tuple[int, ...]
    guide: Integers

    def draw(self, stream: KeyStream, count: int) -> Integers:
        """``count`` samples, at most BLOCK."""
        words = stream.words(count).copy()
        at = self.guide[words >> np.uint64(_BITS - _GUIDE_BITS)]
        active = np.flatnonzero(self.high[at] < words)
        while active.size:
            at[active] += 1
            active = active[self.high[at[active]] < words[active]]
        for place in np.flatnonzero(self.high[at] == words):  # one in 2^64 / (table's size)
            last = len(self.low) - 1
            more = int(stream.words(1)[0])
            index = int(at[place])
            while index < last and self.high[index] == words[place] and more >= self.low[index]:
                index += 1
            at[place] = index
        found: Integers = at - self.reach
        return found


@lru_cache(maxsize=8)
def _table(sigma: float) -> _Table:
    reach = int(np.ceil(TAIL * sigma))
    with localcontext() as context:
        context.prec = DIGITS
        ratio = (Decimal(-1) / (2 * Decimal(sigma) ** 2)).exp()
        squared = ratio * ratio
        weights, weight, step = [], Decimal(1), ratio
        for _ in range(reach + 1):  # exp(-k^2 / 2 s^2), from exp(-(2k + 1) / 2 s^2) on
            weights.append(weight)
            weight *= step
            step *= squared
        total = weights[0] + 2 * sum(weights[1:])
        scale = Decimal(1 << (2 * _BITS)) / total
        high, low, below = np.empty(2 * reach + 1, np.uint64), [], Decimal(0)
        for place in range(-reach, reach + 1):
            below += weights[abs(place)]
            value = min(int(below * scale), (1 << (2 * _BITS)) - 1)
            high[place + reach] = value >> _BITS
            low.append(value & ((1 << _BITS) - 1))
    firsts = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << np.uint64(_BITS - _GUIDE_BITS)
    return _Table(reach, high, tuple(low), np.searchsorted(high, firsts).astype(np.int64))


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
