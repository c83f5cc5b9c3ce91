"""Private sums: exact, bounded, noised once; and what an attacker measures is what is claimed.

The audit knows all other clients' updates, every released model and the mechanism (Steinke et al.
2023; Andrew et al. 2024 for the fit of two Gaussians): what it measures of a canary, a client whose
updates all go in one direction, is as much as anybody can. So it has to come to the promise, and
beyond it if there is a fault.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from coordinator_worker import FederatedCoordinator
from coordinator_worker.aggregation import Contribution
from coordinator_worker.aggregation.coordinator import NOISE
from coordinator_worker.aggregation.private_cohort import PrivateCohort, RoundNoise
from coordinator_worker.aggregation.weighted_sum import WeightedSum
from experiments.privacy_audit import DISTANCE, ERROR, FAULTS, NONE, audited
from warren_shared.config.client_privacy import ClientPrivacy, privacy
from warren_shared.errors import ConfigError, Rejected
from warren_shared.tensors.layout import Layout, Weights
from warren_shared.tensors.update import Update

SIZE = 300
LAYOUT = Layout.of([np.zeros(SIZE, np.float32), np.zeros(3)])
PROMISE = "correlated:epsilon=2,delta=1e-5,clip=0.5,contributions=2,distance=3"
SECRET = bytes(range(32))


def noise(spec: str = PROMISE, rounds: int = 8, quorum: int = 20, size: int = SIZE) -> RoundNoise:
    promise = privacy(spec)
    return RoundNoise(promise.calibration(rounds, quorum, size), promise.clip, SECRET)


def update(seed: int, length: float = 0.4) -> Update:
    draw = np.random.default_rng(seed)
    arrays = [draw.standard_normal(t.shape).astype(t.dtype) for t in LAYOUT.tensors]
    norm = sqrt(sum(float((a.astype(float) ** 2).sum()) for a in arrays))
    return Update([(a * (length / norm)).astype(a.dtype) for a in arrays], 1)


def released(updates: list[Update], context: str = "run 1") -> Weights:
    cohort = PrivateCohort(LAYOUT, noise())
    for one in updates:
        cohort.add(one)
    return cohort.delta(Weights.empty(LAYOUT), context).total


class Model:
    def __init__(self, size: int) -> None:
        self.weights = [np.zeros(size, np.float32)]

    def get_weights(self) -> list[np.ndarray]:
        return self.weights

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.weights = [np.array(array) for array in weights]


def test_the_order_of_updates_changes_no_bit() -> None:
    updates = [update(seed) for seed in range(20)]
    backwards = released(updates[::-1])
    assert released(updates).buffer.tobytes() == backwards.buffer.tobytes()


def test_the_same_sum_gets_the_same_noise_and_any_other_another() -> None:
    updates = [update(seed) for seed in range(5)]
    first = released(updates)
    assert released(updates).buffer.tobytes() == first.buffer.tobytes()
    assert (released(updates, "run 2")[0] != first[0]).mean() > 0.99
    fewer = released(updates[:-1])
    exact = np.asarray(updates[-1].delta[0]) / 20
    assert np.linalg.norm(first[0] - fewer[0] - exact) > 10 * np.linalg.norm(exact)


def test_what_is_divided_by_is_the_quorum_however_many_came() -> None:
    quiet = replace(noise(), calibration=replace(noise().calibration, mu=1e4))
    for count in (1, 7, 20):
        cohort = PrivateCohort(LAYOUT, quiet)
        for _ in range(count):
            cohort.add(update(3))
        found = cohort.delta(Weights.empty(LAYOUT), "x").total
        np.testing.assert_allclose(found[0], count / 20 * update(3).delta[0], atol=2e-3)


def test_an_update_that_is_too_long_counts_shortened_and_a_late_one_less() -> None:
    cohort = PrivateCohort(LAYOUT, noise())
    step = cohort._noise.calibration.step
    cohort.add(update(1, length=50.0))
    assert norm(cohort) == pytest.approx(step, rel=1e-3)
    late = PrivateCohort(LAYOUT, noise())
    late.add(update(1, length=50.0), staleness_weight=0.25)
    assert norm(late) == pytest.approx(step / 4, rel=1e-3)
    twice = PrivateCohort(LAYOUT, noise())
    twice.add(update(1, length=50.0), staleness_weight=2.0)
    assert norm(twice) == pytest.approx(step, rel=1e-3), "no weight is above 1"


def norm(cohort: PrivateCohort) -> float:
    kinds = {"float32": np.int32, "float64": np.int64}
    parts = [
        cohort.sum.total.buffer[run.start : run.stop].view(kinds[run.dtype]).astype(float)
        for run in LAYOUT.runs
    ]
    return float(np.linalg.norm(np.concatenate(parts)))


class Row:
    """An update whose bytes are ``delta``, whatever its sender says of them."""

    def __init__(self, delta: Weights) -> None:
        self.delta = delta

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        yield 0, memoryview(self.delta.buffer)

    def read(self, start: int, into: memoryview) -> None:
        raise NotImplementedError

    def release(self) -> None:
        pass


def test_an_update_that_is_longer_than_its_norm_says_moves_nothing() -> None:
    cohort = PrivateCohort(LAYOUT, noise())
    cohort.add(update(1))
    before = cohort.sum.total.buffer.copy()
    long = Weights.of(update(2, length=0.6).delta, LAYOUT)
    with pytest.raises(Rejected, match="larger than its norm says"):
        cohort.take(Contribution(1, norm=0.5), Row(long))
    np.testing.assert_array_equal(cohort.sum.total.buffer, before)
    assert cohort.count == 1


def test_one_that_is_no_number_counts_and_moves_nothing() -> None:
    cohort = PrivateCohort(LAYOUT, noise())
    cohort.take(Contribution(1), None)
    assert cohort.count == 1
    assert not cohort.sum.total.buffer.any()


def test_what_has_no_bound_is_refused() -> None:
    layout = Layout.of([np.zeros(4, np.float32)] * 2, roles=["trainable", "statistic"])
    with pytest.raises(ConfigError, match="GroupNormalization"):
        PrivateCohort(layout, noise())
    with pytest.raises(ConfigError, match="not a sum of some"):
        PrivateCohort(LAYOUT, noise()).merge(WeightedSum(LAYOUT))
    with pytest.raises(ConfigError, match="no updates"):
        PrivateCohort(LAYOUT, noise()).delta(Weights.empty(LAYOUT), "x")


def test_the_noise_of_later_rounds_takes_that_of_earlier_ones_back() -> None:
    rounds, size = 30, 2000
    totals = {}
    for name in ("correlated", "gaussian"):
        spec = f"{name}:epsilon=2,delta=1e-5,clip=1,contributions=3,distance=10"
        found = noise(spec, rounds, 20, size)
        coordinator = FederatedCoordinator([Model(size)], noise=found)
        zero = Update([np.zeros(size, np.float32)], 1)
        for _ in range(rounds):
            coordinator.send(coordinator.aggregate([zero] * 20))
        totals[name] = float(np.std(coordinator.weights[0]))
        column = found.calibration.correlation
        inverse = np.r_[1, -column.omega * (column.theta - column.omega) ** np.arange(rounds - 1)]
        one = found.calibration.sigma / found.scale / 20
        assert totals[name] == pytest.approx(
            one * np.sqrt((np.cumsum(inverse) ** 2).sum()), rel=0.1
        )
    assert totals["correlated"] < 0.5 * totals["gaussian"]


def test_after_a_round_that_diverged_the_noise_goes_on() -> None:
    coordinator = FederatedCoordinator([Model(SIZE)], noise=noise(size=SIZE))
    coordinator.send(coordinator.aggregate([Update([np.ones(SIZE, np.float32)], 1)]))
    before = coordinator.slots[NOISE].buffer.copy()
    coordinator._weights[0][0] = np.inf
    with pytest.raises(Exception, match="infinite"):
        coordinator.aggregate([Update([np.ones(SIZE, np.float32)], 1)])
    assert (coordinator.slots[NOISE].buffer != before).any()
    assert coordinator.slots[NOISE].buffer.any()


# --- the audit --------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [2, 8])
def test_an_audit_measures_what_is_claimed(epsilon: float) -> None:
    measured, claimed = audited(epsilon)
    assert abs(measured - claimed) < 3 * ERROR * (1 + claimed**2 / 4)


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault != NONE])
def test_an_audit_finds(name: str) -> None:
    factor = 1.5 if FAULTS[name].distance != DISTANCE else 2.0
    measured, claimed = audited(2, FAULTS[name])
    assert measured > factor * claimed - 3 * ERROR
    assert measured > claimed + 3 * ERROR


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("correlated:epsilon=0,delta=1e-5,clip=1", "epsilon is 0"),
        ("correlated:epsilon=1,delta=2,clip=1", "delta is 2"),
        ("correlated:epsilon=1,delta=1e-5,clip=-1", "clip is -1"),
        ("correlated:epsilon=1,delta=1e-5,clip=inf", "clip is inf"),
        ("correlated:epsilon=1,delta=1e-5,clip=1,contributions=0", "1 or more"),
        ("correlated:epsilon=1,delta=1e-5", "needs clip"),
        ("laplace:epsilon=1", "there are correlated, gaussian"),
        ("gaussian:epsilon=1,delta=1e-5,clip=auto", "clip"),
    ],
)
def test_a_promise_that_is_none(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        privacy(spec)


def test_a_promise_is_written_as_it_is_read() -> None:
    found = privacy(PROMISE + ",small=true")
    assert isinstance(found, ClientPrivacy)
    assert privacy(str(found)) == found
    assert str(found) == PROMISE + ",small=true"
