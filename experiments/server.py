"""The coordinator's arithmetic, with the library's call shapes, on whole vectors in this process.

Aggregators and server optimizers are chosen by ``NAME[:param=value,...]``; the first are in
``robust.py``'s vocabulary functions of all deltas, (updates, parameters) -> (parameters,).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np

from experiments.arithmetic import Update, Weights, flat, views

Array = np.ndarray[Any, Any]
Rule = Callable[[Array, Array], Array]


class Aggregation:
    """The updates of one round and their weights."""

    def __init__(self, by_examples: bool) -> None:
        self.deltas: list[Array] = []
        self.weights: list[float] = []
        self._by_examples = by_examples

    def add(self, update: Update, staleness_weight: float = 1.0) -> None:
        """Take ``update`` in."""
        self.deltas.append(flat(update.delta))
        counted = update.num_examples if self._by_examples else 1
        self.weights.append(staleness_weight * counted)


class FederatedCoordinator:
    """Holds the global model; ``aggregate`` what came in, ``send`` what came of it."""

    def __init__(
        self, models: Sequence[Any], *, aggregator: str = "mean", server_optimizer: str = "sgd"
    ) -> None:
        self.models = list(models)
        self._weights = flat(self.models[0].get_weights())
        self._shapes = [array.shape for array in self.models[0].get_weights()]
        name, given = spec(aggregator)
        self._by_examples = name not in ("uniform", "fedbuff")
        self._rule = rule(name, given)
        self._optimizer = optimizer(*spec(server_optimizer))

    @property
    def weights(self) -> Weights:
        """The current global model."""
        return views(self._weights, self._shapes)

    def begin(self) -> Aggregation:
        """An empty round."""
        return Aggregation(self._by_examples)

    def aggregate(self, updates: Iterable[Update | Aggregation]) -> Weights:
        """The next global model."""
        whole = self.begin()
        for update in updates:
            if isinstance(update, Aggregation):
                whole.deltas += update.deltas
                whole.weights += update.weights
            else:
                whole.add(update)
        if any(len(delta) != len(self._weights) for delta in whole.deltas):
            raise ValueError("an update does not fit the model")
        move = self._rule(np.stack(whole.deltas), np.array(whole.weights, np.float32))
        return views(self._weights + self._optimizer(move), self._shapes)

    def send(self, model_updates: Sequence[Array]) -> None:
        """Make ``model_updates`` the global model."""
        self._weights = flat(model_updates)


def spec(text: str) -> tuple[str, dict[str, float]]:
    """``NAME[:param=value,...]`` taken apart."""
    name, _, rest = text.partition(":")
    pairs = [item.split("=") for item in rest.split(",") if item]
    return name, {key: float(value) for key, value in pairs}


def optimizer(name: str, given: dict[str, float]) -> Callable[[Array], Array]:
    """What turns the round's mean delta into the model's move (Reddi et al. 2021, algorithm 2)."""
    rate = np.float32(given.get("learning_rate", 1.0))
    first = np.float32(given.get("beta1", given.get("beta", 0.9)))
    second, tau = np.float32(given.get("beta2", 0.99)), np.float32(given.get("tau", 1e-3))
    m: Any = np.float32(0)
    v: Any = tau * tau

    def adaptive(delta: Array) -> Array:
        nonlocal m, v
        m = first * m + (1 - first) * delta
        square = delta * delta
        if name == "adagrad":
            v = v + square
        elif name == "adam":
            v = second * v + (1 - second) * square
        else:
            v = v - (1 - second) * square * np.sign(v - square)
        return np.asarray(rate * m / (np.sqrt(v) + tau))

    def momentum(delta: Array) -> Array:
        nonlocal m
        m = first * m + delta
        return np.asarray(rate * m)

    if name == "sgd":
        return lambda delta: delta * rate
    return momentum if name == "momentum" else adaptive


def mean(deltas: Array, weights: Array) -> Array:
    """Weighted mean (McMahan et al. 2017)."""
    return np.asarray(weights @ deltas / weights.sum())


def median(deltas: Array, _: Array) -> Array:
    """Coordinate-wise median (Yin et al. 2018)."""
    return np.asarray(np.median(deltas, axis=0))


def trimmed(deltas: Array, fraction: float) -> Array:
    """Coordinate-wise mean without the ``fraction`` highest and lowest (Yin et al. 2018)."""
    cut = int(fraction * len(deltas))
    return np.asarray(np.sort(deltas, axis=0)[cut : len(deltas) - cut].mean(axis=0))


def krum(deltas: Array, f: int, chosen: int) -> Array:
    """Mean of the ``chosen`` whose n-f-2 nearest are nearest (Blanchard et al. 2017)."""
    gram = (deltas @ deltas.T).astype(np.float64)
    norms = np.diag(gram)
    distances = norms[:, None] + norms[None, :] - 2 * gram
    np.fill_diagonal(distances, np.inf)
    scores = np.sort(distances, axis=1)[:, : len(deltas) - f - 2].sum(axis=1)
    return np.asarray(deltas[np.argsort(scores)[:chosen]].mean(axis=0))


def geometric_median(deltas: Array, rounds: int = 8, smoothing: float = 1e-6) -> Array:
    """Smoothed Weiszfeld (Pillutla et al. 2022, "Robust aggregation", algorithm 2)."""
    centre = deltas.mean(axis=0)
    for _ in range(rounds):
        weights = 1 / np.maximum(np.linalg.norm(deltas - centre, axis=1), smoothing)
        centre = (weights / weights.sum()).astype(deltas.dtype) @ deltas
    return np.asarray(centre)


def centered_clipping(deltas: Array, centre: Array, radius: float, rounds: int = 3) -> Array:
    """What is beyond ``radius`` of the last move is pulled in (Karimireddy et al. 2021)."""
    for _ in range(rounds):
        apart = deltas - centre
        factors = np.minimum(1, radius / np.maximum(np.linalg.norm(apart, axis=1), 1e-12))
        centre = centre + factors.astype(deltas.dtype) @ apart / np.float32(len(deltas))
    return centre


def clipped(deltas: Array, norm: float) -> Array:
    """Mean of deltas cut to length ``norm`` (Sun et al. 2019); 0: their median length."""
    norms = np.linalg.norm(deltas, axis=1)
    factors = np.minimum(1, (norm or np.median(norms)) / np.maximum(norms, 1e-12))
    return np.asarray(factors.astype(deltas.dtype) @ deltas / np.float32(len(deltas)))


def rule(name: str, given: dict[str, float]) -> Rule:
    """The aggregator ``name``."""
    f = int(given.get("f", 0))
    last: list[Array] = []

    def clipping(deltas: Array, _: Array) -> Array:
        centre = last.pop() if last else np.zeros_like(deltas[0])
        last.append(centered_clipping(deltas, centre, given.get("radius", 1.0)))
        return last[0]

    rules: Final[dict[str, Rule]] = {
        "mean": mean,
        "uniform": mean,
        "fedbuff": lambda deltas, w: np.asarray(w @ deltas / np.float32(len(w))),
        "median": median,
        "trimmed-mean": lambda deltas, _: trimmed(deltas, given.get("fraction", 0.1)),
        "krum": lambda deltas, _: krum(deltas, f, 1),
        "multi-krum": lambda deltas, _: krum(deltas, f, len(deltas) - f),
        "geometric-median": lambda deltas, _: geometric_median(deltas),
        "centered-clipping": clipping,
        "norm-bound": lambda deltas, _: clipped(deltas, given.get("norm", 0.0)),
    }
    return rules[name]
