"""Linear models trained where the data is, against the optimum of all data in one place.

``python -m experiments.pooled --data FOLDER``: a linear SVM on whether a bank's client defaults and
a linear regression on the credit that the client was given (credit default, split by education),
and a linear SVM on heart disease (four hospitals). The pooled optimum is scikit-learn's. Inputs are
standardised by sums that every site sends once; no row leaves its site.

Distance is |w - w*| / |w*|, w with its intercept. *FedSGD, momentum*: one full gradient a round and
momentum at the coordinator, which has no bias. *FedAvg*: ten local steps, cheaper in rounds, whose
fixed point is not the optimum when sites differ. *SCAFFOLD*: ten local steps without that bias.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from client_worker.client import FederatedClient
from client_worker.models import linear_regression, linear_svm
from client_worker.models.numpy_model import NumpyModel
from coordinator_worker.aggregation.coordinator import FederatedCoordinator
from experiments.command import run
from experiments.data import credit_default, heart_disease
from experiments.federation import WithControls
from experiments.pictures import Panel
from experiments.report import Findings, Table
from experiments.vectors import flat
from warren_shared.observability.progress import through
from warren_shared.protocol.messages import LocalTraining

Array = np.ndarray[Any, Any]
Site = tuple[Array, Array]
REGULARISATION: Final = 1e-3
WANTED, EVERY, STEPS = 1e-3, 10, 10


@dataclass(frozen=True)
class Problem:
    """Sites with standardised inputs, and the model that is to be trained on them.

    ``curvature``: the largest that a site's loss can have; local steps of 1 / curvature are safe.
    """

    name: str
    sites: Sequence[Site]
    model: Callable[[], NumpyModel]
    curvature: float
    classifies: bool

    @property
    def pooled(self) -> Site:
        """All sites' rows."""
        xs, ys = zip(*self.sites, strict=True)
        return np.concatenate(xs), np.concatenate(ys)

    def optimum(self) -> Array:
        """Of the pooled data, from scikit-learn: weights, then the intercept, which is not shrunk.

        LinearSVC shrinks it, but of one that is scaled by 100 next to nothing.
        """
        from sklearn.linear_model import Ridge
        from sklearn.svm import LinearSVC

        x, y = self.pooled
        if self.classifies:
            found = LinearSVC(
                loss="squared_hinge", dual=False, C=1 / (REGULARISATION * len(y)),
                intercept_scaling=100, tol=1e-9, max_iter=10_000,
            ).fit(x, y)  # fmt: skip
        else:
            found = Ridge(alpha=REGULARISATION * len(y) / 2).fit(x, y)
        return np.append(np.ravel(found.coef_), found.intercept_)

    def score(self, w: Array) -> float:
        """Accuracy, or the share of the variance explained (R squared), on the pooled data."""
        x, y = self.pooled
        told = x @ w[:-1] + w[-1]
        if self.classifies:
            return float(np.mean((told > 0) == (y > 0)))
        return float(1 - np.sum((y - told) ** 2) / np.sum((y - y.mean()) ** 2))


