"""Tasks without a framework, for tests that are about everything but learning."""

import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_hexdigest

from client_worker import NumpyModel, Task, TrainingPlan
from client_worker.models import linear_regression, random_trees, xgboost_bagging
from warren_shared.tensors.layout import Array, Weights


class Held:
    """Takes the global model, control variates and all."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def get_weights(self) -> Weights:
        return self.weights

    def set_weights(self, weights: Weights) -> None:
        self.weights = weights


class Line:
    """Linear regression by one full-batch gradient step a round, in float64."""

    def __init__(self, features: int) -> None:
        self.weights: list[Array] = [np.zeros((features, 1)), np.zeros(1)]

    def get_weights(self) -> Sequence[Array]:
        return self.weights

    def set_weights(self, weights: Sequence[Array]) -> None:
        self.weights = [np.array(array) for array in weights]

    def fit(self, data: tuple[Array, Array], learning_rate: float) -> Mapping[str, float]:
        x, y = data
        w, b = self.weights
        error = x @ w + b - y
        self.weights = [
            w - learning_rate * 2 * x.T @ error / len(x),
            b - learning_rate * 2 * error.mean(axis=0),
        ]
        return {"loss": float(np.mean(error**2))}

    def evaluate(self, data: tuple[Array, Array]) -> Mapping[str, float]:
        x, y = data
        return {"loss": float(np.mean((x @ self.weights[0] + self.weights[1] - y) ** 2))}


def line(shard: int = 0, features: int = 4, learning_rate: float = 0.1) -> Task:
    """100 + 20 * shard examples of y = x . (1, 2, …) + 3, drawn from the shard's own seed."""
    draw = np.random.default_rng(shard)
    x = draw.normal(size=(100 + 20 * shard, features))
    y = x @ np.arange(1.0, features + 1)[:, None] + 3.0
    return Task(Line(features), (x, y), learning_rate, validation=(x[:10], y[:10]))


class Liar(Line):
    """Says that it has learned, a million times as much and the other way round."""

    def fit(self, data: tuple[Array, Array], learning_rate: float) -> Mapping[str, float]:
        before = [np.array(array) for array in self.weights]
        super().fit(data, learning_rate)
        self.weights = [
            old - 1e6 * (new - old) for old, new in zip(before, self.weights, strict=True)
        ]
        return {}


def trees(shard: int = 0) -> Task:
    """Boosted trees of random structure, and a question that no line answers."""
    x, y = product(shard)
    quantiles = np.tile(np.linspace(-2, 2, 9), (3, 1))
    made = random_trees(quantiles, seed=3, trees=8, depth=4, rate=0.5)
    return Task(made, (x[100:], y[100:]), validation=(x[:100], y[:100]))


def bagging(shard: int = 0, place: int = -1, rounds: int = 9) -> Task:
    """XGBoost at four sites, for the same question."""
    x, y = product(shard)
    place = shard if place < 0 else place
    made = xgboost_bagging(3, place=place, places=4, rounds=rounds, params={"nthread": 1})
    validation = (x[:100], y[:100])
    return Task(made, (x[100:], y[100:]), 0.3, validation=validation, on_model=made.on_model)


def product(shard: int) -> tuple[Array, Array]:
    """Is the product of two features above 0?"""
    draw = np.random.default_rng(50 + shard)
    x = draw.normal(size=(200 + 100 * shard, 3))
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)


def line_or_lie(shard: int = 0) -> Task:
    """The linear regression, but of shard 2 nothing is true."""
    task = line(shard)
    if shard == 2:
        task.model = Liar(4)
    return task


def descent(shard: int = 0, ditto: float = 0.0) -> Task:
    """The data of ``line`` for three full-batch steps a round, as the coordinator guides them."""
    plain = line(shard)
    model = linear_regression(4, batch_size=None, epochs=3)
    return Task(model, plain.data, 0.05, validation=plain.validation, ditto=ditto)


