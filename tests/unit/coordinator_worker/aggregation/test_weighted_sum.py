"""The weighted sum: laws, and numpy in float64 as the reference."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator_worker.aggregation import server_optimizer
from coordinator_worker.aggregation.cohort import Delta
from coordinator_worker.aggregation.weighted_sum import WeightedSum, sum_of_squares
from warren_shared.errors import Rejected
from warren_shared.tensors.layout import Layout, Weights, bytes_of
from warren_shared.tensors.update import Update

SHAPES = [((70_000,), "float32"), ((3, 5), "float64"), ((7,), "float32")]


def update(seed: int, examples: int = 1) -> Update:
    draw = np.random.default_rng(seed)
    return Update([draw.normal(size=shape).astype(dtype) for shape, dtype in SHAPES], examples)


LAYOUT = Layout.of(update(0).delta)


def reference(updates: list[Update]) -> list[np.ndarray]:
    """Weighted mean in float64."""
    total = sum(update.num_examples for update in updates)
    return [
        sum(u.num_examples * np.asarray(u.delta[n], float) for u in updates) / total
        for n in range(len(SHAPES))
    ]


def mean(total: WeightedSum) -> Weights:
    return total.mean()


def assert_close(found: Weights, expected: list[np.ndarray]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=6))
def test_the_mean_is_weighted_by_numbers_of_examples(examples: list[int]) -> None:
    updates = [update(seed, count) for seed, count in enumerate(examples)]
    total = WeightedSum(LAYOUT)
    for each in updates:
        total.add(each)
    assert total.count == len(updates)
    assert_close(mean(total), reference(updates))


@settings(deadline=None)
@given(st.lists(st.integers(1, LAYOUT.size_bytes // 8), max_size=6, unique=True))
def test_an_update_in_pieces_is_the_update_in_one(cuts: list[int]) -> None:
    data = bytes_of(Weights.of(update(1).delta).buffer)
    ends = [0, *sorted(8 * cut for cut in cuts), len(data)]
    pieces = [(a, data[a:b]) for a, b in itertools.pairwise(ends) if a < b]
    whole, parts = WeightedSum(LAYOUT), WeightedSum(LAYOUT)
    whole.add(update(1, 3))
    parts.add_chunks(pieces, 3.0)
    np.testing.assert_array_equal(whole.total.buffer, parts.total.buffer)


def test_sums_merge_to_the_sum_of_all() -> None:
    updates = [update(seed, seed + 1) for seed in range(4)]
    left, right = WeightedSum(LAYOUT), WeightedSum(LAYOUT)
    for each in updates[:1]:
        left.add(each)
    for each in updates[1:]:
        right.add(each)
    left.merge(right)
    assert (left.count, left.weight) == (4, 10.0)
    assert_close(mean(left), reference(updates))


def test_reused_memory_starts_from_zero() -> None:
    used = Weights.of(update(5).delta)
    total = WeightedSum(LAYOUT, used)
    total.add(update(1))
    assert_close(mean(total), reference([update(1)]))
    assert total.total is used


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_not_finite_is_rejected_and_leaves_the_sum_alone(value: float, place: int) -> None:
    bad = update(1)
    bad.delta[place].flat[-1] = np.inf if value == 1e30 and place == 1 else value
    total = WeightedSum(LAYOUT)
    with pytest.raises(Rejected, match="not-finite"):
        total.add(bad)
    assert not total.total.buffer.any()
    assert total.weight == 0


def test_the_sum_of_squares_is_that_of_all_values() -> None:
    packed = Weights.of(update(2).delta)
    expected = sum(float(np.sum(np.square(array, dtype=float))) for array in packed)
    assert sum_of_squares(LAYOUT, 0, bytes_of(packed.buffer)) == pytest.approx(expected, rel=1e-4)


def fold(updates: list[Update]) -> WeightedSum:
    total = WeightedSum(LAYOUT)
    for each in updates:
        total.add(each)
    return total


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 5))
def test_any_order_and_any_grouping_is_the_same_mean(order: list[int], cut: int) -> None:
    updates = [update(seed, 10 * seed + 1) for seed in range(5)]
    left = fold([updates[number] for number in order[:cut]])
    left.merge(fold([updates[number] for number in order[cut:]]))
    assert (left.count, left.weight) == (5, 105.0)
    assert_close(mean(left), reference(updates))


def test_an_empty_sum_changes_no_other() -> None:
    left, right = fold([update(1)]), WeightedSum(LAYOUT)
    before = left.total.buffer.copy()
    left.merge(WeightedSum(LAYOUT))
    np.testing.assert_array_equal(left.total.buffer, before)
    right.merge(left)
    np.testing.assert_array_equal(right.total.buffer, before)
    assert (right.count, right.weight) == (1, 1.0)


def test_a_late_updates_weight_goes_before_its_number_of_examples() -> None:
    total = WeightedSum(LAYOUT)
    total.add(update(1, examples=100), weight=1.0)
    total.add(update(2, examples=100), weight=3.0)
    assert_close(mean(total), reference([update(1, 1), update(2, 3)]))


def test_folding_leaves_the_update_and_the_model_as_they_were() -> None:
    sent, model = Weights.of(update(1).delta), Weights.of(update(2).delta)
    before = (sent.buffer.copy(), model.buffer.copy())
    total = WeightedSum(LAYOUT)
    total.add(Update(sent, 7))
    server_optimizer("sgd").move(model, Delta(total.total, total.weight, 1.0, False), {})
    np.testing.assert_array_equal(sent.buffer, before[0])
    np.testing.assert_array_equal(model.buffer, before[1])


def test_the_result_lies_in_the_sums_own_memory() -> None:
    total = fold([update(1)])
    assert total.mean() is total.total


def test_what_a_client_hides_in_the_padding_is_checked_too() -> None:
    """7 float32 take 28 of 32 bytes; the rest is no tensor's, but it is folded with them."""
    packed = Weights.of(update(1).delta)
    packed.buffer[-4:] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)
    with pytest.raises(Rejected, match="not-finite"):
        sum_of_squares(LAYOUT, 0, bytes_of(packed.buffer))


