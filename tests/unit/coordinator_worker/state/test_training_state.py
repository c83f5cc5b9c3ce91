"""The state and its ledger: remembers what could come again, for exactly as long as it could."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.state.training_state import State
from warren_shared.tensors.layout import Weights

RECORD = RoundRecord(1, metrics={"loss": 1.0})
START = State("f", "ab" * 4, 0, Weights.of([np.zeros(2)]), applied={})


def test_the_next_state_is_another_and_leaves_this_one_as_it_was() -> None:
    weights = Weights.of([np.ones(2)])
    after = START.after(weights, [("alfa", 0)], RECORD, max_staleness=0)
    assert (START.version, START.applied, START.history) == (0, {}, ())
    assert (after.version, after.history) == (1, (RECORD,))
    assert after.weights is weights
    assert after.has_applied("alfa", 0)
    with pytest.raises(FrozenInstanceError):
        after.version = 7  # type: ignore[misc]


def test_nothing_is_applied_that_was_not() -> None:
    after = START.after(START.weights, [("alfa", 0)], RECORD, 0)
    assert not after.has_applied("alfa", 1)
    assert not after.has_applied("bravo", 0)
    assert not after.has_applied("alf", 0)


rounds = st.lists(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=4), max_size=25
)


@given(st.integers(0, 4), rounds)
def test_the_ledger_is_what_was_applied_less_what_would_be_stale(
    max_staleness: int, rounds: list[list[tuple[str, int]]]
) -> None:
    """One version more than would be accepted: what closed the round that made this version."""
    now, applied = START, set()
    for contributions in rounds:
        fresh = [
            (client, now.version - behind)
            for client, behind in contributions
            if behind <= min(max_staleness, now.version)
        ]
        now = now.after(now.weights, fresh, RECORD, max_staleness)
        applied |= set(fresh)
        remembered = {(client, base) for client, bases in now.applied.items() for base in bases}
        assert remembered == {
            (client, base) for client, base in applied if base >= now.version - 1 - max_staleness
        }
        assert all(now.applied.values()), "a client with nothing to remember is forgotten"
    assert now.version == len(now.history) == len(rounds)
