"""Boosted trees at four banks, of random structure and XGBoost's, beside those of the pooled data.

``python -m experiments.trees --data FOLDER``: who will miss the next payment (Yeh and Lien 2009),
at banks whose customers differ in their education: 10,585, 14,030, 4,917 and 468. A third of each
bank is held out; the AUC is that on all held-out customers together. Pooled: scikit-learn's
histogram gradient boosting on all banks' training customers, the best of nine settings *on the
customers that it is measured on*, which flatters it; XGBoost likewise. Federated: `random_trees`
and `xgboost_bagging`, each with settings that were chosen on a split of their own, in rounds that
wait for all, and asynchronously: two updates make a version, and a bank's trips take as long as
they are drawn to (lognormal, sigma 1.5; the largest bank is four times as slow on top).
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
from client_worker.models import RandomTrees, XGBoostBagging, random_trees, xgboost_bagging
from coordinator_worker.aggregation.coordinator import FederatedCoordinator
from experiments.command import run
from experiments.data import credit_default
from experiments.flight import DELAYS, Flight
from experiments.pictures import Panel
from experiments.report import Findings, Table
from warren_shared.tensors.evaluation import Evaluation, of_scores
from warren_shared.tensors.update import Update

Array = np.ndarray[Any, Any]
Site = tuple[Array, Array]
HELD_OUT: Final = 1 / 3
QUANTILES: Final = 33
SLOW: Final = 4.0
BUFFER: Final = 2
LATE: Final = "lognormal(σ=1.5)"
POOLED_NAME: Final = "gradient boosting, pooled"
RANDOM: Final = "trees of random structure, rounds"
XGBOOST: Final = "XGBoost bagging, rounds"


@dataclass(frozen=True)
class Setting:
    """Of the trees of random structure."""

    trees: int = 200
    depth: int = 8
    rate: float = 0.3
    l2: float = 3e-3

    learning_rate = 1.0

    @property
    def rounds(self) -> int:
        """Of a run; the first is the constant's."""
        return self.trees + 1

    def model(self, banks: "Banks", seed: int, place: int, rounds: int) -> RandomTrees:  # noqa: ARG002
        """A model of them."""
        return random_trees(
            banks.quantiles, seed=seed, trees=self.trees, depth=self.depth, rate=self.rate,
            l2=self.l2,
        )  # fmt: skip


@dataclass(frozen=True)
class Bagging:
    """Of XGBoost at each bank."""

    rounds: int
    depth: int
    learning_rate: float

    def model(self, banks: "Banks", seed: int, place: int, rounds: int) -> XGBoostBagging:  # noqa: ARG002
        """A model of it."""
        return xgboost_bagging(
            banks.test[0].shape[1], place=place, places=len(banks.train), rounds=rounds,
            depth=self.depth, params=ONE_THREAD,
        )  # fmt: skip