@pytest.mark.parametrize("count", [32, 33, 100, 50_000])
def test_roundings_do_not_grow_with_the_number_of_updates(count: int) -> None:
    """50,000 updates of .1 came to .09996."""
    tenth, layout = np.full(3, 0.1, np.float32), Layout.of([np.zeros(3, np.float32)])
    data = bytes_of(Weights.of([tenth]).buffer)
    total = WeightedSum(layout)
    for _ in range(count):
        total.add_chunks([(0, data)], 333.0)
    np.testing.assert_allclose(mean(total)[0], tenth, rtol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(0, 99))
def test_sums_of_many_updates_merge_as_if_they_were_one(sizes: list[int], seed: int) -> None:
    layout = Layout.of([np.zeros(50, np.float32)])
    draw = np.random.default_rng(seed)
    parts, deltas = [], []
    for size in sizes:
        parts.append(WeightedSum(layout))
        for _ in range(size):
            delta = (1 + draw.normal(size=50)).astype(np.float32)
            parts[-1].add(Update([delta], 7))
            deltas.append(delta.astype(np.float64))
    whole = WeightedSum(layout)
    for part in parts:
        whole.merge(part)
    assert whole.count == sum(sizes)
    np.testing.assert_allclose(mean(whole)[0], np.mean(deltas, axis=0), rtol=1e-5, atol=2e-6)


def test_a_round_of_few_updates_takes_no_second_buffer() -> None:
    total = WeightedSum(LAYOUT)
    memory = total.total.buffer
    for seed in range(10):
        total.add(update(seed))
    assert total.mean().buffer is memory
    assert total._high is None
