"""Aggregators against their papers' equations, computed the plain way."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import trim_mean

from coordinator_worker.aggregation import Cohort, Contribution, aggregator
from coordinator_worker.aggregation.aggregators import AGGREGATORS
from coordinator_worker.aggregation.robust import share_of
from coordinator_worker.rounds.staging import Staging
from warren_shared.errors import ConfigError, Rejected
from warren_shared.naming import CHUNK_BYTES
from warren_shared.tensors.layout import Weights, bytes_of
from warren_shared.tensors.update import Update

LAYOUT = Weights.of([np.zeros((3, 2), np.float32), np.zeros(5), np.zeros(1, np.float32)]).layout
SIZE = 12


def delta(values: np.ndarray) -> Weights:
    made = Weights.uninitialized(LAYOUT)
    parts = np.split(values, [6, 11])
    for array, part in zip(made, parts, strict=True):
        array[:] = part.reshape(array.shape)
    return made


def flat(weights: Weights) -> np.ndarray:
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in weights])


def drawn(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, SIZE))


def result(
    spec: str,
    deltas: np.ndarray,
    center: np.ndarray | None = None,
    clip_norm: float | None = None,
    examples: list[int] | None = None,
    late: list[float] | None = None,
    steps: list[int] | None = None,
) -> np.ndarray:
    cohort = Cohort(LAYOUT, aggregator(spec), clip_norm=clip_norm)
    for number, values in enumerate(deltas):
        update = Update(
            delta(values),
            examples[number] if examples else 1,
            local_steps=steps[number] if steps else None,
        )
        cohort.add(update, late[number] if late else 1.0)
    assert cohort.count == len(deltas)
    total, divisor, *_ = cohort.delta(delta(center) if center is not None else None)
    return flat(total) / divisor


def agree(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


numbers = st.lists(st.integers(1, 50), min_size=1, max_size=6)


@given(numbers, st.data())
def test_means_are_their_papers_formulas(examples: list[int], data: st.DataObject) -> None:
    count = len(examples)
    late = data.draw(st.lists(st.floats(0.1, 1.0), min_size=count, max_size=count))
    steps = data.draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
    deltas, n, s, t = drawn(count), np.array(examples), np.array(late), np.array(steps)
    given_ = {"examples": examples, "late": late, "steps": steps}
    agree(result("mean", deltas, **given_), (n * s) @ deltas / (n * s).sum())
    agree(result("uniform", deltas, **given_), s @ deltas / s.sum())
    agree(result("fedbuff", deltas, **given_), s @ deltas / count)
    p = n * s / (n * s).sum()
    agree(result("fednova", deltas, **given_), (p @ t) * ((p / t) @ deltas))


def test_by_participation_a_client_counts_the_more_the_rarer_it_is_back() -> None:
    deltas, rarities = drawn(3), [0.5, 1.0, 400.0]
    cohort = Cohort(LAYOUT, aggregator("by-participation:most=4"))
    for values, rarity in zip(deltas, rarities, strict=True):
        cohort.add(Update(delta(values), 7), staleness_weight=0.1, rarity=rarity)
    total, divisor, *_ = cohort.delta()
    agree(flat(total) / divisor, np.array([0.5, 1.0, 4.0]) @ deltas / 3)


def test_with_equal_steps_fednova_is_fedavg() -> None:
    deltas = drawn(4)
    plain = result("mean", deltas, examples=[1, 2, 3, 4])
    agree(result("fednova", deltas, examples=[1, 2, 3, 4], steps=[7] * 4), plain)


def test_fednova_rejects_an_update_that_does_not_say_its_steps() -> None:
    with pytest.raises(Rejected, match="local-steps"):
        result("fednova", drawn(1))


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_the_median_is_numpys(count: int) -> None:
    deltas = drawn(count)
    agree(result("median", deltas), np.median(deltas, axis=0))


@pytest.mark.parametrize(("count", "fraction"), [(5, 0.2), (10, 0.2), (7, 0.4), (3, 0.0)])
def test_the_trimmed_mean_is_scipys(count: int, fraction: float) -> None:
    deltas = drawn(count)
    agree(result(f"trimmed-mean:fraction={fraction}", deltas), trim_mean(deltas, fraction))


@pytest.mark.parametrize(("fraction", "count"), [(0.29, 100), (0.29, 200), (0.35, 180)])
def test_exactly_the_share_that_is_written_is_trimmed(fraction: float, count: int) -> None:
    """0.29 * 100 is 28.999999999999996, and one of 29 attackers was left in."""
    attackers = round(fraction * count)
    deltas = np.zeros((count, SIZE))
    deltas[:attackers] = 1e6
    agree(result(f"trimmed-mean:fraction={fraction}", deltas), np.zeros(SIZE))


@given(st.integers(0, 49), st.integers(1, 5000))
def test_no_fraction_of_two_digits_is_rounded_down(hundredths: int, count: int) -> None:
    assert share_of(hundredths / 100, count) == hundredths * count // 100


def krum_order(deltas: np.ndarray, f: int) -> list[int]:
    scores = []
    for one in deltas:
        distances = sorted(((deltas - one) ** 2).sum(axis=1))[1 : len(deltas) - f - 1]
        scores.append(sum(distances))
    return list(np.argsort(scores, kind="stable"))


@pytest.mark.parametrize(("count", "f"), [(7, 2), (9, 1), (13, 5)])
def test_krum_takes_whom_the_most_are_near(count: int, f: int) -> None:
    deltas = drawn(count, seed=f)
    order = krum_order(deltas, f)
    agree(result(f"krum:f={f}", deltas), deltas[order[0]])
    agree(result(f"multi-krum:f={f}", deltas), deltas[order[: count - f]].mean(axis=0))


def test_krum_with_too_few_updates_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs 7 updates"):
        result("krum:f=2", drawn(6))


@pytest.mark.parametrize("late", [None, [1.0, 0.5, 0.5, 0.25, 1.0]])
def test_the_geometric_median_is_what_an_optimizer_finds(late: list[float] | None) -> None:
    deltas = drawn(5)
    weights = np.array(late or [1.0] * 5)

    def cost(point: np.ndarray) -> float:
        return float(weights @ np.linalg.norm(deltas - point, axis=1))

    best = minimize(cost, deltas.mean(axis=0), tol=1e-12)
    found = result("geometric-median", deltas, late=late)
    assert cost(found) <= best.fun * (1 + 1e-7)
    np.testing.assert_allclose(found, best.x, atol=2e-3)


def test_centered_clipping_is_its_equation_and_remembers_the_last_round() -> None:
    deltas, last, radius = drawn(6), drawn(1, seed=9)[0], 2.0
    v = last.copy()
    for _ in range(3):
        away = deltas - v
        shrink = np.minimum(1.0, radius / np.linalg.norm(away, axis=1))
        v = v + (away * shrink[:, None]).mean(axis=0)
    cohort = Cohort(LAYOUT, aggregator(f"centered-clipping:radius={radius}"))
    for values in deltas:
        cohort.add(Update(delta(values), 1))
    center = delta(last)
    total, divisor, *_ = cohort.delta(center)
    agree(flat(total) / divisor, v)
    agree(flat(center), v)


@pytest.mark.parametrize("spec", ["mean", "median", "geometric-median"])
def test_an_update_longer_than_the_bound_counts_shortened(spec: str) -> None:
    deltas = drawn(5) * np.array([1, 1, 50, 1, 0.01])[:, None]
    norms = np.linalg.norm(deltas, axis=1)
    shortened = deltas * np.minimum(1.0, 3.0 / norms)[:, None]
    agree(result(spec, deltas, clip_norm=3.0), result(spec, shortened))


ROBUST = ["median", "trimmed-mean:fraction=0.2", "krum:f=5", "multi-krum:f=5", "geometric-median",
          "centered-clipping:radius=5"]  # fmt: skip


@pytest.mark.parametrize("spec", ROBUST)
def test_a_fifth_of_liars_does_not_move_a_robust_rule_far(spec: str) -> None:
    deltas = drawn(25)
    honest = deltas[5:].mean(axis=0)
    deltas[:5] = -1000.0 * honest
    center = np.zeros(SIZE) if spec.startswith("centered") else None
    assert np.linalg.norm(result(spec, deltas, center) - honest) < 5.0
    assert np.linalg.norm(result("mean", deltas) - honest) > 100.0


class Arrived:
    """A delta in a staging file, as the coordinator has it."""

    def __init__(self, weights: Weights, staging: Staging) -> None:
        data = bytes_of(weights.buffer)
        self.staging = staging
        self.pieces = [
            staging.keep(start, data[start : start + CHUNK_BYTES])
            for start in range(0, len(data), CHUNK_BYTES)
        ]

    def chunks(self):
        return self.staging.chunks(self.pieces)

    def read(self, start: int, into: memoryview) -> None:
        self.staging.read(self.pieces, start, into)

    def release(self) -> None:
        self.staging.release(self.pieces)


@pytest.mark.parametrize("spec", ["mean", *ROBUST[:1], "geometric-median"])
def test_deltas_of_several_chunks_on_disk_are_the_same_as_in_memory(
    spec: str, tmp_path: Path
) -> None:
    shape = CHUNK_BYTES // 2 + 77
    draw = np.random.default_rng(1)
    deltas = [Weights.of([draw.normal(size=shape).astype(np.float32)]) for _ in range(5)]
    staging = Staging(tmp_path, memory_bytes=3 * CHUNK_BYTES)
    here, there = (Cohort(deltas[0].layout, aggregator(spec)) for _ in range(2))
    for values in deltas:
        here.add(Update(values, 1))
        there.take(Contribution(1), Arrived(values, staging))
    (memory, divisor, *_), (disk, other, *_) = here.delta(), there.delta()
    assert divisor == other
    np.testing.assert_array_equal(memory.buffer, disk.buffer)
    assert staging._held_bytes == 0


def test_a_cohort_that_is_given_up_holds_nothing(tmp_path: Path) -> None:
    staging = Staging(tmp_path, memory_bytes=1 << 20)
    cohort = Cohort(LAYOUT, aggregator("median"))
    cohort.take(Contribution(1), Arrived(delta(drawn(1)[0]), staging))
    cohort.release()
    assert staging._held_bytes == 0


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("mode", ", ".join(sorted(AGGREGATORS))),
        ("krum", "krum needs f, as in krum:f=VALUE"),
        ("krum:f=two", "f: write a whole number"),
        ("krum:f=-1", "f is -1"),
        ("krum:g=2", "krum takes f"),
        ("mean:f=2", "mean takes no parameters"),
        ("trimmed-mean:fraction=0.5", "less than half"),
        ("centered-clipping:radius=0", "above 0"),
        ("by-participation:most=0.5", "1 or more"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_with_the_reason(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"--aggregator {spec}".replace("+", "")) as refused:
        aggregator(spec)
    assert said in str(refused.value)
