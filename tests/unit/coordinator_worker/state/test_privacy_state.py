"""Who may be in a private round: so often, so far apart, whatever comes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator_worker.state.privacy_state import PrivacyState
from warren_shared.errors import Rejected

BEGUN = PrivacyState("gaussian:…", rounds=100, quorum=2, size=3, secret="00" * 32)


@given(
    st.lists(st.sets(st.sampled_from("abcdef")), max_size=40), st.integers(1, 5), st.integers(1, 6)
)
def test_no_pattern_of_arrivals_goes_beyond_the_bounds(
    arrivals: list[set[str]], contributions: int, distance: int
) -> None:
    state, rounds = BEGUN, []
    for there in arrivals:
        here: list[str] = []
        for client in sorted(there) * 2:  # each twice: the second is never let in
            try:
                state.check(client, contributions, distance, is_here=client in here)
            except Rejected:
                continue
            here.append(client)
        assert len(here) == len(set(here))
        rounds.append(here)
        state = state.after(here)
    assert state.done == len(arrivals)
    for client in "abcdef":
        where = [number for number, here in enumerate(rounds) if client in here]
        assert len(where) <= contributions
        assert all(b - a >= distance for a, b in pairwise(where))
        # And who is within the bounds is let in.
        for number, there in enumerate(arrivals):
            before = [n for n in where if n < number]
            may = len(before) < contributions and (not before or number - before[-1] >= distance)
            assert (number in where) == (client in there and may)


def test_what_is_said_to_who_is_too_early_or_done() -> None:
    state = BEGUN.after(["alfa"])
    with pytest.raises(Rejected, match="again 2 rounds from now") as told:
        state.check("alfa", 3, 3, is_here=False)
    assert told.value.reason == "early"
    with pytest.raises(Rejected, match="has been in 1 rounds") as told:
        state.check("alfa", 1, 1, is_here=False)
    assert told.value.reason == "spent"


def test_it_is_written_as_it_is_read() -> None:
    state = BEGUN.after(["alfa", "bravo"]).after(["alfa"])
    assert PrivacyState.from_dict(state.to_dict()) == state
