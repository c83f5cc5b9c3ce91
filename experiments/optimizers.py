"""Server optimizers, SCAFFOLD and FedProx against FedAvg, each where its paper says it helps.

``python -m experiments.optimizers --data FOLDER``: FedAvgM (Hsu et al. 2019), FedAdam and FedYogi
(Reddi et al. 2021) under Dirichlet(0.1) label skew; SCAFFOLD (Karimireddy et al. 2020) and FedProx
(Li et al. 2020) with one and with many local epochs on two classes a client; FedProx with 90 %
stragglers, whose part of the work it takes and FedAvg drops. Every method has a grid of its own;
rates are chosen on one seed, the figures are medians of others.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from client_worker import partition
from client_worker.models import mlp
from experiments.command import run
from experiments.data import Images, fashion_mnist
from experiments.federation import Federation
from experiments.pictures import Panel
from experiments.report import Findings, Table
from warren_shared.observability.progress import through
from warren_shared.protocol.messages import LocalTraining

Array = np.ndarray[Any, Any]
CLIENTS, LAST = 100, 10
MLP, SOFTMAX = (784, 64, 10), (784, 10)


@dataclass(frozen=True)
class Method:
    """A way to learn, and where.

    ``dropped``: stragglers' work is thrown away instead of taken as far as it got.
    """

    name: str
    optimizer: str = "sgd"
    rate: float = 0.05
    local: LocalTraining = LocalTraining()  # noqa: RUF009  # frozen
    dropped: bool = False


@dataclass(frozen=True)
class Setting:
    """Who trains how: ``stragglers`` of a cohort do only some of their epochs."""

    name: str
    layers: tuple[int, ...]
    split: str
    cohort: int
    rounds: int
    batch_size: int
    epochs: int = 1
    stragglers: float = 0.0


@dataclass(frozen=True)
class Size:
    """How much of it is done."""

    train: int
    test: int
    seeds: Sequence[int]
    shorten: int  # rounds and grids are divided by this


FULL: Final = Size(20_000, 2_000, (1, 2, 3), 1)
SHORT: Final = Size(2_000, 300, (1,), 25)
SKEWED: Final = Setting("Dirichlet(0.1)", MLP, "dirichlet", 10, 80, 10)
STRAGGLING: Final = Setting("90 % stragglers, E=10", SOFTMAX, "shards", 10, 40, 40, 10, 0.9)


def epochs(count: int) -> Setting:
    """Two classes a client, a fifth of the clients in each round, as in SCAFFOLD's experiments."""
    return Setting(f"two classes a client, E={count}", SOFTMAX, "shards", 20, 40, 40, count)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def grids() -> Mapping[Setting, Mapping[str, Sequence[Method]]]:
    """What is tried where: setting -> name of a method -> its rates."""
    rates = (0.05, 0.1, 0.2)
    adaptive = (0.001, 0.003, 0.01)
    server = {
        "FedAvg": [Method("FedAvg", rate=r) for r in rates],
        "FedAvgM": [
            Method("FedAvgM", f"momentum:learning_rate={s},beta=0.9", r)
            for r, s in product(rates, (0.03, 0.1, 0.3))
        ],
    }
    for name in ("adam", "yogi"):
        server[f"Fed{name.title()}"] = [
            Method(name, f"{name}:learning_rate={s},beta1=0.9,beta2=0.99,tau=0.001", r)
            for r, s in product(rates, adaptive)
        ]
    slow = (0.03, 0.1, 0.3)
    plain = [Method("FedAvg", rate=r) for r in slow]
    prox = [
        Method("FedProx", rate=r, local=LocalTraining(proximal=mu))
        for r, mu in product(slow, (0.1, 1.0))
    ]
    scaffold = [Method("SCAFFOLD", rate=r, local=LocalTraining(scaffold=True)) for r in slow]
    drift = {"FedAvg": plain, "FedProx": prox, "SCAFFOLD": scaffold}
    stragglers = {
        "FedAvg, drops stragglers": [Method("FedAvg", rate=r, dropped=True) for r in slow],
        "FedAvg, takes what they did (FedProx, μ=0)": plain,
        "FedProx": prox,
    }
    return {SKEWED: server, epochs(1): drift, epochs(10): drift, STRAGGLING: stragglers}


