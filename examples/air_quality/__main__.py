"""Twelve stations: ``python -m warren_examples.air_quality --data FOLDER``."""

import argparse
import sys

import numpy as np
from rich.console import Console
from rich.table import Table

from client_worker.tasks.feature_statistics import Statistics
from warren_examples.air_quality import FILES, STATIONS, WHERE
from warren_examples.stage.fleet import fleet_stage, main
from warren_shared.tensors.layout import Array

ROUNDS, DAYS = 40, 365
RIDGE = 1e-3


def play(given: argparse.Namespace) -> None:
    """Statistics first, then the forecast; beside it each station alone, and all data pooled."""
    from warren_examples.air_quality.task import inputs, station

    save, module = given.out / "statistics", "warren_examples.air_quality.task"
    told = ("--data", str(given.data), "--save", str(save), "--days", str(DAYS))
    quorum = ("--quorum", str(len(STATIONS)))
    rounds = ("--rounds", str(given.rounds or ROUNDS))
    slow = ("--learning-rate-schedule", "cosine:rounds=40,floor=0.05")
    with fleet_stage(given.out, "station", len(STATIONS), model_bytes=2 << 20) as stage:
        print("one round: means and deviations of everybody's measurements")
        stage.run("statistics", (f"{module}:statistics", *told), (*quorum, "--rounds", "1"))
        print(f"{rounds[1]} rounds: the forecast")
        state = stage.run("forecast", (f"{module}:forecast", *told), (*quorum, *rounds, *slow))
    known = Statistics.load(given.out / "statistics-0.npz")
    parts = [station(str(given.data), shard, DAYS) for shard in range(len(STATIONS))]
    train, test = ([(inputs(known, p[n][0]), p[n][1]) for p in parts] for n in (0, 1))
    federated = np.r_[state.weights[0][:, 0], state.weights[1]]
    models = {
        "each station alone": [least_squares([each]) for each in train],
        "federated": [federated] * len(train),
        "all data pooled": [least_squares(train)] * len(train),
    }
    table = Table("trained by", "R²", "worst station", title="Fine dust in six hours")
    for name, fitted in models.items():
        found = [explained(w, each) for w, each in zip(fitted, test, strict=True)]
        table.add_row(name, f"{np.mean(found):.3f}", f"{min(found):.3f}")
    Console().print(table)


def least_squares(parts: list[tuple[Array, Array]]) -> Array:
    """Weights and, last, the bias, of ridge regression in closed form."""
    x = np.concatenate([np.c_[x, np.ones(len(x))] for x, _ in parts])
    y = np.concatenate([y for _, y in parts])
    penalty = RIDGE / 2 * len(y) * np.eye(x.shape[1])
    penalty[-1, -1] = 0
    return np.linalg.solve(x.T @ x + penalty, x.T @ y)


def explained(weights: Array, records: tuple[Array, Array]) -> float:
    """Share of the variance that a model explains."""
    x, y = records
    error = y - x @ weights[:-1] - weights[-1]
    return float(1 - np.mean(error**2) / np.var(y))


if __name__ == "__main__":
    sys.exit(main("air_quality", FILES, WHERE, play, sys.argv[1:]))
