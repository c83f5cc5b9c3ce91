"""Clients that train in this process: models in plain numpy, with the library's call shapes.

One flat float32 buffer holds a model's weights and one its gradients, and a batch is written into
arrays made once: an epoch of 600 examples in batches of 10 through the 2NN takes about 20 ms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from shared.messages import LocalTraining
from shared.update import Update

Array = np.ndarray[Any, Any]
Weights = list[Array]
TWO_NN: Final = (784, 200, 200, 10)  # the "2NN" of McMahan et al. 2017, section 3
EVALUATED: Final = 2000  # examples at a time, so that the layers' outputs stay in the cache


@dataclass(frozen=True)
class Guide:
    """How one round's local training is to go."""

    anchor: Sequence[Array]
    proximal: float = 0.0
    correction: Sequence[Array] | None = None
    clip_norm: float | None = None
    epochs: int | None = None
    steps: int | None = None


def views(buffer: Array, shapes: Sequence[tuple[int, ...]]) -> Weights:
    """Arrays of ``shapes``, one behind the other in ``buffer``."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = np.split(buffer, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def flat(arrays: Sequence[Array]) -> Array:
    """All of ``arrays`` as one vector (a copy)."""
    return np.concatenate([np.ravel(array) for array in arrays])


class Mlp:
    """Softmax over layers with ReLU between them; with two ``sizes`` it is softmax regression.

    ``weights``: W (from, to) and b (to) of each layer, float32, He-initialised by ``seed`` (zeros
    for softmax regression). ``epochs``, ``batch_size`` (None: all at once): of one ``fit``.
    """

    def __init__(
        self, sizes: Sequence[int] = TWO_NN, *, epochs: int = 1, batch_size: int | None = 10,
        seed: int = 0,
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(seed)
        pairs = list(pairwise(sizes))
        self.shapes = [shape for a, b in pairs for shape in ((a, b), (b,))]
        self._buffer = np.zeros(sum(a * b + b for a, b in pairs), np.float32)
        self._step = np.empty_like(self._buffer)
        self.weights, self._steps = views(self._buffer, self.shapes), views(self._step, self.shapes)
        for (start, _), weight in zip(pairs, self.weights[::2], strict=True):
            if len(pairs) > 1:
                weight[:] = rng.normal(0, np.sqrt(2 / start), weight.shape)
        self.sizes, self.epochs, self.batch_size = tuple(sizes), epochs, batch_size
        self._rng = np.random.default_rng(seed + 1)
        self._outputs: list[Array] = []

    def get_weights(self) -> Weights:
        """A copy of the weights."""
        return views(self._buffer.copy(), self.shapes)

    def set_weights(self, weights: Sequence[Array], /) -> None:
        """Copy ``weights`` in."""
        for mine, new in zip(self.weights, weights, strict=True):
            mine[...] = new

    def fit(
        self, data: tuple[Array, Array], learning_rate: float, guide: Guide | None = None
    ) -> dict[str, float]:
        """Stochastic gradient descent on ``data``; returns how many steps it took."""
        x, y = data
        size = min(self.batch_size or len(y), len(y))
        per_epoch = -(-len(y) // size)
        epochs = (guide.epochs if guide and guide.epochs else None) or self.epochs
        wanted = (guide.steps if guide and guide.steps else None) or epochs * per_epoch
        pull = None if guide is None else self._pull(guide, learning_rate)
        done = 0
        while done < wanted:
            order = self._rng.permutation(len(y)) if size < len(y) else slice(None)
            xs, ys = x[order], y[order]
            for start in range(0, len(y), size):
                if done == wanted:
                    break
                batch = slice(start, start + size)
                self._gradient(xs[batch], ys[batch], learning_rate)
                if pull is not None:
                    pull()
                np.subtract(self._buffer, self._step, out=self._buffer)
                done += 1
        return {"local_steps": float(done)}

    def _pull(self, guide: Guide, rate: float) -> Callable[[], None]:
        """What ``guide`` does to a step: clipping, the proximal term, SCAFFOLD's correction."""
        anchor = flat(guide.anchor) if guide.proximal else None
        offset = None
        if guide.correction is not None:
            offset = flat(guide.correction) * np.float32(rate)
        strength = np.float32(rate * guide.proximal)

        def pull() -> None:
            if guide.clip_norm is not None:
                norm = float(np.sqrt(np.dot(self._step, self._step))) / rate
                self._step *= np.float32(min(1.0, guide.clip_norm / max(norm, 1e-12)))
            if anchor is not None:
                self._step += strength * (self._buffer - anchor)
            if offset is not None:
                self._step += offset

        return pull

    def _forward(self, x: Array) -> list[Array]:
        """Outputs of every layer, in memory of their own; the last one's are logits."""
        if not self._outputs or len(self._outputs[0]) < len(x):
            self._outputs = [np.empty((len(x), size), np.float32) for size in self.sizes[1:]]
        outputs = [output[: len(x)] for output in self._outputs]
        before = x
        for weight, bias, output in zip(
            self.weights[::2], self.weights[1::2], outputs, strict=True
        ):
            np.matmul(before, weight, out=output)
            output += bias
            if output is not outputs[-1]:
                np.maximum(output, 0, out=output)
            before = output
        return outputs

    def _gradient(self, x: Array, y: Array, rate: float) -> None:
        """Write rate x gradient of the mean cross-entropy into the step buffer."""
        outputs = self._forward(x)
        error = outputs[-1]
        error -= error.max(axis=1, keepdims=True)
        np.exp(error, out=error)
        error /= error.sum(axis=1, keepdims=True)
        error[np.arange(len(y)), y] -= 1
        error *= np.float32(rate / len(y))
        for layer in range(len(outputs) - 1, -1, -1):
            before = outputs[layer - 1] if layer else x
            np.matmul(before.T, error, out=self._steps[2 * layer])
            np.sum(error, axis=0, out=self._steps[2 * layer + 1])
            if layer:
                error = error @ self.weights[2 * layer].T
                error *= before > 0

    def evaluate(self, data: tuple[Array, Array]) -> dict[str, float]:
        """Accuracy and loss of the current weights on ``data``."""
        x, y = data
        right, loss = 0, 0.0
        for start in range(0, len(y), EVALUATED):
            labels = y[start : start + EVALUATED]
            logits = self._forward(x[start : start + EVALUATED])[-1]
            right += int(np.count_nonzero(logits.argmax(axis=1) == labels))
            logits = logits - logits.max(axis=1, keepdims=True)
            chosen = logits[np.arange(len(labels)), labels]
            loss += float(np.sum(np.log(np.exp(logits).sum(axis=1)) - chosen))
        return {"accuracy": right / len(y), "loss": loss / len(y)}


