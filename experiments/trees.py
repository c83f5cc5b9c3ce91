"""Boosted trees of random structure at four banks, beside gradient boosting of the pooled data.

``python -m experiments.trees --data FOLDER``: who will miss the next payment (Yeh and Lien 2009),
at banks whose customers differ in their education: 10,585, 14,030, 4,917 and 468. A third of each
bank is held out; the AUC is that on all held-out customers together. Pooled: scikit-learn's
histogram gradient boosting on all banks' training customers, the best of nine settings *on the
customers that it is measured on*, which flatters it. Federated: `random_trees` with settings that
were chosen on a split of their own, in rounds that wait for all, and asynchronously: two updates
make a version, and a bank's trips take as long as they are drawn to (lognormal, sigma 1.5; the
largest bank is four times as slow on top).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

import numpy as np

from client_worker.client import FederatedClient
from client_worker.models import RandomTrees, random_trees
from coordinator_worker.aggregation.coordinator import FederatedCoordinator
from experiments.command import run
from experiments.data import credit_default
from experiments.flight import DELAYS, Flight
from experiments.pictures import Panel
from experiments.report import Findings, Table
from warren_shared.tensors.evaluation import Evaluation, of_scores

Array = np.ndarray[Any, Any]
Site = tuple[Array, Array]
HELD_OUT: Final = 1 / 3
QUANTILES: Final = 33
SLOW: Final = 4.0
BUFFER: Final = 2
LATE: Final = "lognormal(σ=1.5)"


@dataclass(frozen=True)
class Setting:
    """Of the trees."""

    trees: int = 200
    depth: int = 8
    rate: float = 0.3
    l2: float = 3e-3


SETTINGS: Final = [Setting(200, d, r, 3e-3) for d, r in product((6, 8, 10), (0.1, 0.3))]
POOLED: Final = list(product((0.03, 0.05, 0.1), (7, 15, 31)))
SHORT: Final = [Setting(12, 4, 0.3, 3e-3)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(data: Path, short: bool) -> Findings:
    """Every row over the seeds."""
    seeds = (1,) if short else (1, 2, 3, 4, 5)
    tuned = Banks.of(data, 100)
    settings = SHORT if short else SETTINGS
    best = settings[int(np.argmax([rounds(tuned, each, 100)[-1] for each in settings]))]
    found: dict[str, list[float]] = {}
    curves: dict[str, list[list[float]]] = {}
    for seed in seeds:
        banks = Banks.of(data, seed)
        ways = {
            "trees of random structure, rounds": rounds(banks, best, seed),
            "… asynchronous, mean": late(banks, best, seed, "mean"),
            "… asynchronous, fedbuff": late(banks, best, seed, "fedbuff"),
            "… of the largest bank alone": rounds(
                banks, best, seed, only=int(np.argmax([len(y) for _, y in banks.train]))
            ),
        }
        for name, curve in ways.items():
            found.setdefault(name, []).append(curve[-1])
            curves.setdefault(name, []).append(curve)
        found.setdefault("gradient boosting, pooled", []).append(pooled(banks, seed, short))
    names = ["gradient boosting, pooled", *curves]
    reference = fmean(found[names[0]])
    rows: list[list[str | float | None]] = [
        [name, f"{fmean(found[name]):.4f}", f"{_spread(found[name]):.4f}",
         f"{fmean(found[name]) - reference:+.4f}"]
        for name in names
    ]  # fmt: skip
    told = {name: fmean(found[name]) - reference for name in names[1:3]}
    return Findings(
        "trees", "Boosted trees at four banks",
        {
            "customers": "30,000, a third held out", "seeds": len(seeds),
            "trees": f"{best.trees} of depth {best.depth}, rate {best.rate}, lambda {best.l2}"
                     f" per example; one a round, thresholds between {QUANTILES} quantiles",
            "asynchronous": f"a buffer of {BUFFER}, {LATE}, the largest bank {SLOW:g} times as"
            " slow",
        },
        [Table("AUC on all held-out customers", ["method", "AUC", "± of a split", "to pooled"],
               rows)],
        [Panel("Held-out customers", "version", "AUC", {
            name: (list(range(1, len(each[0]) + 1)), np.mean(each, axis=0).tolist())
            for name, each in curves.items()
        })],
        {f"{name}, wanted within .02 of pooled": f"{apart:+.4f}" for name, apart in told.items()},
    )  # fmt: skip


def _spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Banks:
    """Training customers of each bank, all held-out ones, and quantiles of the training ones."""

    train: Sequence[Site]
    test: Site
    quantiles: Array

    @classmethod
    def of(cls, data: Path, seed: int) -> "Banks":
        """A split of each bank by itself."""
        x, y, education = credit_default(data)
        banks = [np.flatnonzero(education == kind) for kind in (1, 2, 3)]
        banks.append(np.flatnonzero(~np.isin(education, (1, 2, 3))))
        draw = np.random.default_rng(seed)
        parts = [draw.permutation(bank) for bank in banks if len(bank)]
        out = np.concatenate([part[: round(HELD_OUT * len(part))] for part in parts])
        kept = [part[round(HELD_OUT * len(part)) :] for part in parts]
        # As feature statistics give them: of all banks together.
        grid = np.quantile(x[np.concatenate(kept)], np.linspace(0, 1, QUANTILES), axis=0).T
        return cls([(x[part], y[part]) for part in kept], (x[out], y[out]), grid)


def trees(banks: Banks, setting: Setting, seed: int) -> RandomTrees:
    """A model of them."""
    return random_trees(
        banks.quantiles, seed=seed, trees=setting.trees, depth=setting.depth, rate=setting.rate,
        l2=setting.l2,
    )  # fmt: skip


def _auc(judge: RandomTrees, weights: Sequence[Array], test: Site) -> float:
    judge.set_weights(weights)
    found = judge.evaluate(test)
    return found.metrics()["auc"] if isinstance(found, Evaluation) else 0.0


def rounds(banks: Banks, setting: Setting, seed: int, *, only: int | None = None) -> list[float]:
    """AUC after each round that waits for all."""
    sites = banks.train if only is None else [banks.train[only]]
    clients = [FederatedClient(trees(banks, setting, seed), site, 1.0) for site in sites]
    coordinator = FederatedCoordinator([clients[0].model])
    judge, curve = trees(banks, setting, seed), []
    for _ in range(setting.trees + 1):
        updates = [client.train(coordinator.weights) for client in clients]
        coordinator.send(coordinator.aggregate(updates))
        curve.append(_auc(judge, coordinator.weights, banks.test))
    return curve


def late(banks: Banks, setting: Setting, seed: int, aggregator: str) -> list[float]:
    """AUC after each version of a buffer; half as many again as there are rounds."""
    clients = [FederatedClient(trees(banks, setting, seed), site, 1.0) for site in banks.train]
    coordinator = FederatedCoordinator([clients[0].model], aggregator=aggregator)
    slowest = int(np.argmax([len(y) for _, y in banks.train]))
    draw, flight = np.random.default_rng(seed), Flight()
    judge, curve = trees(banks, setting, seed), list[float]()

    def start(client: int) -> None:
        delay = float(DELAYS[LATE](draw, (1,))[0]) * (SLOW if client == slowest else 1.0)
        flight.start(client, delay, len(curve), clients[client].train(coordinator.weights))

    for client in range(len(clients)):
        start(client)
    buffer = []
    while len(curve) < (setting.trees + 1) * 3 // 2:
        buffer.append(flight.land())
        if len(buffer) < BUFFER:
            continue  # a client that has answered a version waits for the next one
        updates = [trip.update for trip in buffer if trip.update is not None]
        coordinator.send(coordinator.aggregate(updates))
        curve.append(_auc(judge, coordinator.weights, banks.test))
        for trip in buffer:
            start(trip.client)
        buffer = []
    return curve


def pooled(banks: Banks, seed: int, short: bool) -> float:
    """The best AUC of scikit-learn's gradient boosting on all banks' customers."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    x, y = (np.concatenate([site[part] for site in banks.train]) for part in (0, 1))
    found = []
    for rate, leaves in POOLED[:1] if short else POOLED:
        boosting = HistGradientBoostingClassifier(
            learning_rate=rate, max_leaf_nodes=leaves, max_iter=12 if short else round(8 / rate),
            early_stopping=False, random_state=seed,
        )  # fmt: skip
        boosting.fit(x, y)
        scores = boosting.predict_proba(banks.test[0])[:, 1]
        found.append(of_scores(banks.test[1], scores).metrics()["auc"])
    return max(found)


if __name__ == "__main__":
    sys.exit(main())
