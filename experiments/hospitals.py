"""Heart disease at four hospitals: FLamby's table beside ours.

``python -m experiments.hospitals --data FOLDER``: logistic regression on the patients of Cleveland,
Hungary, Switzerland and the VA (740 in all), with each server optimizer and each way of local
training. As in FLamby (Ogier du Terrail et al. 2022) a third of each hospital is held out, and the
figures are those on all hospitals' held-out patients together. Inputs are standardised by sums that
every hospital sends once. Rates are chosen on splits of their own, the figures are of others.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

import numpy as np

from client_worker.client import FederatedClient
from client_worker.models import softmax_regression
from coordinator_worker.aggregation.coordinator import FederatedCoordinator
from experiments.command import run
from experiments.data import heart_disease
from experiments.federation import WithControls
from experiments.pictures import Panel
from experiments.report import Findings, Table
from warren_shared.observability.progress import through
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.evaluation import of_scores

Array = np.ndarray[Any, Any]
Site = tuple[Array, Array]
ROUNDS, EPOCHS, BATCH = 20, 2, 16
HELD_OUT: Final = 1 / 3
USUAL: Final = LocalTraining(epochs=EPOCHS)
WANTED: Final = {"best federated": 0.785, "FedYogi": 0.77}
# Accuracy in FLamby's table for Fed-Heart-Disease; it has no split but its own.
FLAMBY: Final = {"all data pooled": 0.795, "FedAvg": 0.748, "FedAdam": 0.779, "FedYogi": 0.779}


@dataclass(frozen=True)
class Method:
    """A server optimizer by name, its rates, and how clients train."""

    optimizer: str = "sgd"
    server_rates: Sequence[float] = (1.0,)
    local: LocalTraining = USUAL
    pooled: bool = False


ADAPTIVE: Final = (0.03, 0.1, 0.3)
METHODS: Final[Mapping[str, Method]] = {
    "all data pooled": Method(pooled=True),
    "FedAvg": Method(),
    "FedAvgM": Method("momentum", (0.1, 0.3)),
    "FedAdagrad": Method("adagrad", ADAPTIVE),
    "FedAdam": Method("adam", ADAPTIVE),
    "FedYogi": Method("yogi", ADAPTIVE),
    "FedProx": Method(local=LocalTraining(epochs=EPOCHS, proximal=0.1)),
    "SCAFFOLD": Method(local=LocalTraining(epochs=EPOCHS, scaffold=True)),
}
CLIENT_RATES: Final = (0.01, 0.03, 0.1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(data: Path, short: bool) -> Findings:
    """Every method: rates chosen on some splits, figures on others."""
    tuning, seeds = (range(1), range(100, 102)) if short else (range(10), range(100, 140))
    hospitals = patients(data)
    rows: list[list[str | float | None]] = []
    means: dict[str, float] = {}
    lines = {}
    for name, method in through(METHODS.items(), "methods", len(METHODS)):
        rates = chosen(method, hospitals, tuning)
        found = [judge(method, rates, split(hospitals, seed), seed) for seed in seeds]
        accuracies = [figures["accuracy"] for figures, _ in found]
        means[name] = fmean(accuracies)
        told = f"{rates[0]:g}" if method.optimizer == "sgd" else f"{rates[0]:g}, {rates[1]:g}"
        rows.append([name, told, means[name], stdev(accuracies),
                     fmean(figures["auc"] for figures, _ in found), FLAMBY.get(name)])  # fmt: skip
        lines[name] = (list(range(1, ROUNDS + 1)), np.mean([c for _, c in found], axis=0).tolist())
    federated = {name: mean for name, mean in means.items() if name != "all data pooled"}
    best = max(federated, key=federated.__getitem__)
    columns = ["method", "rates: client, server", "accuracy", "± of a split", "AUC",
               "FLamby's accuracy"]  # fmt: skip
    return Findings(
        "hospitals", "Heart disease at four hospitals",
        {
            "model": "logistic regression, 16 inputs", "rounds": ROUNDS,
            "local": f"E={EPOCHS}, B={BATCH}", "splits": len(seeds),
            "rates tried": {"client": CLIENT_RATES, "server, adaptive": ADAPTIVE},
            "chosen on": f"{len(tuning)} other splits",
        },
        [Table("On all hospitals' held-out patients", columns, rows)],
        [Panel("Held-out patients", "round", "accuracy", lines)],
        {
            f"best federated, wanted {WANTED['best federated']}": f"{means[best]:.3f} ({best})",
            f"FedYogi, wanted {WANTED['FedYogi']}": f"{means['FedYogi']:.3f}",
        },
    )  # fmt: skip


def patients(data: Path) -> list[Site]:
    """Each hospital's patients, kinds of pain and ECG as columns of their own."""
    found = []
    for x, y in heart_disease(data):
        kinds = [x[:, column] == kind for column, last in ((2, 4), (6, 2)) for kind in range(last)]
        rest = np.delete(x, (2, 6), axis=1)
        found.append((np.column_stack([rest, *kinds]), y.astype(np.int64)))
    return found


