"""Robust aggregation against attackers: accuracy of every rule under every attack.

``python -m experiments.robust --data FOLDER``: 25 clients, all of them in every round, five of them
attackers who know the honest deltas of the round. The attacks:

- *sign flip*: minus what honest training gave; *scaled*: ten times that.
- *label flip*: honest training on labels 9 - y.
- *ALIE* (Baruch et al. 2019, "A little is enough", algorithm 3): mean minus z standard deviations,
  as far as a majority of the honest lie there: with n = 25, f = 5 that is z = 0.25.
- *IPM* (Xie et al. 2020, "Fall of empires", section 4): minus half the honest mean.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from time import process_time
from typing import Any, Final

import numpy as np

from client_worker import partition
from client_worker.models import mlp
from experiments.command import run
from experiments.data import Images, fashion_mnist
from experiments.federation import Federation
from experiments.pictures import Panel
from experiments.report import Findings, Table
from experiments.vectors import flat, shaped
from warren_shared.observability.progress import through
from warren_shared.tensors.update import Update

Array = np.ndarray[Any, Any]
Attack = Callable[[Array, Array], Array]  # honest deltas, the attackers' own -> what they send
CLIENTS, ATTACKERS, CLASSES = 25, 5, 10
LAYERS: Final = (784, 64, 10)
RATE, KEPT = 0.05, 0.96
RULES: Final[Mapping[str, tuple[str, float | None]]] = {  # aggregator, clip norm of each update
    "mean": ("mean", None),
    "median": ("median", None),
    "trimmed-mean:fraction=0.2": ("trimmed-mean:fraction=0.2", None),
    "krum:f=5": ("krum:f=5", None),
    "multi-krum:f=5": ("multi-krum:f=5", None),
    "geometric-median": ("geometric-median", None),
    "centered-clipping:radius=0.5": ("centered-clipping:radius=0.5", None),
    "mean, clip norm 0.5": ("mean", 0.5),
}


def alie(honest: Array, own: Array) -> Array:
    """Just so far from the mean that a majority can be found on that side."""
    n = len(honest) + len(own)
    supporters = n // 2 + 1 - len(own)
    z = NormalDist().inv_cdf((len(honest) - supporters) / len(honest))
    sent = honest.mean(axis=0) - np.float32(z) * honest.std(axis=0)
    return np.broadcast_to(sent, own.shape)


ATTACKS: Final[Mapping[str, Attack]] = {
    "none": lambda _, own: own,
    "sign flip": lambda _, own: -own,
    "scaled × −10": lambda _, own: -10 * own,
    "label flip": lambda _, own: own,
    "ALIE": alie,
    "IPM": lambda honest, own: np.broadcast_to(-0.5 * honest.mean(axis=0), own.shape),
}


@dataclass(frozen=True)
class Size:
    """How much of it is done. ``alphas``: Dirichlet's, None is IID."""

    train: int
    test: int
    rounds: int
    alphas: Sequence[float | None]


FULL: Final = Size(7_500, 2_000, 25, (None, 1.0))
SHORT: Final = Size(500, 300, 1, (None,))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(data: Path, short: bool) -> Findings:
    """Every rule under every attack."""
    size = SHORT if short else FULL
    images = fashion_mnist(data, size.train, size.test)
    tables, panels = [], []
    reached: dict[str, str] = {}
    for alpha in size.alphas:
        kind = "IID" if alpha is None else f"Dirichlet({alpha:g})"
        curves, cost = {}, {}
        for rule in through(RULES, kind, len(RULES)):
            started = process_time()
            for attack in ATTACKS:
                curves[rule, attack] = train(images, size, alpha, rule, attack)
            cost[rule] = process_time() - started
        end = {key: float(np.mean(curve[-3:])) for key, curve in curves.items()}
        tables.append(_table(kind, end))
        reached |= _reached(kind, end)
        lines = {
            rule: (list(range(1, size.rounds + 1)), curves[rule, "scaled × −10"]) for rule in RULES
        }
        panels.append(Panel(f"scaled × −10, {kind}", "round", "test accuracy", lines))
    return Findings(
        "robust", "Robust aggregators against five attackers among 25 clients",
        {
            "data": f"Fashion-MNIST, {size.train} training and {size.test} test images",
            "model": "-".join(map(str, LAYERS)),
            "local": f"E=1, B=10, rate {RATE}", "rounds": size.rounds,
            "accuracy": "mean of the last three rounds",
        },
        tables, panels, reached,
    )  # fmt: skip


def _table(kind: str, end: Mapping[tuple[str, str], float]) -> Table:
    clean = end["mean", "none"]
    rows: list[list[str | float | None]] = []
    for rule in RULES:
        scores = [end[rule, attack] for attack in ATTACKS]
        rows.append([rule, *scores, f"{min(scores) / clean:.1%}"])
    columns = ["rule", *ATTACKS, "worst, of the clean mean"]
    return Table(f"Test accuracy, {kind}", columns, rows)


def _reached(kind: str, end: Mapping[tuple[str, str], float]) -> dict[str, str]:
    clean = end["mean", "none"]
    worst = {rule: min(end[rule, attack] for attack in ATTACKS) / clean for rule in RULES}
    keep = [rule for rule in RULES if worst[rule] >= KEPT]
    bad = min(ATTACKS, key=lambda attack: end["mean", attack])
    return {
        f"{kind}: the plain mean collapses": f"{end['mean', bad]:.3f} under {bad},"
        f" {clean:.3f} without attackers",
        f"{kind}: rules that keep {KEPT:.0%} of the clean accuracy under every attack": (
            f"{len(keep)}: {', '.join(keep) or 'none'}"
        ),
    }


def train(images: Images, size: Size, alpha: float | None, rule: str, attack: str) -> list[float]:
    """Test accuracy after each round; the last five clients are the attackers."""
    model = mlp(LAYERS, batch_size=10)
    if alpha is None:
        parts = partition.iid(size.train, CLIENTS, 0)
    else:
        parts = partition.dirichlet(images.y, CLIENTS, alpha, 0)
    aggregator, clip_norm = RULES[rule]
    learning = Federation.of(model, images, parts, RATE, aggregator=aggregator, clip_norm=clip_norm)
    clients, coordinator = learning.clients, learning.coordinator
    if attack == "label flip":
        for client in clients[-ATTACKERS:]:
            x, y = client.data
            client.data = x, CLASSES - 1 - y
    accuracies = []
    for _ in range(size.rounds):
        deltas = np.stack([flat(client.train(coordinator.weights).delta) for client in clients])
        honest, own = deltas[:-ATTACKERS], deltas[-ATTACKERS:]
        sent = [*honest, *ATTACKS[attack](honest, own)]
        updates = [
            Update(shaped(np.array(delta), model.weights), client.num_examples)
            for delta, client in zip(sent, clients, strict=True)
        ]
        coordinator.send(coordinator.aggregate(updates))
        accuracies.append(learning.accuracy())
    return accuracies


if __name__ == "__main__":
    sys.exit(main())