def experiment(data: Path, short: bool) -> Findings:
    """Every setting, with every method's best rates."""
    size = SHORT if short else FULL
    images = fashion_mnist(data, size.train, size.test)
    tables, panels = [], []
    reached: dict[str, str] = {}
    for setting, methods in grids().items():
        rows: list[list[str | float | None]] = []
        lines = {}
        for name, grid in through(methods.items(), setting.name, len(methods)):
            chosen, curves = best(images, size, setting, grid)
            ends = [end(curve) for curve in curves]
            rows.append([name, told(chosen), median(ends), min(ends), max(ends)])
            lines[name] = (list(range(1, len(curves[0]) + 1)), list(np.median(curves, axis=0)))
        columns = ["method", "chosen", "accuracy", "min", "max"]
        tables.append(Table(setting.name, columns, rows))
        panels.append(Panel(setting.name, "round", "test accuracy", lines))
        first = float(rows[0][2] or 0)
        reached[setting.name] = ", ".join(
            f"{row[0]} {100 * (float(row[2] or 0) - first):+.1f} points" for row in rows[1:]
        )
    return Findings(
        "optimizers", "Server optimizers, SCAFFOLD and FedProx against FedAvg",
        {
            "data": f"Fashion-MNIST, {size.train} training and {size.test} test images,"
            f" {CLIENTS} clients",
            "accuracy": f"mean of the last {LAST} rounds, median of seeds {list(size.seeds)}",
            "rates": "chosen on seed 0",
            "settings": "; ".join(
                f"{s.name}: {'-'.join(map(str, s.layers))}, cohort {s.cohort}, {s.rounds} rounds,"
                f" B={s.batch_size}, E={s.epochs}"
                for s in grids()
            ),
            "tried": "; ".join(
                f"{setting.name}, {name}: {tried(grid)}"
                for setting, methods in grids().items()
                for name, grid in methods.items()
            ),
        },
        tables, panels, reached,
    )  # fmt: skip


def told(method: Method) -> str:
    """The numbers that were chosen."""
    _, _, server = method.optimizer.partition("learning_rate=")
    parts = [f"rate {method.rate:g}"]
    parts += [f"server {server.partition(',')[0]}"] if server else []
    parts += [f"μ {method.local.proximal:g}"] if method.local.proximal else []
    return " ".join(parts)


def tried(grid: Sequence[Method]) -> str:
    """The values that ``grid`` is the product of."""
    found: dict[str, dict[str, None]] = {}
    for method in grid:
        words = told(method).split()
        for name, value in zip(words[::2], words[1::2], strict=True):
            found.setdefault(name, {})[value] = None
    return " × ".join(f"{name} {{{', '.join(values)}}}" for name, values in found.items())


def best(
    images: Images, size: Size, setting: Setting, grid: Sequence[Method]
) -> tuple[Method, list[list[float]]]:
    """The method of ``grid`` that ends best on seed 0, and its curves on the other seeds."""
    some = grid[: max(1, len(grid) // size.shorten)]
    chosen = max(some, key=lambda method: end(train(images, size, setting, method, 0)))
    return chosen, [train(images, size, setting, chosen, seed) for seed in size.seeds]


def end(curve: Sequence[float]) -> float:
    """Accuracy at the end: of the last rounds, of which any one alone is luck."""
    return float(np.mean(curve[-LAST:]))


def train(images: Images, size: Size, setting: Setting, method: Method, seed: int) -> list[float]:
    """Test accuracy after each round."""
    model = mlp(setting.layers, epochs=setting.epochs, batch_size=setting.batch_size, seed=seed)
    if setting.split == "dirichlet":
        parts = partition.dirichlet(images.y, CLIENTS, 0.1, seed)
    else:
        parts = partition.shards(images.y, CLIENTS, 2, seed)
    learning = Federation.of(
        model, images, parts, method.rate,
        scaffold=method.local.scaffold, server_optimizer=method.optimizer,
    )  # fmt: skip
    clients, coordinator = learning.clients, learning.coordinator
    rng, curve = np.random.default_rng(seed), []
    for _ in range(max(2, setting.rounds // size.shorten)):
        chosen = rng.choice(CLIENTS, setting.cohort, replace=False)
        slow = rng.random(setting.cohort) < setting.stragglers
        slow[0] = False  # or a round might have nobody
        parts_done = np.where(slow, rng.integers(1, setting.epochs + 1, len(slow)), setting.epochs)
        updates = [
            clients[who].train(
                coordinator.weights, method.local.model_copy(update={"epochs": int(done)})
            )
            for who, done, late in zip(chosen, parts_done, slow, strict=True)
            if not (late and method.dropped)
        ]
        coordinator.send(coordinator.aggregate(updates))
        curve.append(learning.accuracy())
    return curve


if __name__ == "__main__":
    sys.exit(main())
