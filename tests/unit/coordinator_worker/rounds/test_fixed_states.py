"""What clients say of their vocabularies is compared, and none of them fills the table."""

import pytest

from coordinator_worker.rounds.fixed_states import MAX_OF_ONE, MAX_WARNED, FixedStates

A, B = "ab" * 8, "cd" * 8


def test_names_that_one_fleet_makes_up_do_not_keep_others_from_being_compared(
    caplog: pytest.LogCaptureFixture,
) -> None:
    states = FixedStates()
    for replica in range(40):
        states.compare(f"phone.{replica}", {f"junk {replica} {n}": A for n in range(64)})
    assert len(states._first) == MAX_OF_ONE
    states.compare("alfa", {"vocabulary": A})
    states.compare("bravo", {"vocabulary": B})
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("bravo and alfa have another vocabulary")


def test_a_client_that_differs_in_all_is_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    states = FixedStates()
    states.compare("alfa", {f"state {n}": A for n in range(64)})
    states.compare("bravo", {f"state {n}": B for n in range(64)})
    assert len(caplog.records) == MAX_WARNED
