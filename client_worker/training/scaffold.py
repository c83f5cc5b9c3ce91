"""SCAFFOLD's side of a client: control variates that correct the drift of local training.

Karimireddy et al. 2020, algorithm 1, option II. x is the global model, y what K local steps at rate
eta made of it, c the global control variate and c_i this client's:

    each step     y <- y - eta * (g(y) + c - c_i)
    afterwards    c_i+ = c_i - c + (x - y) / (K * eta)
    sent          y - x  and  c_i+ - c_i

What is sent of the control, (x - y) / (K * eta) - c, does not need c_i: so c_i is the sum of all
that this client has sent and that counted, and can be set right whatever becomes of an update.
"""

from collections.abc import Sequence

import numpy as np

from warren_shared.tensors.layout import Array, Layout, Weights


def split(whole: Weights, layout: Layout) -> tuple[Weights, Weights]:
    """Weights of ``layout`` and control variates of ``layout.trainable``, as views of ``whole``."""
    size = layout.size_bytes
    return Weights(layout, whole.buffer[:size]), Weights(layout.trainable, whole.buffer[size:])


def longer(weights: Weights) -> Weights:
    """A copy of ``weights`` with control variates of zero behind them."""
    made = Weights.empty(weights.layout.with_controls)
    made.buffer[: weights.layout.size_bytes] = weights.buffer
    return made


class Control:
    """c_i, of the trainable tensors' ``layout``: zero at first, without memory until asked for."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.forget()

    def forget(self) -> None:
        """Be zero again."""
        self._value: Weights | None = None

    @property
    def value(self) -> Weights:
        """The sum of all that was sent."""
        if self._value is None:
            self._value = Weights.empty(self._layout)
        return self._value

    def correction(self, of_all: Weights) -> list[Array]:
        """Return c - c_i, one array per trainable tensor."""
        return [theirs - ours for theirs, ours in zip(of_all, self.value, strict=True)]

    def add(self, change: Weights, sign: float = 1.0) -> None:
        """Count what was sent, or (-1) that it did not count after all."""
        for ours, theirs in zip(self.value.runs(), change.runs(), strict=True):
            ours += np.asarray(sign, ours.dtype) * theirs


def change(
    out: Weights, begun: Sequence[Array], trained: Sequence[Array], of_all: Weights, travel: float
) -> None:
    """Write (x - y) / ``travel`` - c to ``out``; ``travel`` is K * eta."""
    for target, x, y, c in zip(out, begun, trained, of_all, strict=True):
        np.subtract(x, y, out=target)
        target /= np.asarray(travel, target.dtype)
        target -= c