class Witness(Line):
    """Notes the XXH3 of each global model that it trains from."""

    def __init__(self, features: int, seen: Path) -> None:
        super().__init__(features)
        self._seen = seen

    def fit(self, data: tuple[Array, Array], learning_rate: float) -> Mapping[str, float]:
        found = Weights.of(self.weights)
        with self._seen.open("a") as file:
            file.write(f"{xxh3_64_hexdigest(b''.join(a.tobytes() for a in found))}\n")
        return super().fit(data, learning_rate)


def witness(seen: str, shard: int = 0) -> Task:
    """The linear regression of three blocks of parameters; ``seen`` is the file of the digests."""
    plain = line(shard, 3000)
    return Task(Witness(3000, Path(seen)), plain.data, 1e-4, validation=plain.validation)


class Ledger:
    """The model that counts: training adds 1 at the client's own index and nothing else.

    With equal numbers of examples each round moves index i by 1/K for every contribution of
    client i, so the final model says how often each client's updates took effect.
    """

    def __init__(self, size: int) -> None:
        self.weights: list[Array] = [np.zeros(size, np.float32)]

    def get_weights(self) -> Sequence[Array]:
        return self.weights

    def set_weights(self, weights: Sequence[Array]) -> None:
        self.weights = [np.array(array) for array in weights]

    def fit(self, data: list[int], learning_rate: float) -> None:
        self.weights[0][data[0]] += 1.0


def ledger(index: int = 0, size: int = 8) -> Task:
    """The ledger task of the client that owns ``index``."""
    return Task(Ledger(size), [index], 1.0)


def shard_ledger(shard: int = 0, size: int = 64) -> Task:
    """The ledger task of the replica in place ``shard``."""
    return ledger(shard, size)


@cache
def one_ledger(size: int) -> Ledger:
    """The model that all clients of a process share: only one of them trains at a time."""
    return Ledger(size)


def shared_ledger(shard: int = 0, size: int = 64) -> Task:
    """The same, with a model for all."""
    return Task(one_ledger(size), [shard], 1.0)


class Endless(Ledger):
    """Training that never ends by itself."""

    def fit(self, data: list[int], learning_rate: float) -> None:
        threading.Event().wait()


def endless() -> Task:
    """A task whose first round goes on until the process ends."""
    return Task(Endless(8), [0], 1.0)


class Slow(Ledger):
    """Training that takes its time."""

    def __init__(self, size: int, seconds: float) -> None:
        super().__init__(size)
        self.seconds = seconds

    def fit(self, data: list[int], learning_rate: float) -> None:
        threading.Event().wait(self.seconds)
        super().fit(data, learning_rate)


def slow(index: int = 0, size: int = 8, seconds: float = 1.0) -> Task:
    """The ledger task at ``seconds`` a round."""
    return Task(Slow(size, seconds), [index], 1.0)


def slow_shard_ledger(shard: int = 0, seconds: float = 0.1) -> Task:
    """The ledger task of the replica in place ``shard``, at ``seconds`` a round."""
    return Task(Slow(64, seconds), [shard], 1.0)


class Busy(Slow):
    """Training that never waits for anything."""

    def fit(self, data: list[int], learning_rate: float) -> None:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            sum(range(1000))
        Ledger.fit(self, data, learning_rate)


def busy(index: int = 0, size: int = 8, seconds: float = 1.0) -> Task:
    """The ledger task of a client whose processor is busy for ``seconds`` a round."""
    return Task(Busy(size, seconds), [index], 1.0)


class Once(Ledger):
    """Training that comes back once, and never again."""

    trained = False

    def fit(self, data: list[int], learning_rate: float) -> None:
        if self.trained:
            threading.Event().wait()
        self.trained = True
        super().fit(data, learning_rate)


def once(index: int = 0, size: int = 8) -> Task:
    """The ledger task of a client that contributes once."""
    return Task(Once(size), [index], 1.0)


class Untouchable(Ledger):
    """A model that must not be trained."""

    def fit(self, data: list[int], learning_rate: float) -> None:
        raise RuntimeError("this client was to send what it had trained before")


