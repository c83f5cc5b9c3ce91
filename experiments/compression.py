"""Accuracy against bytes for the encodings of updates (``--uplink``) and models (``--downlink``).

``python -m experiments.compression --data FOLDER``: Fashion-MNIST at 100 clients, of whom ten take
part in a round (McMahan et al. 2017's 2NN, E = 1, B = 10), dealt out at random or two classes to a
client. Every update and model is encoded and decoded by the very code that the workers use. Bytes
are those of the ten clients' updates and of the model that each of them trains from; the headers
of their messages are some hundred bytes more.
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
# What updates are in, and models.
WAYS: Final = (
    *((uplink, RAW) for uplink in KNOWN),
    *(("int8", "int8"), ("2bit", "2bit"), ("1bit", "1bit"), ("0.25bit", "1bit")),
)
LAST: Final = 10  # versions of which the mean is the final accuracy


Way = tuple[str, str]


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
    """One run: its test accuracy after each round, and bytes of each, to and from its clients."""

    accuracies: list[float]
    bytes_up: int
    bytes_down: int

    @property
    def round_bytes(self) -> int:
        """Both ways."""
        return self.bytes_up + self.bytes_down

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
        courses: dict[Way, list[Course]] = {}
        jobs = [(way, seed) for way in WAYS for seed in range(size.seeds)]
        for way, seed in through(jobs, kind, len(jobs)):
            parts = dealt(kind, images, seed)
            courses.setdefault(way, []).append(train(images, parts, way, size.rounds, seed))
        rows = [row(way, courses, target) for way in WAYS]
        tables.append(Table(f"{kind}: to {target:.0%}", COLUMNS, rows))
        rounds = list(range(1, size.rounds + 1))
        panels.append(
            Panel(
                kind, "bytes up and down (MB)", "test accuracy",
                {f"{up} up, {down} down": (
                    [n * c[0].round_bytes / 1e6 for n in rounds], c[0].accuracies
                 ) for (up, down), c in courses.items()},
                target, x_logarithmic=True,
            )
        )  # fmt: skip
        one_bit, both = (row(way, courses, target) for way in (("1bit", RAW), ("1bit", "1bit")))
        reached[f"{kind}: 1bit up ≥ 28 × fewer bytes up at ≤ 1.1 × the rounds"] = (
            f"{_said(one_bit[6])} × fewer bytes at {_said(one_bit[3])} × the rounds"
        )
        most = 1.15 if kind == "even" else 1.2
        reached[f"{kind}: 1bit both ways ≥ 25 × fewer bytes at ≤ {most} × the rounds"] = (
            f"{_said(both[7])} × fewer bytes at {_said(both[3])} × the rounds"
        )
    return Findings(
        "compression", "Accuracy against bytes: the encodings of updates and models",
        {
            "data": f"Fashion-MNIST, {size.train} training and {size.test} test images",
            "model": "2NN " + "-".join(map(str, TWO_NN)), "clients": CLIENTS, "cohort": COHORT,
            "E": 1, "B": 10, "learning rate": RATE, "rounds": size.rounds, "seeds": size.seeds,
        },
        tables, panels, reached,
    )  # fmt: skip


COLUMNS: Final = (
    "up", "down", "rounds (median)", "× raw's rounds", "MB up", "MB down", "× fewer up",
    "× fewer both ways", "final accuracy", "seeds",
)  # fmt: skip


def row(way: Way, courses: dict[Way, list[Course]], target: float) -> list[str | float | None]:
    """What one way came to, beside raw updates and models."""
    needed = _median([course.rounds_to(target) for course in courses[way]])
    plain = _median([course.rounds_to(target) for course in courses[RAW, RAW]])
    finals = [course.final for course in courses[way]]
    last: list[str | float | None] = [
        float(np.mean(finals)), f"{min(finals):.4f} to {max(finals):.4f}",
    ]  # fmt: skip
    if needed is None or plain is None:
        return [*way, needed, None, None, None, None, None, *last]
    one, raw, more = courses[way][0], courses[RAW, RAW][0], needed / plain
    sent = [needed * size / 1e6 for size in (one.bytes_up, one.bytes_down)]
    fewer = [raw.bytes_up / one.bytes_up / more, raw.round_bytes / one.round_bytes / more]
    return [*way, needed, more, *sent, *fewer, *last]


def dealt(kind: str, images: Images, seed: int) -> Sequence[np.ndarray]:
    """Which images each client has."""
    if kind == "even":
        return partition.iid(len(images.y), CLIENTS, seed)
    return partition.shards(images.y, CLIENTS, 2, seed)


def train(images: Images, parts: Sequence[np.ndarray], way: Way, rounds: int, seed: int) -> Course:
    """Train for ``rounds``, every update and model as its receiver would decode it."""
    uplink, downlink = way
    model = mlp(TWO_NN, epochs=1, batch_size=10)
    federation = Federation.of(model, images, parts, RATE, downlink=downlink)
    clients, coordinator = federation.clients, federation.coordinator
    rng = np.random.default_rng(seed)
    accuracies = []
    for _ in range(rounds):
        cohort = rng.choice(len(clients), COHORT, replace=False)
        updates = [sent(clients[who].train(coordinator.weights), uplink) for who in cohort]
        moved, _ = coordinator.compressed(coordinator.aggregate(updates))
        coordinator.send(moved)
        accuracies.append(federation.accuracy())
    up, down = (COHORT * size_bytes(coordinator.weights.layout, encoding) for encoding in way)
    return Course(accuracies, up, down)


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