ONE_THREAD: Final = {"nthread": 1}
SETTINGS: Final = [Setting(200, d, r, 3e-3) for d, r in product((6, 8, 10), (0.1, 0.3))]
BAGGING: Final = [Bagging(100, d, r) for d, r in product((3, 4, 6), (0.05, 0.1, 0.2))]
POOLED: Final = list(product((0.03, 0.05, 0.1), (7, 15, 31)))
POOLED_XGBOOST: Final = list(product((0.03, 0.05, 0.1), (3, 4, 6)))
SHORT: Final = [Setting(12, 4, 0.3, 3e-3)]
SHORT_BAGGING: Final = [Bagging(12, 3, 0.2)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(data: Path, short: bool) -> Findings:
    """Every row over the seeds."""
    seeds = (1,) if short else (1, 2, 3, 4, 5)
    tuned = Banks.of(data, 100)
    best = _best(tuned, SHORT if short else SETTINGS)
    bagging = _best(tuned, SHORT_BAGGING if short else BAGGING)
    found: dict[str, list[float]] = {}
    curves: dict[str, list[list[float]]] = {}
    for seed in seeds:
        banks = Banks.of(data, seed)
        largest = int(np.argmax([len(y) for _, y in banks.train]))
        ways = {
            RANDOM: rounds(banks, best, seed),
            "… asynchronous, mean": late(banks, best, seed, "mean"),
            "… asynchronous, fedbuff": late(banks, best, seed, "fedbuff"),
            "… of the largest bank alone": rounds(banks, best, seed, only=largest),
            XGBOOST: rounds(banks, bagging, seed),
            "XGBoost bagging, asynchronous, mean": late(banks, bagging, seed, "mean"),
            "XGBoost bagging, asynchronous, fedbuff": late(banks, bagging, seed, "fedbuff"),
            "XGBoost of the largest bank alone": rounds(banks, bagging, seed, only=largest),
        }
        for name, curve in ways.items():
            found.setdefault(name, []).append(curve[-1])
            curves.setdefault(name, []).append(curve)
        found.setdefault(POOLED_NAME, []).append(pooled(banks, seed, short))
        found.setdefault("XGBoost, pooled", []).append(pooled_xgboost(banks, seed, short))
    names = [POOLED_NAME, "XGBoost, pooled", *curves]
    reference = fmean(found[names[0]])
    rows: list[list[str | float | None]] = [
        [name, f"{fmean(found[name]):.4f}", f"{_spread(found[name]):.4f}",
         f"{fmean(found[name]) - reference:+.4f}"]
        for name in names
    ]  # fmt: skip
    random = list(curves)[:2]
    told = {
        f"{name}, wanted within .02 of pooled": fmean(found[name]) - reference for name in random
    }
    theirs = fmean(found["XGBoost, pooled"])
    told |= {
        f"{name}, wanted within .01 of XGBoost pooled": fmean(found[name]) - theirs
        for name in (XGBOOST, "XGBoost bagging, asynchronous, mean")
    }
    return Findings(
        "trees", "Boosted trees at four banks",
        {
            "customers": "30,000, a third held out", "seeds": len(seeds),
            "trees": f"{best.trees} of depth {best.depth}, rate {best.rate}, lambda {best.l2}"
                     f" per example; one a round, thresholds between {QUANTILES} quantiles",
            "XGBoost bagging": f"one tree of depth {bagging.depth} a round and bank,"
                               f" {bagging.rounds} rounds, rate {bagging.learning_rate}",
            "asynchronous": f"a buffer of {BUFFER}, {LATE}, the largest bank {SLOW:g} times as"
            " slow",
        },
        [Table("AUC on all held-out customers", ["method", "AUC", "± of a split", "to pooled"],
               rows)],
        [Panel("Held-out customers", "version", "AUC", {
            name: (list(range(1, len(each[0]) + 1)), np.mean(each, axis=0).tolist())
            for name, each in curves.items()
        })],
        {name: f"{apart:+.4f}" for name, apart in told.items()},
    )  # fmt: skip


Way = Setting | Bagging
Model = RandomTrees | XGBoostBagging


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


def _best(banks: Banks, settings: Sequence[Way]) -> Any:
    """The setting with the highest AUC after its last round."""
    return settings[int(np.argmax([rounds(banks, each, 100)[-1] for each in settings]))]


def _auc(judge: Model, weights: Sequence[Array], test: Site) -> float:
    judge.set_weights(weights)
    found = judge.evaluate(test)
    return found.metrics()["auc"] if isinstance(found, Evaluation) else 0.0


def _train(client: FederatedClient, version: int, weights: Sequence[Array]) -> Update:
    if isinstance(client.model, XGBoostBagging):
        client.model.on_model(version, dict(zip(client.model.weight_names(), weights, strict=True)))
    return client.train(weights)


def rounds(banks: Banks, setting: Way, seed: int, *, only: int | None = None) -> list[float]:
    """AUC after each round that waits for all."""
    sites = banks.train if only is None else [banks.train[only]]
    made = [setting.model(banks, seed, place, setting.rounds) for place in (*range(len(sites)), 0)]
    clients = [
        FederatedClient(model, site, setting.learning_rate)
        for model, site in zip(made[:-1], sites, strict=True)
    ]
    judge, curve = made[-1], list[float]()
    coordinator = FederatedCoordinator([clients[0].model])
    for version in range(setting.rounds):
        updates = [_train(client, version, coordinator.weights) for client in clients]
        coordinator.send(coordinator.aggregate(updates))
        curve.append(_auc(judge, coordinator.weights, banks.test))
    return curve


def late(banks: Banks, setting: Way, seed: int, aggregator: str) -> list[float]:
    """AUC after each version of a buffer; half as many again as there are rounds."""
    versions = setting.rounds * 3 // 2
    clients = [
        FederatedClient(setting.model(banks, seed, place, versions), site, setting.learning_rate)
        for place, site in enumerate(banks.train)
    ]
    coordinator = FederatedCoordinator([clients[0].model], aggregator=aggregator)
    slowest = int(np.argmax([len(y) for _, y in banks.train]))
    draw, flight = np.random.default_rng(seed), Flight()
    judge, curve = setting.model(banks, seed, 0, versions), list[float]()

    def start(client: int) -> None:
        delay = float(DELAYS[LATE](draw, (1,))[0]) * (SLOW if client == slowest else 1.0)
        update = _train(clients[client], len(curve), coordinator.weights)
        flight.start(client, delay, len(curve), update)

    for client in range(len(clients)):
        start(client)
    buffer = []
    while len(curve) < versions:
        buffer.append(flight.land())
        if len(buffer) < BUFFER:
            continue  # a client that has answered a version waits for the next one
        updates = [trip.update for trip in buffer if trip.update is not None]
        coordinator.send(coordinator.aggregate(updates))
        curve.append(_auc(judge, coordinator.weights, banks.test))
        for trip in buffer if len(curve) < versions else ():
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


def pooled_xgboost(banks: Banks, seed: int, short: bool) -> float:
    """The best AUC of XGBoost on all banks' customers."""
    import xgboost

    x, y = (np.concatenate([site[part] for site in banks.train]) for part in (0, 1))
    train, test = xgboost.DMatrix(x, label=y), xgboost.DMatrix(banks.test[0])
    found = []
    for rate, depth in POOLED_XGBOOST[:1] if short else POOLED_XGBOOST:
        told = {"objective": "binary:logistic", "learning_rate": rate, "max_depth": depth}
        trees = 12 if short else round(8 / rate)
        booster = xgboost.train(told | ONE_THREAD | {"seed": seed}, train, trees)
        scores = booster.predict(test)
        found.append(of_scores(banks.test[1], scores).metrics()["auc"])
    return max(found)


if __name__ == "__main__":
    sys.exit(main())
