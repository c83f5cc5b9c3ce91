"""Accuracy against bytes for each encoding of updates (``--uplink``).

``python -m experiments.compression --data FOLDER``: Fashion-MNIST at 100 clients, of whom ten take
part in a round (McMahan et al. 2017's 2NN, E = 1, B = 10), dealt out at random or two classes to a
client. Every update is encoded and decoded by the very code that the workers use. Bytes are those
of the updates themselves; the headers of their messages are some hundred bytes more.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from warren_shared.protocol.transfer import new_transfer
from warren_shared.tensors.compression import KNOWN, RAW, decode, encode, size_bytes
from warren_shared.tensors.layout import Weights
from warren_shared.tensors.update import Update

CLIENTS, COHORT, RATE = 100, 10, 0.1
TWO_NN: Final = (784, 200, 200, 10)
LAST: Final = 10  # versions of which the mean is the final accuracy


@dataclass(frozen=True)
class Size:
    """How much of it is done; ``targets``: the accuracy asked for, by partition."""

    train: int
    test: int
    rounds: int
    seeds: int
    targets: dict[str, float]


FULL: Final = Size(30_000, 4_000, 80, 3, {"even": 0.85, "two classes": 0.75})
SHORT: Final = Size(2_000, 500, 4, 1, {"even": 0.2, "two classes": 0.1})


@dataclass(frozen=True)
class Course:
    """One run: its test accuracy after each round, and bytes that each round's clients sent."""

    accuracies: list[float]
    round_bytes: int

    def rounds_to(self, target: float) -> int | None:
        """The first round after which the accuracy is at least ``target``."""
        reached = [number for number, found in enumerate(self.accuracies, 1) if found >= target]
        return reached[0] if reached else None

    @property
    def final(self) -> float:
        """Mean of the last versions' accuracy."""
        return float(np.mean(self.accuracies[-LAST:]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(data: Path, short: bool) -> Findings:
    """Every encoding under both partitions."""
    size = SHORT if short else FULL
    images = fashion_mnist(data, size.train, size.test)
    tables, panels, reached = [], [], {}
    for kind, target in size.targets.items():
        courses: dict[str, list[Course]] = {}
        jobs = [(encoding, seed) for encoding in KNOWN for seed in range(size.seeds)]
        for encoding, seed in through(jobs, kind, len(jobs)):
            parts = dealt(kind, images, seed)
            courses.setdefault(encoding, []).append(
                train(images, parts, encoding, size.rounds, seed)
            )
        rows = [row(encoding, courses, target) for encoding in KNOWN]
        tables.append(Table(f"{kind}: to {target:.0%}", COLUMNS, rows))
        rounds = list(range(1, size.rounds + 1))
        panels.append(
            Panel(
                kind, "bytes up (MB)", "test accuracy",
                {e: ([n * c[0].round_bytes / 1e6 for n in rounds], c[0].accuracies)
                 for e, c in courses.items()},
                target, x_logarithmic=True,
            )
        )  # fmt: skip
        one_bit = next(row for row in rows if row[0] == "1bit")
        reached[f"{kind}: 1bit ≥ 28 × fewer bytes at ≤ 1.1 × the rounds"] = (
            f"{_said(one_bit[4])} × fewer bytes at {_said(one_bit[2])} × the rounds"
        )
    return Findings(
        "compression", "Accuracy against bytes: the encodings of updates",
        {
            "data": f"Fashion-MNIST, {size.train} training and {size.test} test images",
            "model": "2NN " + "-".join(map(str, TWO_NN)), "clients": CLIENTS, "cohort": COHORT,
            "E": 1, "B": 10, "learning rate": RATE, "rounds": size.rounds, "seeds": size.seeds,
        },
        tables, panels, reached,
    )  # fmt: skip


COLUMNS: Final = (
    "encoding", "rounds (median)", "× raw's rounds", "MB up", "× fewer", "final accuracy", "seeds",
)  # fmt: skip


def row(encoding: str, courses: dict[str, list[Course]], target: float) -> list[str | float | None]:
    """What one encoding came to, beside raw updates."""
    needed = _median([course.rounds_to(target) for course in courses[encoding]])
    plain = _median([course.rounds_to(target) for course in courses[RAW]])
    finals = [course.final for course in courses[encoding]]
    spread = f"{min(finals):.4f} to {max(finals):.4f}"
    if needed is None:
        return [encoding, None, None, None, None, float(np.mean(finals)), spread]
    sent = needed * courses[encoding][0].round_bytes / 1e6
    fewer = None if plain is None else plain * courses[RAW][0].round_bytes / 1e6 / sent
    more = None if plain is None else needed / plain
    return [encoding, needed, more, sent, fewer, float(np.mean(finals)), spread]


def dealt(kind: str, images: Images, seed: int) -> Sequence[np.ndarray]:
    """Which images each client has."""
    if kind == "even":
        return partition.iid(len(images.y), CLIENTS, seed)
    return partition.shards(images.y, CLIENTS, 2, seed)


def train(
    images: Images, parts: Sequence[np.ndarray], encoding: str, rounds: int, seed: int
) -> Course:
    """Train for ``rounds``, every update as the coordinator would decode it."""
    federation = Federation.of(mlp(TWO_NN, epochs=1, batch_size=10), images, parts, RATE)
    clients, coordinator = federation.clients, federation.coordinator
    rng = np.random.default_rng(seed)
    accuracies = []
    for _ in range(rounds):
        cohort = rng.choice(len(clients), COHORT, replace=False)
        updates = [sent(clients[who].train(coordinator.weights), encoding) for who in cohort]
        coordinator.send(coordinator.aggregate(updates))
        accuracies.append(federation.accuracy())
    layout = Weights.of(coordinator.weights).layout
    return Course(accuracies, COHORT * size_bytes(layout, encoding))


def sent(update: Update, encoding: str) -> Update:
    """``update`` as it is after its way over the wire."""
    if encoding == RAW:
        return update
    delta, transfer = Weights.of(update.delta), new_transfer()
    return replace(
        update, delta=decode(delta.layout, encoding, transfer, encode(delta, encoding, transfer))
    )


def _median(found: Sequence[int | None]) -> float | None:
    return None if None in found else float(np.median([n for n in found if n is not None]))


def _said(value: str | float | None) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "not reached"


if __name__ == "__main__":
    sys.exit(main())
