"""How the clients' learning rate changes with the version: a factor on each client's own."""

import math
from collections.abc import Callable, Mapping
from typing import Final

from warren_shared.config.named import choose

Schedule = Callable[[int], float]


def constant(warmup: int = 0) -> Schedule:
    """1; with ``warmup`` w rounds, (v + 1) / w before version w."""
    return _warmed(warmup, lambda _version: 1.0)


def step(every: int, factor: float, warmup: int = 0) -> Schedule:
    """``factor`` to the power of how many times ``every`` rounds are over."""
    _above(0, every=every, factor=factor)
    return _warmed(warmup, lambda version: factor ** (version // every))


def exponential(decay: float, warmup: int = 0) -> Schedule:
    """``decay`` to the power of the version, as in McMahan et al. 2017, section 3."""
    _above(0, decay=decay)
    return _warmed(warmup, lambda version: decay**version)


def cosine(rounds: int, floor: float = 0.01, warmup: int = 0) -> Schedule:
    """From 1 to ``floor`` along half a cosine over ``rounds`` (Loshchilov & Hutter 2017)."""
    _above(0, rounds=rounds, floor=floor)

    def factor(version: int) -> float:
        share = min(1.0, version / rounds)
        return floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2

    return _warmed(warmup, factor)


def _warmed(warmup: int, schedule: Schedule) -> Schedule:
    def factor(version: int) -> float:
        # 0 would be no learning rate at all, and a client refuses it.
        return max(schedule(version), 1e-12) * min(1.0, (version + 1) / max(1, warmup))

    return factor


def _above(least: float, **values: float) -> None:
    for name, value in values.items():
        if not value > least or not math.isfinite(value):
            raise ValueError(f"{name} is {value}; it has to be above {least:g}")


SCHEDULES: Final[Mapping[str, Callable[..., Schedule]]] = {
    "constant": constant,
    "step": step,
    "exponential": exponential,
    "cosine": cosine,
}


def schedule(spec: str) -> Schedule:
    """The schedule that ``spec`` names; raises ConfigError."""
    return choose("learning-rate-schedule", spec, SCHEDULES)
