"""What a Gaussian mechanism promises, exactly.

``mu`` is the sensitivity in standard deviations of the noise. Whatever is computed of a Gaussian
mechanism's outputs, also if later inputs depend on earlier outputs, is as private as telling
N(0, 1) from N(mu, 1) is hard (Dong et al. 2022, "Gaussian Differential Privacy"), which in epsilon
and delta is theorem 8 of Balle & Wang 2018, "Improving the Gaussian Mechanism".
"""

from collections.abc import Callable
from math import erfc, exp, inf, isfinite, pi, sqrt
from typing import Final

MAX_EPSILON: Final = 500.0
MOST_EPSILON: Final = 100.0  # that is promised
_LARGE: Final = 8.0  # from here on erfcx has its continued fraction


def check_promise(epsilon: float, delta: float) -> None:
    """Raise ValueError, in words for who wrote them, if they promise nothing."""
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta:g}; it is a probability, such as 1e-5")
    if not 0 < epsilon <= MOST_EPSILON:
        raise ValueError(f"epsilon is {epsilon:g}; it is above 0, and beyond 100 it means nothing")


def delta_of(epsilon: float, mu: float) -> float:
    """The least delta for which ``mu`` is (``epsilon``, delta)-differentially private."""
    if mu <= 0:
        return 0.0
    near, far = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    # exp(epsilon) * Phi(-far), whose factors are beyond what a float can hold.
    second = 0.5 * exp(-near * near / 2) * _erfcx(far / sqrt(2))
    return max(0.0, 0.5 * erfc(near / sqrt(2)) - second)


def mu_of(epsilon: float, delta: float) -> float:
    """The largest ``mu`` that is (``epsilon``, ``delta``)-differentially private.

    Raises:
        ValueError: there is none: epsilon in (0, 500], delta in (0, 1).
    """
    if not 0 < epsilon <= MAX_EPSILON or not 0 < delta < 1:
        raise ValueError(f"epsilon in (0, {MAX_EPSILON:g}] and delta in (0, 1)")
    return _root(lambda mu: delta_of(epsilon, mu) - delta, sqrt(2 * epsilon) + 40.0)


def epsilon_of(mu: float, delta: float) -> float:
    """The least epsilon for which ``mu`` is (epsilon, ``delta``)-differentially private.

    It is infinite beyond MAX_EPSILON, and 0 for a ``mu`` that ``delta`` alone covers.
    """
    if not 0 < delta < 1 or not isfinite(mu):
        return inf
    if delta_of(0.0, mu) <= delta:
        return 0.0
    if delta_of(MAX_EPSILON, mu) > delta:
        return inf
    return _root(lambda epsilon: delta - delta_of(epsilon, mu), MAX_EPSILON, up=True)


def _root(increasing: Callable[[float], float], high: float, *, up: bool = False) -> float:
    """Where ``increasing`` crosses zero in (0, high], to the last bit; from above if ``up``."""
    low = 0.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if increasing(middle) > 0:
            high = middle
        else:
            low = middle
    return high if up else low


def _erfcx(x: float) -> float:
    """exp(x^2) erfc(x), for x >= -5 or so."""
    if x < _LARGE:
        return exp(x * x) * erfc(x)
    tail = 0.0
    for term in range(60, 0, -1):  # Abramowitz & Stegun 7.1.14
        tail = term / 2 / (x + tail)
    return 1 / (sqrt(pi) * (x + tail))