METHODS: Final[Mapping[str, tuple[str, LocalTraining]]] = {
    "FedSGD, momentum": ("momentum:learning_rate=1,beta=0.95", LocalTraining(steps=1)),
    f"FedAvg, {STEPS} steps": ("sgd", LocalTraining(steps=STEPS)),
    f"SCAFFOLD, {STEPS} steps": ("sgd", LocalTraining(steps=STEPS, scaffold=True)),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(data: Path, short: bool) -> Findings:
    """Every problem with every method."""
    rounds = 60 if short else 2500
    rows: list[list[str | float | None]] = []
    panels = []
    reached: dict[str, str] = {}
    for problem in problems(data):
        best = problem.optimum()
        lines = {}
        for name, (optimizer, local) in through(METHODS.items(), problem.name, len(METHODS)):
            x, distances, weights = train(problem, optimizer, local, rounds, best)
            lines[name] = (x, distances)
            within = next((at for at, d in zip(x, distances, strict=True) if d <= WANTED), None)
            rows.append([f"{problem.name}, {name}", distances[-1], within,
                         problem.score(weights), problem.score(best)])  # fmt: skip
        near = [name for name, (_, found) in lines.items() if found[-1] <= WANTED]
        reached[f"{problem.name}: within {WANTED:g} of the pooled optimum"] = (
            "; ".join(near) or "none"
        )
        panels.append(Panel(problem.name, "round", "distance to the pooled optimum", lines, WANTED,
                            y_logarithmic=True))  # fmt: skip
    columns = ["data and model, method", "distance at the end", f"rounds to {WANTED:g}", "score",
               "pooled optimum's score"]  # fmt: skip
    return Findings(
        "pooled", "Linear models against the pooled optimum",
        {
            "regularisation": REGULARISATION, "rounds": rounds, "weights": "float64",
            "local learning rate": "1 / the largest curvature of a site (SCAFFOLD: a fifth)",
            "score": "accuracy of the SVMs, R² of the regression, on the training data",
        },
        [Table("After all rounds", columns, rows)], panels, reached,
    )  # fmt: skip


def problems(data: Path) -> list[Problem]:
    """Credit default by education, twice, and heart disease by hospital."""
    features, defaulted, education = credit_default(data)
    kept = np.flatnonzero(np.isin(education, (1, 2, 3)))  # the others are unnamed, and 468 people
    groups = [kept[education[kept] == level] for level in (1, 2, 3)]
    signs = [2 * defaulted[group] - 1 for group in groups]
    credit = standardised([features[group] for group in groups])
    wealth = [features[group, 0] / 1e5 for group in groups]  # 100,000 dollars of Taiwan
    rest = standardised([np.delete(features[group], 0, axis=1) for group in groups])
    hospitals = heart_disease(data)
    patients = standardised([x for x, _ in hospitals])
    ill = [2 * y - 1 for _, y in hospitals]
    return [
        _problem("default, SVM", credit, signs, classifies=True),
        _problem("credit given, regression", rest, wealth, classifies=False),
        _problem("heart disease, SVM", patients, ill, classifies=True),
    ]


def standardised(tables: Sequence[Array]) -> list[Array]:
    """Mean 0 and deviation 1 over all sites, from each site's sums alone."""
    count = sum(len(x) for x in tables)
    mean = sum(x.sum(axis=0) for x in tables) / count
    deviation = np.sqrt(sum(((x - mean) ** 2).sum(axis=0) for x in tables) / count)
    return [(x - mean) / deviation for x in tables]


def _problem(name: str, x: Sequence[Array], y: Sequence[Array], *, classifies: bool) -> Problem:
    shape = partial(linear_svm, squared=True) if classifies else linear_regression
    model = partial(shape, x[0].shape[1], l2=REGULARISATION, batch_size=None)
    inputs = [np.column_stack([each, np.ones(len(each))]) for each in x]
    largest = max(float(np.linalg.eigvalsh(each.T @ each / len(each))[-1]) for each in inputs)
    return Problem(
        name, list(zip(x, y, strict=True)), model, 2 * largest + REGULARISATION, classifies
    )


def train(
    problem: Problem, optimizer: str, local: LocalTraining, rounds: int, best: Array
) -> tuple[list[float], list[float], Array]:
    """Rounds, distances to ``best`` after them, and the weights at the end."""
    model = problem.model()
    rate = (0.2 if local.scaffold else 1.0) / problem.curvature
    clients = [FederatedClient(model, site, rate) for site in problem.sites]
    shown = WithControls(model) if local.scaffold else model
    coordinator = FederatedCoordinator([shown], server_optimizer=optimizer)
    coordinator.population = len(clients)
    numbers, distances = [], []
    for number in range(1, rounds + 1):
        updates = [client.train(coordinator.weights, local) for client in clients]
        coordinator.send(coordinator.aggregate(updates))
        if number % EVERY == 0:
            apart = np.linalg.norm(flat(coordinator.weights[:2]) - best)
            numbers.append(float(number))
            distances.append(float(apart / np.linalg.norm(best)))
    return numbers, distances, flat(coordinator.weights[:2])


if __name__ == "__main__":
    sys.exit(main())
