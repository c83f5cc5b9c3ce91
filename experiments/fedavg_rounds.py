"""Rounds of FedAvg and of FedSGD to a target accuracy: McMahan et al. 2017, table 2's shape.

``python -m experiments.fedavg_rounds --data FOLDER``: Fashion-MNIST at 100 clients, of whom ten
take part in a round, dealt out at random (IID) or as two shards of one class each (pathological).
FedSGD is FedAvg with E = 1 and B = all. Of each cell's learning rates the best one counts, as in
the paper; rounds are those until the best accuracy so far reaches the target, interpolated.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from client_worker import partition
from client_worker.models import mlp
from experiments.command import run
from experiments.data import Images, fashion_mnist
from experiments.federation import Federation
from experiments.pictures import Panel
from experiments.report import Findings, Table
from warren_shared.observability.progress import through

CLIENTS, COHORT = 100, 10
TWO_NN: Final = (784, 200, 200, 10)
Curve = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Cell:
    """E, B (None: all of a client's data at once), and what is tried with them."""

    epochs: int
    batch_size: int | None
    rates: Sequence[float]
    rounds: int
    every: int = 1

    @property
    def name(self) -> str:
        """As the paper's table has it."""
        title = "FedSGD" if (self.epochs, self.batch_size) == (1, None) else "FedAvg"
        return f"{title} E={self.epochs} B={self.batch_size or '∞'}"


@dataclass(frozen=True)
class Size:
    """How much of it is done; ``targets``: the accuracy asked for, by partition."""

    train: int
    test: int
    cells: Sequence[Cell]
    targets: dict[str, float]


FULL: Final = Size(
    20_000, 4_000,
    (
        Cell(5, 10, (0.05, 0.1), 300),
        Cell(1, 10, (0.1, 0.05), 300),
        Cell(5, None, (0.3, 0.2), 400, 2),
        Cell(1, None, (0.3, 0.2, 0.5), 1500, 5),
    ),
    {"IID": 0.85, "pathological": 0.80},
)  # fmt: skip
SHORT: Final = Size(
    2_000, 500,
    (Cell(1, 10, (0.1,), 6), Cell(1, None, (0.3,), 30, 5)),
    {"IID": 0.5, "pathological": 0.3},
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(data: Path, short: bool) -> Findings:
    """Every cell under both partitions."""
    size = SHORT if short else FULL
    images = fashion_mnist(data, size.train, size.test)
    dealt = {
        "IID": partition.iid(size.train, CLIENTS, 0),
        "pathological": partition.shards(images.y, CLIENTS, 2, 0),
    }
    rows: list[list[str | float | None]] = [[cell.name, _steps(cell, size)] for cell in size.cells]
    panels = []
    for kind, parts in dealt.items():
        lines, found = {}, []
        for cell in through(size.cells, kind, len(size.cells)):
            rate, needed, lines[cell.name] = best(cell, images, parts, size.targets[kind])
            found.append((rate, needed))
        slowest = found[-1][1]  # FedSGD
        for row, (rate, needed) in zip(rows, found, strict=True):
            gain = None if needed is None or slowest is None else slowest / needed
            row += [rate, needed, gain]
        panels.append(Panel(kind, "round", "test accuracy", lines, size.targets[kind], True))
    columns = ["cell", "steps a round"]
    columns += [f"{kind}: {what}" for kind in dealt for what in ("rate", "rounds", "× FedSGD")]
    targets = " / ".join(f"{size.targets[kind]:.0%} ({kind})" for kind in dealt)
    gain = max((row[4] for row in rows if isinstance(row[4], float)), default=None)
    return Findings(
        "fedavg_rounds", "Rounds to a target accuracy: FedAvg and FedSGD",
        {
            "data": f"Fashion-MNIST, {size.train} training and {size.test} test images",
            "model": "2NN " + "-".join(map(str, TWO_NN)), "clients": CLIENTS, "cohort": COHORT,
            "targets": targets,
            "rates tried": {cell.name: list(cell.rates) for cell in size.cells},
        },
        [Table(f"Rounds to {targets}", columns, rows)], panels,
        {"≥ 10 × fewer rounds than FedSGD, IID": f"{gain or 0:.1f} ×"},
    )  # fmt: skip


def best(
    cell: Cell, images: Images, parts: Sequence[np.ndarray], target: float
) -> tuple[float, float | None, Curve]:
    """The best learning rate of ``cell``, its rounds to ``target`` (None: not reached), its curve.

    A rate is given up once it has taken more rounds than the best one before it.
    """
    chosen: tuple[float, float | None, Curve] | None = None
    for rate in cell.rates:
        limit = cell.rounds if chosen is None or chosen[1] is None else int(chosen[1]) + 1
        curve = train(cell, images, parts, rate, target, limit)
        needed = rounds_to(curve, target)
        better = chosen is None or (
            (needed is not None and (chosen[1] is None or needed < chosen[1]))
            or (needed is None and chosen[1] is None and max(curve[1]) > max(chosen[2][1]))
        )
        if better:
            chosen = rate, needed, curve
    if chosen is None:
        raise ValueError("a cell needs a learning rate")
    return chosen


def train(
    cell: Cell, images: Images, parts: Sequence[np.ndarray], rate: float, target: float, limit: int
) -> Curve:
    """Rounds and test accuracies until ``target`` is reached or ``limit`` rounds are over."""
    model = mlp(TWO_NN, epochs=cell.epochs, batch_size=cell.batch_size)
    federation = Federation.of(model, images, parts, rate)
    clients, coordinator = federation.clients, federation.coordinator
    rng = np.random.default_rng(1)
    rounds, accuracies = [0.0], [0.0]
    for number in range(1, limit + 1):
        cohort = rng.choice(len(clients), COHORT, replace=False)
        updates = [clients[who].train(coordinator.weights) for who in cohort]
        coordinator.send(coordinator.aggregate(updates))
        if number % cell.every == 0 or number == limit:
            rounds.append(float(number))
            accuracies.append(federation.accuracy())
            if accuracies[-1] >= target:
                break
    return rounds[1:], accuracies[1:]


def rounds_to(curve: Curve, target: float) -> float | None:
    """Rounds until the best accuracy so far is ``target``, interpolated; None if it never is."""
    so_far = np.maximum.accumulate(curve[1])
    if so_far[-1] < target:
        return None
    return float(np.interp(target, [0.0, *so_far], [0.0, *curve[0]]))


def _steps(cell: Cell, size: Size) -> float:
    """Local steps of a client in a round: u of the paper's table."""
    held = size.train // CLIENTS
    return float(cell.epochs * -(-held // (cell.batch_size or held)))


if __name__ == "__main__":
    sys.exit(main())
