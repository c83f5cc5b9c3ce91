"""What an attacker measures who knows everything but the noise, against what is claimed.

``python -m experiments.privacy_audit --data FOLDER`` (the data are not read): 1,000 clients whose
updates all go in one direction of their own are in a private run through the real coordinator, 80
rounds of 50 updates. The attacker knows all other updates, every released model and how the noise
is correlated. Its best statistic of a client is the projection on that client's direction; the two
Gaussians of those who took part and of others who did not are mu deviations apart (Steinke et al.
2023; Andrew et al. 2024). That has to come to the claim, and beyond it where there is a fault.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

import numpy as np
import numpy.typing as npt

from coordinator_worker import FederatedCoordinator, Update
from coordinator_worker.aggregation.private_cohort import RoundNoise
from experiments.command import run
from experiments.pictures import Panel
from experiments.report import Findings, Table
from warren_shared.config.client_privacy import ClientPrivacy, privacy
from warren_shared.observability.progress import through
from warren_shared.privacy.accountant import mu_of
from warren_shared.privacy.mechanism import Calibration
from warren_shared.tensors.layout import Array

CLIENTS, QUORUM, CONTRIBUTIONS, DISTANCE, DIMENSION = 1000, 50, 4, 20, 4000
ROUNDS: Final = CLIENTS // QUORUM * CONTRIBUTIONS
DELTA: Final = 1e-5
ERROR: Final = sqrt(2 / CLIENTS)  # standard error of a measured mu, near 0
STREAMS: Final = 20

Floats = npt.NDArray[np.float32]
Table64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fault:
    """``folds``: how often an update counts; ``weaker``: the share of the noise that is there;
    ``distance``: of two rounds of a client, in truth.
    """

    folds: int = 1
    weaker: float = 1.0
    distance: int = DISTANCE


NONE: Final = Fault()
FAULTS: Final[Mapping[str, Fault]] = {
    "none": NONE,
    "an update folded twice": Fault(folds=2),
    "half the noise": Fault(weaker=0.5),
    "back after 5 rounds instead of 20": Fault(distance=5),
}


class _Model:
    def __init__(self) -> None:
        self.weights: list[Array] = [np.zeros(DIMENSION, np.float32)]

    def get_weights(self) -> Sequence[Array]:
        return self.weights

    def set_weights(self, weights: Sequence[Array]) -> None:
        self.weights = [np.array(array) for array in weights]


def audited(epsilon: float, fault: Fault = NONE, stream: int = 0) -> tuple[float, float]:
    """Mu as it is measured through the coordinator, and as it is claimed."""
    promise, calibration = _promised(epsilon)
    column = calibration.correlation.column(ROUNDS)
    used = replace(calibration, mu=calibration.mu / fault.weaker)
    noise = RoundNoise(used, promise.clip, sha256(f"stream {stream}".encode()).digest())
    draw = np.random.default_rng(stream)
    inside, outside = (_directions(draw) for _ in range(2))
    there = np.zeros((ROUNDS, CLIENTS))
    for client in range(CLIENTS):
        for number in range(CONTRIBUTIONS):
            if (place := client % DISTANCE + number * fault.distance) < ROUNDS:
                there[place, client] = 1
    left = _released(noise, inside, there, fault.folds) - fault.folds * there @ inside
    white, pattern = (_toeplitz(column, rows) for rows in (left, there))
    lengths = np.linalg.norm(pattern, axis=0)
    without = (pattern * (white @ outside.T)).sum(axis=0) / lengths
    with_it = (pattern * (white @ inside.T)).sum(axis=0) / lengths + fault.folds * lengths
    spread = sqrt((with_it.var() + without.var()) / 2)
    return float((with_it.mean() - without.mean()) / spread), mu_of(epsilon, DELTA)


def _promised(epsilon: float) -> tuple[ClientPrivacy, Calibration]:
    promise = privacy(
        f"correlated:epsilon={epsilon},delta={DELTA},clip=1,contributions={CONTRIBUTIONS},"
        f"distance={DISTANCE}"
    )
    return promise, promise.calibration(ROUNDS, QUORUM, DIMENSION)


def without_roundings(epsilon: float) -> float:
    """The claim without what roundings could add to it in the worst case."""
    _, made = _promised(epsilon)
    exact = made.correlation.sensitivity(ROUNDS, CONTRIBUTIONS, DISTANCE)
    return exact * made.step / made.sigma


def _released(noise: RoundNoise, inside: Floats, there: Table64, folds: int) -> Table64:
    """What each round moved the model by, times the quorum."""
    coordinator = FederatedCoordinator([_Model()], noise=noise)
    nobody = Update([np.zeros(DIMENSION, np.float32)], 1)
    found, before = np.empty((ROUNDS, DIMENSION)), np.zeros(DIMENSION)
    for number in range(ROUNDS):
        updates = [Update([inside[who]], 1) for who in np.flatnonzero(there[number])] * folds
        coordinator.send(coordinator.aggregate([*updates, nobody]))
        now = np.array(coordinator.weights[0], np.float64)
        found[number], before = (now - before) * QUORUM, now
    return found


def _directions(draw: np.random.Generator) -> Floats:
    found = draw.standard_normal((CLIENTS, DIMENSION)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def _toeplitz(column: Table64, rows: Table64) -> Table64:
    found = np.zeros(rows.shape)
    for behind, factor in enumerate(column):
        found[behind:] += factor * rows[: len(rows) - behind]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment."""
    return run(argv, __doc__, experiment)


def experiment(_data: Path, short: bool) -> Findings:
    """Each fault at two promises, with noise of several streams."""
    streams = range(2 if short else STREAMS)
    rows: list[list[str | float | None]] = []
    curves: dict[str, tuple[list[float], list[float]]] = {}
    reached: dict[str, str] = {}
    for epsilon in (2.0, 8.0):
        for name, fault in through(list(FAULTS.items()), f"ε = {epsilon:g}", len(FAULTS)):
            found = [audited(epsilon, fault, stream) for stream in streams]
            measured, claimed = [m for m, _ in found], found[0][1]
            error = stdev(measured) / sqrt(len(measured))
            rows.append([f"{epsilon:g}", name, claimed, fmean(measured), error])
            if fault == NONE:
                exact = without_roundings(epsilon)
                reached[f"ε = {epsilon:g}: measured mu within 3 standard errors of the claim"] = (
                    f"{fmean(measured):.4f}, claimed {claimed:.4f}, of which roundings in the worst"
                    f" case are {claimed - exact:.4f}: {(fmean(measured) - exact) / error:+.1f}"
                    " standard errors from the rest"
                )
            curves[f"ε {epsilon:g}, {name}"] = ([float(s) for s in streams], measured)
    return Findings(
        "privacy_audit",
        "What an attacker measures of a private run",
        {
            "clients": CLIENTS, "updates a round": QUORUM, "rounds": ROUNDS,
            "contributions": CONTRIBUTIONS, "distance": DISTANCE, "parameters": DIMENSION,
            "delta": DELTA, "streams of noise": len(streams),
        },
        [Table("mu", ("ε", "fault", "claimed", "measured (mean)", "standard error"), rows)],
        [Panel("each stream of noise", "stream", "measured mu", curves)],
        reached,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