def untouchable(index: int = 0, size: int = 8) -> Task:
    """The ledger task for a client that must not do its work again."""
    return Task(Untouchable(size), [index], 1.0)


def missing_data(data: str) -> Task:
    """A task that reads its data from the file ``data``."""
    return Task(Line(1), np.loadtxt(data), 0.1)


not_a_task = 7


class Untrainable(Line):
    """Can be made, and nothing else."""

    def fit(self, data: tuple[Array, Array], learning_rate: float) -> Mapping[str, float]:
        raise ZeroDivisionError("no batches")


def untrainable() -> Task:
    """A client whose training fails."""
    return Task(Untrainable(2), (np.zeros((3, 2)), np.zeros((3, 1))), 0.1)


class Moody(Line):
    """Fails the first time that it trains."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.has_failed = False

    def fit(self, data: tuple[Array, Array], learning_rate: float) -> Mapping[str, float]:
        if not self.has_failed:
            self.has_failed = True
            raise KeyError("age")
        return super().fit(data, learning_rate)


def moody(shard: int = 0) -> Task:
    task = line(shard)
    return Task(Moody(4), task.data, 0.1)


def first_is_moody(shard: int = 0) -> Task:
    return moody(shard) if shard == 0 else line(shard)


class Measured(Ledger):
    """A ledger with a statistic: the number that is this client's own, whatever was before."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.weights = [*self.weights, np.full(2, 7.0), np.array(0)]

    def weight_names(self) -> list[str]:
        return ["ledger", "moving", "steps"]

    def weight_roles(self) -> list[str]:
        return ["trainable", "statistic", "statistic"]

    def fit(self, data: list[int], learning_rate: float) -> None:
        super().fit(data, learning_rate)
        ledger, _, steps = self.weights
        self.weights = [ledger, np.full(2, 10.0 * (data[0] + 1)), steps + 1]


def measured(index: int = 0) -> Task:
    """A client whose statistic is 10, 20, 30, … and who has as many examples as its number."""
    return Task(Measured(8), [index], 1.0, num_examples=index + 1)


class Adapted(NumpyModel):
    """Linear regression on features that a frozen matrix makes, and their mean as a statistic.

    It stands for a pre-trained model: what ``base`` is decides what ``w`` means. ``spoils``: its
    training moves what is frozen, which it must not.
    """

    def __init__(self, base: int = 0, *, spoils: bool = False, epochs: int = 3) -> None:
        features = np.random.default_rng(base).normal(size=(4, 6))
        weights = [features, np.zeros((6, 1)), np.zeros(1), np.zeros(4)]
        super().__init__(weights, self._slope, epochs=epochs, batch_size=None)
        self._spoils = spoils

    def weight_names(self) -> list[str]:
        return ["features", "w", "b", "seen"]

    def weight_roles(self) -> list[str]:
        return ["frozen", "trainable", "trainable", "statistic"]

    def fit(
        self, data: tuple[Array, Array], learning_rate: float, guide: TrainingPlan | None = None
    ) -> dict[str, float]:
        if self._spoils:
            self.weights[0] += 1e-6
        self.weights[3] = data[0].mean(axis=0)
        return super().fit(data, learning_rate, guide)

    @staticmethod
    def _slope(weights: Sequence[Array], x: Array, y: Array) -> tuple[float, list[Array]]:
        features, w, b, seen = weights
        hidden = x @ features
        error = hidden @ w + b - y
        loss = float(np.mean(error**2))
        back = 2 * error / len(x)
        nothing = [np.zeros_like(features), np.zeros_like(seen)]
        return loss, [nothing[0], hidden.T @ back, back.sum(axis=0), nothing[1]]


def adapted(
    shard: int = 0, base: int = 0, spoils: bool = False, ditto: float = 0.0, own: str = ""
) -> Task:
    """The data of ``line``; ``own`` is a tensor that stays at the site."""
    plain = line(shard)
    model = Adapted(base, spoils=spoils)
    local = [own] if own else []
    return Task(model, plain.data, 0.02, validation=plain.validation, ditto=ditto, local=local)