class FederatedClient:
    """One participant; many may share a model, which is only a place to compute in."""

    def __init__(self, model: Any, data: Any, learning_rate: float) -> None:
        self.model, self.data, self.learning_rate = model, data, learning_rate
        self.num_examples = len(data[1])
        self.control: Array | None = None

    def train(
        self,
        global_model: Sequence[Array],
        local: LocalTraining = LocalTraining(),  # noqa: B008
    ) -> Update:
        """Train from ``global_model``; with ``local.scaffold`` it is [*weights, *controls]."""
        rate = self.learning_rate * local.learning_rate_factor
        if not local.scaffold:
            delta, steps = self._fit(global_model, None, rate, local)
            return Update(delta, self.num_examples, local_steps=steps)
        half = len(global_model) // 2
        weights, shapes = global_model[:half], [array.shape for array in global_model[:half]]
        control = flat(global_model[half:])
        mine = self.control if self.control is not None else np.zeros_like(control)
        delta, steps = self._fit(weights, views(control - mine, shapes), rate, local)
        # Option II of Karimireddy et al. 2020, "SCAFFOLD", equation 4.
        new = mine - control - flat(delta) / np.asarray(steps * rate, control.dtype)
        change, self.control = views(new - mine, shapes), new
        return Update([*delta, *change], self.num_examples, local_steps=steps)

    def _fit(
        self, weights: Sequence[Array], correction: Weights | None, rate: float,
        local: LocalTraining,
    ) -> tuple[Weights, int]:  # fmt: skip
        self.model.set_weights(weights)
        guide = Guide(
            weights, local.proximal, correction, local.clip_norm, local.epochs, local.steps
        )
        metrics = self.model.fit(self.data, rate, guide)
        after = self.model.get_weights()
        for new, old in zip(after, weights, strict=True):
            new -= old
        return after, int(metrics["local_steps"])
