"""Heart disease at four hospitals, none of which tells of a single patient.

``python -m experiments.hospitals_private --data FOLDER``: logistic regression as in
`experiments.hospitals`, with noise inside each hospital (``--record-privacy``), so that all that
leaves it is differentially private in each patient, against the coordinator too. Inputs are scaled
by ranges that anybody knows, since the patients' own means would tell of them.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

import numpy as np

from client_worker.client import FederatedClient
from client_worker.models import logistic_regression
from client_worker.privacy.budget import MemoryBudget
from client_worker.privacy.terms import RecordPrivacy
from coordinator_worker.aggregation.coordinator import FederatedCoordinator
from experiments.command import run
from experiments.data import heart_disease
from experiments.hospitals import divided
from experiments.pictures import Panel
from experiments.report import Findings, Table
from warren_shared.observability.progress import through
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.evaluation import of_scores

Array = np.ndarray[Any, Any]
Site = tuple[Array, Array]
SEEDS: Final = 20
CLIP: Final = 1.0
# Ranges that contain nearly all people: age, blood pressure at rest, cholesterol, heart rate at
# work, ST depression; the others are 0 or 1.
LOW: Final = np.array([20, 0, 80, 100, 0, 60, 0, 0, *[0] * 5], float)
HIGH: Final = np.array([90, 1, 200, 600, 1, 210, 1, 6, *[1] * 5], float)
PAIN, ECG = ((2, 3, 4), (1, 2))  # kinds that have a column; the first one has none


@dataclass(frozen=True)
class Setting:
    """What is promised, and how it is spent: rounds, steps of a round, learning rate."""

    epsilon: float | None
    delta: float
    rounds: int
    steps: int
    rate: float
    wanted: tuple[str, float] | None = None

    def __str__(self) -> str:
        if self.epsilon is None:
            return "not private"
        return f"epsilon {self.epsilon:g}, delta {self.delta:g}"


SETTINGS: Final = (
    Setting(None, 0.0, 15, 2, 1.5),
    Setting(4, 1e-3, 15, 2, 1.5),
    Setting(1, 1e-3, 15, 2, 1.5, ("pooled", 0.765)),
    Setting(1, 1e-5, 15, 2, 1.5, ("pooled", 0.76)),
    Setting(0.1, 1e-4, 5, 2, 3.0, ("mean", 0.59)),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(data: Path, short: bool) -> Findings:
    """Each promise, on splits and with noise of their own."""
    hospitals = patients(data)
    seeds = range(2 if short else SEEDS)
    rows: list[list[str | float | None]] = []
    reached: dict[str, str] = {}
    lines: dict[str, tuple[list[int], list[float]]] = {}
    for setting in through(SETTINGS, "promises", len(SETTINGS)):
        judged = [judge(setting, divided(hospitals, seed), seed) for seed in seeds]
        found = [curve[-1] for curve in judged]
        means = {name: fmean(one[name] for one in found) for name in found[0]}
        spread = stdev(one["pooled"] for one in found)
        steps = f"{setting.rounds} x {setting.steps}"
        rows.append([str(setting), steps, means["pooled"], spread, means["mean"], means["auc"]])
        rounds = list(range(1, setting.rounds + 1))
        lines[str(setting)] = (rounds, [fmean(one[n - 1]["pooled"] for one in judged)
                                        for n in rounds])  # fmt: skip
        if setting.wanted is not None:
            name, wanted = setting.wanted
            words = "all held-out patients" if name == "pooled" else "mean of the hospitals"
            reached[f"{setting}: accuracy, {words}, wanted {wanted}"] = f"{means[name]:.3f}"
    return Findings(
        "hospitals_private", "Heart disease at four hospitals, private in each patient",
        {
            "model": "logistic regression, 13 inputs scaled by public ranges", "clip": CLIP,
            "steps": "all patients of a hospital in each, no amplification by sampling",
            "splits and noises": len(seeds),
        },
        [Table("On held-out patients",
               ["promise", "rounds x steps", "accuracy, all patients", "± of a split and noise",
                "mean of the hospitals", "AUC, all patients"], rows)],
        [Panel("Held-out patients of all hospitals", "round", "accuracy", lines)], reached,
    )  # fmt: skip


def patients(data: Path) -> list[Site]:
    """Each hospital's patients, from -1 to 1 in each input by public ranges."""
    found = []
    for x, y in heart_disease(data):
        kinds = [x[:, 2] == kind for kind in PAIN] + [x[:, 6] == kind for kind in ECG]
        raw = np.column_stack([np.delete(x, (2, 6), axis=1), *kinds])
        found.append((np.clip((raw - LOW) / (HIGH - LOW), 0, 1) * 2 - 1, y.astype(np.int64)))
    return found


def judge(
    setting: Setting, parts: tuple[list[Site], list[Site]], seed: int
) -> list[dict[str, float]]:
    """Figures of each round's model on the held-out patients."""
    train, held_out = parts
    model = logistic_regression(train[0][0].shape[1], batch_size=None)
    draw = np.random.default_rng([seed, 99])
    clients = []
    for site in train:
        budget = None
        if setting.epsilon is not None:
            # How many patients there are is published with the data.
            terms = RecordPrivacy(
                epsilon=setting.epsilon, delta=setting.delta, steps=setting.rounds * setting.steps,
                examples=len(site[1]), clip=CLIP,
            )  # fmt: skip
            budget = MemoryBudget(terms, draw.bytes)
        clients.append(FederatedClient(model, site, setting.rate, record_privacy=budget))
    coordinator = FederatedCoordinator([model])
    local = LocalTraining(steps=setting.steps)
    curve = []
    for _ in range(setting.rounds):
        updates = [client.train(coordinator.weights, local) for client in clients]
        coordinator.send(coordinator.aggregate(updates))
        curve.append(_figures(coordinator.weights, held_out))
    return curve


def _figures(weights: Sequence[Array], held_out: Sequence[Site]) -> dict[str, float]:
    weight, bias = weights[:2]
    probabilities = [1 / (1 + np.exp(-(x @ weight + bias)[:, 0])) for x, _ in held_out]
    truths = [y for _, y in held_out]
    pooled = of_scores(np.concatenate(truths), np.concatenate(probabilities)).metrics()
    right = [float(((p > 0.5) == y).mean()) for p, y in zip(probabilities, truths, strict=True)]
    return {"pooled": pooled["accuracy"], "auc": pooled["auc"], "mean": fmean(right)}


if __name__ == "__main__":
    sys.exit(main())
