"""What an attacker measures who knows everything but the noise is what is claimed, and no more.

A thousand canaries, records whose gradients go each in a direction of its own, are in the data or
not, by lot. The attacker has every update of the run and looks how far it went in each direction
(Steinke et al. 2023; Andrew et al. 2024 for the fit of two Gaussians).
"""

from collections.abc import Iterator
from math import sqrt

import numpy as np
import pytest

from client_worker import FederatedClient, NumpyModel
from client_worker.privacy import release
from client_worker.privacy.budget import MemoryBudget
from client_worker.privacy.terms import RecordPrivacy
from warren_shared.privacy.noise import DiscreteGaussian
from warren_shared.protocol.messages import LocalTraining

CANARIES, ROUNDS, STEPS = 1000, 4, 3
CLIP, RATE, EXAMPLES = 0.25, 0.5, 700
LOCAL = LocalTraining(steps=STEPS)


class Linear(NumpyModel):
    """Loss -x w, so that each record's gradient is -x."""

    def __init__(self, times: int = 1) -> None:
        super().__init__([np.zeros((CANARIES, 1))], self.slope)
        self.times = times

    @staticmethod
    def slope(_weights: object, x: np.ndarray, _y: object) -> tuple[float, list[np.ndarray]]:
        return 0.0, [-x.mean(axis=0)[:, None]]

    def per_example_gradients(self, data: tuple[np.ndarray, np.ndarray]) -> Iterator[np.ndarray]:
        for _ in range(self.times):
            yield from super().per_example_gradients(data)


def measured(epsilon: float, seed: int, model: Linear) -> tuple[float, float]:
    """What a run lets an attacker know of a record: measured mu, and what is claimed."""
    draw = np.random.default_rng(seed)
    present = draw.random(CANARIES) < 0.5
    x = np.eye(CANARIES)[present] * draw.uniform(1, 9, CANARIES)[present, None]  # beyond the clip
    terms = RecordPrivacy(
        epsilon=epsilon, delta=1e-5, steps=ROUNDS * STEPS, examples=EXAMPLES, clip=CLIP
    )
    budget = MemoryBudget(terms, draw.bytes)
    client = FederatedClient(model, (x, np.zeros(len(x))), RATE, record_privacy=budget)
    moved = np.zeros(CANARIES)
    weights = [draw.normal(size=(CANARIES, 1))]  # whatever they are
    for _ in range(ROUNDS):
        update = client.train(weights, LOCAL)
        moved += np.asarray(update.delta[0])[:, 0]
        weights = [weights[0] + update.delta[0] * 0.3]
    seen, unseen = moved[present], moved[~present]
    spread = sqrt((seen.var() * len(seen) + unseen.var() * len(unseen)) / CANARIES)
    return float(seen.mean() - unseen.mean()) / spread, terms.mu


def standard_error(mu: float) -> float:
    return sqrt((4 + mu**2 / 2) / CANARIES)


@pytest.mark.parametrize("epsilon", [1, 4, 8])
def test_what_is_measured_is_what_is_claimed(epsilon: float) -> None:
    found, claimed = measured(epsilon, 3, Linear())
    assert found == pytest.approx(claimed, abs=3 * standard_error(claimed))


def test_half_the_noise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "DiscreteGaussian", lambda sigma: DiscreteGaussian(sigma / 2))
    found, claimed = measured(4, 3, Linear())
    assert found == pytest.approx(2 * claimed, abs=3 * standard_error(2 * claimed))
    assert found > claimed + 3 * standard_error(claimed)


def test_a_record_that_is_used_twice_is_found() -> None:
    found, claimed = measured(4, 3, Linear(times=2))
    assert found == pytest.approx(2 * claimed, abs=3 * standard_error(2 * claimed))
    assert found > claimed + 3 * standard_error(claimed)


def test_a_clip_that_is_not_heeded_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(self: release.GradientRelease, part: np.ndarray) -> np.ndarray:
        return np.rint(part * (self._length / self._clip)).astype(np.int64)

    monkeypatch.setattr(release.GradientRelease, "rounded", unclipped)
    found, claimed = measured(1, 3, Linear())
    assert found > 5 * claimed
