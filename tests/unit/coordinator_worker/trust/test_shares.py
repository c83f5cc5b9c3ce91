"""How much one client weighs in what a round says."""

from collections import Counter
from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator_worker.trust.shares import MAX_LONE_NAMES, MAX_NAMES, factors, judge, kept_names

sizes = st.lists(st.integers(1, 2**40), min_size=3, max_size=40)


@given(sizes, st.floats(0.05, 0.99))
def test_nobody_weighs_more_than_its_share_and_those_below_weigh_what_they_say(
    examples: list[int], share: float
) -> None:
    weights = [n * f for n, f in zip(examples, factors(examples, share), strict=True)]
    most = max(share, 1 / len(examples))
    assert max(weights) <= most * sum(weights) * (1 + 1e-9)
    assert all(0 < w <= n for w, n in zip(weights, examples, strict=True))
    whole = [n for n, w in zip(examples, weights, strict=True) if w >= n * (1 - 1e-12)]
    cut = [n for n, w in zip(examples, weights, strict=True) if w < n * (1 - 1e-12)]
    assert not whole or not cut or min(cut) >= max(whole)


@given(st.lists(st.integers(1, 100), min_size=3, max_size=9))
def test_where_nobody_has_too_much_nothing_is_changed(examples: list[int]) -> None:
    if max(examples) <= 0.5 * sum(examples):
        assert factors(examples, 0.5) == [1.0] * len(examples)


def test_of_two_neither_can_be_told_from_the_other() -> None:
    assert factors([1, 10_000_000], 0.5) == [1.0, 1.0]
    assert factors([1, 1, 10_000_000], 1.0) == [1.0] * 3


def test_ten_million_examples_weigh_as_much_as_all_others_together() -> None:
    assert factors([100, 100, 10_000_000], 0.5) == pytest.approx([1.0, 1.0, 2e-5])


@pytest.mark.parametrize("lie", [0.0, -1e100, 1e100])
def test_one_client_moves_what_a_decision_looks_at_no_further_than_others_go(lie: float) -> None:
    honest = [(100, 0.6), (120, 0.62), (90, 0.58)]
    judged = judge([*honest, (10_000_000, lie)], 0.5)
    assert judged.clients == 4
    assert 0.58 <= judged.typical <= 0.62
    without_the_liar = np.average([0.6, 0.62, 0.58], weights=[100, 120, 90])
    nearest = judged.high if lie <= 0 else judged.low
    assert nearest == pytest.approx(without_the_liar)


def test_each_is_left_out_without_a_digit_being_lost() -> None:
    judged = judge([(1, 0.5), (1, 0.7), (1, 1e100)], 0.5)
    assert judged.low == pytest.approx(0.6)


def test_one_that_could_not_compute_it_decides_nothing_and_hinders_no_version_from_being_best() -> (
    None
):
    judged = judge([(10, 0.5), (10, nan), (10, 0.7)], 0.5)
    assert judged.typical == pytest.approx(0.6)
    assert isnan(judged.low)
    assert isnan(judge([(10, 0.5), (10, nan)], 0.5).typical)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(-1e3, 1e3)), min_size=2, max_size=9))
def test_leaving_out_is_what_numpy_says(reports: list[tuple[int, float]]) -> None:
    judged = judge(reports, 0.99)
    weights = np.array([n * f for (n, _), f in zip(reports, factors([n for n, _ in reports], 0.99),
                                                   strict=True)])  # fmt: skip
    values = np.array([value for _, value in reports])
    whole = [np.average(values, weights=weights)]
    rest = [
        np.average(np.delete(values, i), weights=np.delete(weights, i)) for i in range(len(reports))
    ]
    assert judged.low == pytest.approx(min(whole + rest), abs=1e-6)
    assert judged.high == pytest.approx(max(whole + rest), abs=1e-6)


def test_names_that_one_client_makes_up_do_not_push_out_those_that_all_report() -> None:
    reporting = Counter({"loss": 5, "accuracy": 5} | {f"junk{n}": 1 for n in range(64)})
    kept = kept_names(reporting, 5)
    assert {"loss", "accuracy"} <= kept
    assert len(kept) == MAX_LONE_NAMES
    assert len(kept_names(Counter({f"m{n}": 2 for n in range(99)}), 5)) == MAX_NAMES
    alone = Counter({f"m{n}": 1 for n in range(60)})
    assert len(kept_names(alone, 1)) == 60, "of few clients all of it"
