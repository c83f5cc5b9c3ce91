"""How the mean delta moves the global model: server optimizers, as steps on arrays.

Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2, reads the mean delta D of a round
as the negative of a gradient. x is the model, e the server's learning rate; all are elementwise.
Everything happens in the memory that is there: a step turns D into the new model, and the slots
into what the next round needs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

from coordinator_worker.aggregation.cohort import Delta
from coordinator_worker.aggregation.weighted_sum import BLOCK
from warren_shared.config.named import choose
from warren_shared.errors import WarrenError
from warren_shared.tensors.layout import STATISTIC, Array, Layout, Weights

Slots = dict[str, Weights]
Step = Callable[[Array, Array, Sequence[Array], Array], None]  # D, x, slots, scratch


class Diverged(WarrenError):
    """The new model would hold NaN, infinite or absurdly large values."""


@dataclass(frozen=True)
class ServerOptimizer:
    """``step(D, x, slots, scratch)`` makes of D the new model, of ``slots`` (name: first value)
    what the next step starts from.
    """

    step: Step
    slots: Mapping[str, float] = field(default_factory=dict)

    def initial(self, layout: Layout) -> Slots:
        """The slots before the first round."""
        found = {}
        for name, value in self.slots.items():
            found[name] = Weights.empty(layout)
            for array in found[name]:
                array.fill(value)
        return found

    def move(self, model: Weights, moved: Delta, slots: Slots, *, controls: float = 1.0) -> Weights:
        """Return the model after ``moved``, in its memory.

        Block by block, so that a step of several operations is one pass over memory. Control
        variates, if the layout has any, move by ``controls`` * D whatever the optimizer; statistics
        become their mean.

        Raises Diverged if a value is not finite; ``moved`` and ``slots`` are then of no more use.
        """
        layout, total = model.layout, moved.total
        for run in layout.runs:
            width = BLOCK * np.dtype(run.dtype).itemsize
            scratch = np.empty(BLOCK, run.dtype)
            edges = {*range(run.start, run.stop, width), run.stop}
            if run.start < layout.controls_start < run.stop:
                edges.add(layout.controls_start)
            for start, stop in pairwise(sorted(edges)):
                delta, old, *moments = (
                    weights.buffer[start:stop].view(run.dtype)
                    for weights in (total, model, *(slots[name] for name in self.slots))
                )
                is_statistic = run.role == STATISTIC
                divisor = moved.statistics_divisor if is_statistic else moved.divisor
                with np.errstate(over="ignore", invalid="ignore"):
                    np.divide(delta, divisor, out=delta)  # a factor 1 / d would be rounded twice
                    if is_statistic:
                        if moved.is_relative:
                            np.add(delta, old, out=delta)
                    elif start >= layout.controls_start:
                        np.multiply(delta, controls, out=delta)
                        np.add(delta, old, out=delta)
                    else:
                        self.step(delta, old, moments, scratch[: delta.size])
                    if not np.isfinite(np.dot(delta, delta)):
                        raise Diverged("the new model holds NaN, infinite or absurdly large values")
        return total


def sgd(learning_rate: float = 1.0) -> ServerOptimizer:
    """X + e D; e = 1 is FedAvg (McMahan et al. 2017, algorithm 1)."""
    _positive(learning_rate=learning_rate)

    def step(delta: Array, old: Array, _slots: Sequence[Array], _scratch: Array) -> None:
        if learning_rate != 1.0:
            np.multiply(delta, learning_rate, out=delta)
        np.add(delta, old, out=delta)

    return ServerOptimizer(step)


def momentum(learning_rate: float = 1.0, beta: float = 0.9) -> ServerOptimizer:
    """FedAvgM (Hsu et al. 2019, section 4.3): v = b v + D, x + e v."""
    _positive(learning_rate=learning_rate)
    _share(beta=beta)

    def step(delta: Array, old: Array, slots: Sequence[Array], _scratch: Array) -> None:
        (velocity,) = slots
        np.multiply(velocity, beta, out=velocity)
        np.add(velocity, delta, out=velocity)
        np.multiply(velocity, learning_rate, out=delta)
        np.add(delta, old, out=delta)

    return ServerOptimizer(step, {"velocity": 0.0})


def adagrad(learning_rate: float = 0.1, beta1: float = 0.0, tau: float = 1e-3) -> ServerOptimizer:
    """FedAdagrad (Reddi et al. 2021, algorithm 2): v = v + D^2, x + e m / (sqrt(v) + t)."""

    def second(variance: Array, squared: Array, _delta: Array) -> None:
        np.add(variance, squared, out=variance)

    return _adaptive(learning_rate, beta1, tau, second)


def adam(
    learning_rate: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> ServerOptimizer:
    """FedAdam (Reddi et al. 2021, algorithm 2): v = b2 v + (1 - b2) D^2, x + e m / (sqrt(v) + t).

    As in the paper without bias correction, and v begins at t^2.
    """
    _share(beta2=beta2)

    def second(variance: Array, squared: Array, _delta: Array) -> None:
        np.multiply(variance, beta2, out=variance)
        np.multiply(squared, 1.0 - beta2, out=squared)
        np.add(variance, squared, out=variance)

    return _adaptive(learning_rate, beta1, tau, second)


def yogi(
    learning_rate: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> ServerOptimizer:
    """FedYogi (Reddi et al. 2021, algorithm 2): v = v - (1 - b2) D^2 sign(v - D^2)."""
    _share(beta2=beta2)

    def second(variance: Array, squared: Array, sign: Array) -> None:
        np.subtract(variance, squared, out=sign)
        np.sign(sign, out=sign)
        np.multiply(squared, sign, out=squared)
        np.multiply(squared, 1.0 - beta2, out=squared)
        np.subtract(variance, squared, out=variance)

    return _adaptive(learning_rate, beta1, tau, second)


def _adaptive(
    learning_rate: float, beta1: float, tau: float, second: Callable[[Array, Array, Array], None]
) -> ServerOptimizer:
    """M = b1 m + (1 - b1) D, v by ``second``, x + e m / (sqrt(v) + t).

    ``second(v, D^2, spare)`` moves v; it may use the other two as it likes.
    """
    _positive(learning_rate=learning_rate, tau=tau)  # with t = 0 what never moved is 0 / 0
    _share(beta1=beta1)

    def step(delta: Array, old: Array, slots: Sequence[Array], scratch: Array) -> None:
        mean, variance = slots
        np.multiply(mean, beta1, out=mean)
        np.multiply(delta, 1.0 - beta1, out=scratch)
        np.add(mean, scratch, out=mean)
        np.multiply(delta, delta, out=scratch)
        second(variance, scratch, delta)
        np.sqrt(variance, out=scratch)
        np.add(scratch, tau, out=scratch)
        np.divide(mean, scratch, out=delta)
        np.multiply(delta, learning_rate, out=delta)
        np.add(delta, old, out=delta)

    return ServerOptimizer(step, {"mean": 0.0, "variance": tau**2})


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}; it has to be above 0")


def _share(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}; it has to be from 0 to below 1")


SERVER_OPTIMIZERS: Final[Mapping[str, Callable[..., ServerOptimizer]]] = {
    "sgd": sgd,
    "momentum": momentum,
    "adagrad": adagrad,
    "adam": adam,
    "yogi": yogi,
}


def server_optimizer(spec: str) -> ServerOptimizer:
    """The server optimizer that ``spec`` names; raises ConfigError."""
    return choose("server-optimizer", spec, SERVER_OPTIMIZERS, ServerOptimizer)
