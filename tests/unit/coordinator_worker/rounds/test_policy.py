"""The policy of a round: laws of the staleness weight, and when a round closes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator_worker.rounds.policy import Policy
from warren_shared.errors import Rejected

policies = st.builds(
    Policy,
    quorum=st.integers(1, 100),
    max_staleness=st.integers(0, 50),
    staleness_exponent=st.floats(0, 4, allow_nan=False),
)
versions = st.integers(0, 2**53)


@given(policies, versions)
def test_a_fresh_update_counts_in_full_under_any_policy(policy: Policy, version: int) -> None:
    assert policy.staleness_weight(version, version) == 1.0


@given(policies, versions, st.integers(-60, 60))
def test_an_update_counts_exactly_while_it_is_neither_stale_nor_from_the_future(
    policy: Policy, version: int, behind: int
) -> None:
    verdict: float | str
    try:
        verdict = policy.staleness_weight(version, version - behind)
    except Rejected as rejected:
        verdict = rejected.reason
    if behind < 0:
        assert verdict == "future"
    elif behind > policy.max_staleness:
        assert verdict == "stale"
    else:
        assert 0 < verdict <= 1


@given(policies, versions)
def test_the_later_the_lighter(policy: Policy, version: int) -> None:
    weights = [policy.staleness_weight(version, version - s) for s in range(policy.max_staleness)]
    assert weights == sorted(weights, reverse=True)


def test_with_a_hinge_lateness_costs_nothing_up_to_it() -> None:
    policy = Policy(quorum=1, max_staleness=9, staleness_exponent=0.5, hinge=2)
    weights = [policy.staleness_weight(9, 9 - s) for s in range(5)]
    assert weights == [1.0, 1.0, 1.0, 1 / 1.5, 1 / 2.0]


def test_without_an_exponent_lateness_costs_nothing() -> None:
    assert Policy(quorum=1, max_staleness=5, staleness_exponent=0.0).staleness_weight(9, 4) == 1.0


def test_the_rejection_says_by_how_much_it_was_too_late() -> None:
    with pytest.raises(Rejected) as caught:
        Policy(quorum=1, max_staleness=2).staleness_weight(10, 7)
    assert caught.value.detail == "trained from version 7, 3 behind 10; at most 2 is allowed"


def test_an_overdue_round_closes_with_fewer_but_never_needs_more() -> None:
    assert [Policy(quorum=4, min_quorum=2).closes(n, overdue=True) for n in range(4)] == [
        False, False, True, True,
    ]  # fmt: skip
    assert Policy(quorum=1, min_quorum=3).closes(1, overdue=True)


@given(policies, st.integers(0, 200))
def test_a_round_closes_at_its_quorum_and_not_before(policy: Policy, updates: int) -> None:
    assert policy.closes(updates) == (updates >= policy.quorum)