def divided(hospitals: Sequence[Site], seed: int) -> tuple[list[Site], list[Site]]:
    """Training and held-out patients of each hospital; ill and healthy alike."""
    train: list[Site] = []
    held_out: list[Site] = []
    for number, (x, y) in enumerate(hospitals):
        rng = np.random.default_rng([seed, number])
        order = [rng.permutation(np.flatnonzero(y == label)) for label in (0, 1)]
        out = np.concatenate([each[: round(HELD_OUT * len(each))] for each in order])
        kept = np.setdiff1d(np.arange(len(y)), out)
        train.append((x[kept], y[kept]))
        held_out.append((x[out], y[out]))
    return train, held_out


def split(hospitals: Sequence[Site], seed: int) -> tuple[list[Site], Site]:
    """The hospitals' training patients, and all held-out ones, scaled."""
    train, held_out = divided(hospitals, seed)
    # One transformation for all of them, from the training patients' sums.
    mean = np.concatenate([x for x, _ in train]).mean(axis=0)
    deviation = np.concatenate([x for x, _ in train]).std(axis=0) + 1e-9
    scaled = [((x - mean) / deviation, y) for x, y in (*train, *held_out)]
    sites = [(x.astype(np.float32), y) for x, y in scaled]
    last = sites[len(train) :]
    return sites[: len(train)], (np.concatenate([x for x, _ in last]),
                                 np.concatenate([y for _, y in last]))  # fmt: skip


def chosen(method: Method, hospitals: Sequence[Site], seeds: Iterable[int]) -> tuple[float, float]:
    """The client's and the server's rate of the best mean accuracy."""
    splits = {seed: split(hospitals, seed) for seed in seeds}
    rates = list(product(CLIENT_RATES, method.server_rates))
    scores = [
        fmean(judge(method, pair, parts, seed)[0]["accuracy"] for seed, parts in splits.items())
        for pair in rates
    ]
    return rates[int(np.argmax(scores))]


def judge(
    method: Method, rates: tuple[float, float], parts: tuple[list[Site], Site], seed: int
) -> tuple[dict[str, float], list[float]]:
    """Figures of the last model, and the accuracy after each round."""
    train, held_out = parts
    if method.pooled:
        train = [(np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train]))]
    model = softmax_regression(train[0][0].shape[1], 2, batch_size=BATCH, seed=seed)
    clients = [FederatedClient(model, site, rates[0]) for site in train]
    shown = WithControls(model) if method.local.scaffold else model
    optimizer = f"{method.optimizer}:learning_rate={rates[1]}"
    coordinator = FederatedCoordinator([shown], server_optimizer=optimizer)
    coordinator.population = len(clients)
    curve = []
    figures: dict[str, float] = {}
    for _ in range(ROUNDS):
        updates = [client.train(coordinator.weights, method.local) for client in clients]
        coordinator.send(coordinator.aggregate(updates))
        weight, bias = coordinator.weights[:2]
        logits = held_out[0] @ weight + bias
        probability = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
        figures = of_scores(held_out[1], probability).metrics()
        curve.append(figures["accuracy"])
    return figures, curve


if __name__ == "__main__":
    sys.exit(main())
