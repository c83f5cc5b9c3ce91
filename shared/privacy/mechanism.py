"""How much noise a run's sums get, and how that of one round takes back that of the rounds before.

What a model is made of is not one sum but all of them added up. Noise w that is correlated so that
C w = z, of independent z, costs less there than independent noise: that of earlier rounds is taken
back bit by bit (matrix factorization: Denisov et al. 2022; with buffers: Dvijotham et al. 2024).
C is the lower triangular Toeplitz matrix of 1, omega, omega theta, omega theta^2, ..., so one
buffer s holds all that has to be known of the past: w = z - omega s, then s becomes theta s + w.

A client changes C's input in at most ``contributions`` rounds that are ``distance`` apart, each
time by a vector of norm 1 at most; of columns that do not increase the worst case is as early and
as near as that allows.
"""

from dataclasses import dataclass
from functools import cached_property
from math import inf, sqrt
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from warren_shared.privacy.noise import SMALLEST, Integers

Floats = npt.NDArray[np.float64]

LIMIT: Final = 2.0**31 - 1  # of a sum with its noise
TAIL: Final = 14  # deviations that no sample reaches: 1e-44 of them do
UNITS: Final = range(16, 25)  # powers of two that a client's vector may be long
ENOUGH: Final = 0.01  # of the noise may be due to roundings
ROOM: Final = 0.9999
_STEPS: Final = 11  # of the search, along each side
_SEARCHES: Final = 9


def length_before_rounding(unit: int, size: int) -> int:
    """The norm of a vector of ``size`` numbers that is ``unit`` at most when they are integers.

    Roundings make it longer by half the root of ``size``; a ten thousandth is left for what
    clipping, which is done in floats, is off.
    """
    return int((unit - sqrt(size) / 2) * ROOM)


@dataclass(frozen=True)
class Correlation:
    """``theta`` in [0, 1) and ``omega`` in [0, theta]; both 0 for independent noise."""

    theta: float = 0.0
    omega: float = 0.0

    @classmethod
    def best(cls, rounds: int, contributions: int, distance: int) -> Self:
        """The one of which the sums of ``rounds`` rounds have the least noise, about."""
        center, width = np.array([2.0, -1.0]), np.array([5.0, 4.0])  # of logit theta, log omega
        found, least = cls(), inf
        for _ in range(_SEARCHES):
            for logit in center[0] + width[0] * np.linspace(-1, 1, _STEPS):
                theta = 1 / (1 + np.exp(-logit))
                for logarithm in center[1] + width[1] * np.linspace(-1, 1, _STEPS):
                    omega = min(float(np.exp(logarithm)), float(theta))
                    one = cls(float(theta), omega)
                    noise = one.sensitivity(rounds, contributions, distance) * one.error(rounds)
                    if noise < least:
                        found, least, best = one, noise, np.array([logit, logarithm])
            center, width = best, width / 2.5
        return found

    def column(self, rounds: int) -> Floats:
        """The first column of C."""
        column = self.omega * self.theta ** np.arange(-1.0, rounds - 1) if self.theta else (
            np.zeros(rounds)
        )  # fmt: skip
        column[0] = 1.0
        return column

    def error(self, rounds: int) -> float:
        """Deviation of the noise in the sum of the rounds so far, in its mean over all rounds.

        Root mean square, for z of deviation 1.
        """
        inverse = np.empty(rounds)  # the first column of C^-1
        inverse[0] = 1.0
        inverse[1:] = -self.omega * (self.theta - self.omega) ** np.arange(rounds - 1)
        return float(np.sqrt(np.mean(np.cumsum(np.cumsum(inverse) ** 2))))

    def sensitivity(self, rounds: int, contributions: int, distance: int) -> float:
        """How far one client moves z in ``rounds`` rounds, in L2."""
        rows = -(-rounds // distance)
        column = np.zeros(rows * distance)
        column[:rounds] = self.column(rounds)
        # Each round is moved by what lies 0, 1, 2, ... distances before it, k of them at most.
        moved = np.cumsum(column.reshape(rows, distance), axis=0)
        if contributions < rows:
            moved[contributions:] -= moved[:-contributions].copy()
        return float(np.linalg.norm(moved.reshape(-1)[:rounds]))

    def correlated(self, drawn: Integers, kept: Any) -> Integers:
        """The noise w of z = ``drawn``, which is overwritten.

        ``kept``, of integers and of the same shape, is what has to be known of the rounds before;
        it becomes what has to be known in the next.
        """
        if self.omega:
            drawn -= np.rint(self.omega * kept).astype(np.int64)
            kept[:] = np.rint(self.theta * kept).astype(np.int64) + drawn
        return drawn

    @property
    def rounding(self) -> float:
        """How much further, at most, roundings move a value of z in one round.

        Two runs that differ in one client round omega s differently, by 1 at most, and theta s; the
        latter stays in s.
        """
        return 1.0 + self.omega / (1.0 - self.theta) if self.omega else 0.0

    @property
    def spread(self) -> float:
        """Deviation of the largest of w and s, for z of deviation 1."""
        kept = 1.0 - (self.theta - self.omega) ** 2
        return max(sqrt(1.0 + self.omega**2 / kept), sqrt(1.0 / kept))


@dataclass(frozen=True)
class Calibration:
    """The noise of a run: integers, in units of which a client's vector is ``unit`` long.

    ``size`` is how many parameters there are, ``quorum`` how many vectors at most in a sum.
    """

    correlation: Correlation
    rounds: int
    contributions: int
    distance: int
    mu: float
    size: int
    quorum: int

    @cached_property
    def unit(self) -> int:
        """Length of a clipped vector: so many steps that roundings hardly count.

        If a sum of 32 bits has no room for that, as many as it has room for: noise of a smaller
        deviation is drawn faster.

        Raises:
            ValueError: there is no room.
        """
        found = 0
        exact = self.correlation.sensitivity(self.rounds, self.contributions, self.distance)
        for power in UNITS:
            unit: int = 1 << power
            noise = TAIL * self._sigma(unit) * self.correlation.spread
            if self.quorum * unit + 2 * noise >= LIMIT:
                break
            found = unit
            roundings = self._moved(self.rounds, unit) - exact * unit
            is_fine = roundings <= ENOUGH * exact * unit and sqrt(self.size) <= ENOUGH * unit
            if is_fine and self._sigma(unit) >= SMALLEST:
                break
        if not found:
            raise ValueError("so many updates, with so much noise, make no sum of 32 bits")
        return found

    @property
    def step(self) -> int:
        """Length of a vector before it is rounded to integers; afterwards it is ``unit`` at most.

        Raises:
            ValueError: roundings would be most of it.
        """
        found = length_before_rounding(self.unit, self.size)
        if found < self.unit // 2:
            raise ValueError(f"{self.size} parameters are too many for sums of 32 bits")
        return found

    @property
    def sigma(self) -> float:
        """Deviation of z, in integers."""
        return self._sigma(self.unit)

    def _sigma(self, unit: int) -> float:
        return self._moved(self.rounds, unit) / self.mu

    def _moved(self, rounds: int, unit: int) -> float:
        exact = self.correlation.sensitivity(rounds, self.contributions, self.distance)
        return exact * unit + self.correlation.rounding * sqrt(rounds * self.size)

    def spent(self, rounds: int) -> float:
        """The mu of the first ``rounds`` rounds; that of all is ``mu``."""
        if not rounds:
            return 0.0
        return self._moved(min(rounds, self.rounds), self.unit) / self.sigma
