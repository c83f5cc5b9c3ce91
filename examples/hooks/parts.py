"""What both workers take by import path: a listener, an aggregator, a server optimizer, a task.

    coordinator-worker --listen warren_examples.hooks.parts:Log \\
        --aggregator warren_examples.hooks.parts:without_extremes,share=0.2 \\
        --server-optimizer warren_examples.hooks.parts:signed,learning_rate=0.01
    client-worker --task warren_examples.hooks.parts:task --shard 0
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from client_worker import NumpyModel, Task
from client_worker.models import linear_regression
from coordinator_worker import Aggregator, Contribution, ServerOptimizer
from coordinator_worker.monitoring import events

FOLDER = Path("hooks-out")


class Log:
    """A listener: one JSON line for each round, in the folder in which the coordinator started."""

    def __init__(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        self.file = (FOLDER / "rounds.jsonl").open("a", encoding="utf-8")

    def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.RoundClosed):
            figures = {"version": event.record.version, **event.record.metrics}
            print(json.dumps(figures), file=self.file, flush=True)

    def close(self) -> None:
        self.file.close()


def without_extremes(share: float = 0.1) -> Aggregator:
    """An aggregator: the mean of each coordinate without the ``share`` of values at either end."""

    def rule(stack, _weights, out):  # type: ignore[no-untyped-def]
        cut = int(share * len(stack))

        def inner(block: np.ndarray) -> np.ndarray:  # shape (updates, coordinates), ours to change
            block.sort(axis=0)
            return block[cut : len(block) - cut].mean(axis=0, dtype=np.float64)

        stack.by_column(inner, out)

    def weigh(update: Contribution) -> float:
        return update.staleness_weight

    return Aggregator(weigh=weigh, weigh_statistics=weigh, rule=rule)


def signed(learning_rate: float = 0.01) -> ServerOptimizer:
    """A server optimizer: each weight moves by ``learning_rate`` in the direction of the delta."""

    def step(
        delta: np.ndarray, old: np.ndarray, _slots: Sequence[np.ndarray], _scratch: np.ndarray
    ) -> None:
        np.sign(delta, out=delta)  # in place: what is in ``delta`` at the end is the new model
        np.multiply(delta, learning_rate, out=delta)
        np.add(delta, old, out=delta)

    return ServerOptimizer(step)


def task(shard: int = 0) -> Task:
    """A linear regression that keeps each site's own notes on the models that come by."""
    draw = np.random.default_rng(shard)
    x = draw.normal(size=(100, 3))
    y = x @ np.array([[1.0], [2.0], [3.0]]) + 0.5
    model: NumpyModel = linear_regression(3)
    FOLDER.mkdir(exist_ok=True)
    notes = FOLDER / f"site-{shard}.txt"

    def on_model(version: int, weights: Mapping[str, np.ndarray]) -> None:
        with notes.open("a", encoding="utf-8") as file:
            norm = np.sqrt(sum(float(np.sum(array**2)) for array in weights.values()))
            print(f"version {version} has norm {norm:.3f}", file=file)

    def on_finished(weights: Mapping[str, np.ndarray]) -> None:
        np.savez(
            FOLDER / f"site-{shard}.npz", **{n.replace("/", "_"): a for n, a in weights.items()}
        )

    return Task(model, (x, y), 0.1, on_model=on_model, on_finished=on_finished)
