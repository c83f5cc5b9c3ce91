"""Federated averaging in one process: ``python -m warren_examples.linear_regression``."""

import sys
from collections.abc import Sequence

import numpy as np

from client_worker import FederatedClient
from coordinator_worker import FederatedCoordinator
from warren_examples.linear_regression.task import Records, clinic, clinics

ROUNDS = 80


def federated(rounds: int = ROUNDS) -> Sequence[np.ndarray]:
    """Train; return kernel, shape (6, 1), and bias, shape (1,)."""
    tasks = [clinic(shard) for shard in range(len(clinics()))]
    clients = [FederatedClient(task.model, task.data, task.learning_rate) for task in tasks]
    coordinator = FederatedCoordinator([client.model for client in clients])
    for done in range(1, rounds + 1):
        updates = [client.train(coordinator.weights) for client in clients]
        coordinator.send(coordinator.aggregate(updates))
        if done % 20 == 0:
            losses = ", ".join(f"{update.metrics['loss']:.4f}" for update in updates)
            print(f"round {done}: loss at each clinic {losses}")
    return coordinator.weights


def least_squares(parts: Sequence[Records]) -> Sequence[np.ndarray]:
    """The closed-form solution on all clinics' data in one place, in float64."""
    x = np.concatenate([part for part, _ in parts]).astype(float)
    y = np.concatenate([part for _, part in parts]).astype(float)
    solution = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    return solution[:-1], solution[-1]


def explained(weights: Sequence[np.ndarray], parts: Sequence[Records]) -> float:
    """R squared over all clinics' patients."""
    x = np.concatenate([part for part, _ in parts])
    y = np.concatenate([part for _, part in parts])
    residual = y - (x @ weights[0] + weights[1])
    return float(1 - np.sum(residual**2) / np.sum((y - y.mean()) ** 2))


def main() -> int:
    """Train, and compare with the closed form."""
    parts = clinics()
    ours, exact = federated(), least_squares(parts)
    error = max(np.abs(a - b).max() for a, b in zip(ours, exact, strict=True))
    print(f"R squared: federated {explained(ours, parts):.5f}, "
          f"closed form on pooled data {explained(exact, parts):.5f}")  # fmt: skip
    print(f"largest difference of a coefficient: {error:.2e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
