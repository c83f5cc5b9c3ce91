"""Whom a coordinator tells that nothing of theirs has come."""

from dataclasses import replace

import numpy as np
import pytest

from coordinator_worker.rounds.missing import MOST, Missing
from coordinator_worker.state.roster import Member
from coordinator_worker.state.training_state import State
from warren_shared.tensors.layout import Weights

STATE = State("f", "ab" * 4, 7, Weights.of([np.ones(3, np.float32)]), applied={})
STATE = replace(STATE, roster={name: Member() for name in ("alfa", "bravo", "charlie")})


@pytest.fixture
def missing() -> Missing:
    missing = Missing()
    missing.look(STATE, (), [])
    missing.seen([])
    assert missing.told(STATE, ()) is None, "one that is new may not know everybody"
    return missing


def test_those_who_are_there_and_have_sent_nothing_are_told_once(missing: Missing) -> None:
    assert missing.look(STATE, {"alfa"}, ["bravo"]) == ["bravo", "charlie"]
    assert missing.told(STATE, {"alfa"}) == [], "nobody knows yet who is there"
    assert missing.seen(["charlie"])
    assert missing.told(STATE, {"alfa"}) == ["bravo"]
    assert missing.told(STATE, {"alfa"}) == []


def test_what_came_before_our_question_did_is_not_missing(missing: Missing) -> None:
    missing.look(STATE, (), [])
    missing.seen([])
    assert missing.told(STATE, {"bravo"}) == ["alfa", "charlie"]


def test_a_round_that_has_closed_misses_nobody(missing: Missing) -> None:
    missing.look(STATE, (), [])
    missing.seen([])
    assert missing.told(replace(STATE, version=8), ()) == []


def test_where_the_broker_does_not_say_who_is_there_all_are_told(missing: Missing) -> None:
    missing.look(STATE, (), [])
    assert missing.seen(None)
    assert missing.told(STATE, ()) == ["alfa", "bravo", "charlie"]


def test_a_client_that_could_not_read_it_is_not_told(missing: Missing) -> None:
    missing.heard("alfa", 2)
    missing.heard("bravo", 3)
    missing.look(STATE, (), [])
    missing.seen([])
    assert missing.told(STATE, ()) == ["bravo", "charlie"]
    missing.heard("alfa", 3)
    missing.seen([])
    assert "alfa" in missing.told(STATE, ())


def test_of_a_large_federation_a_sample_is_asked_for(missing: Missing) -> None:
    roster = {f"phone.{number}": Member() for number in range(3 * MOST)}
    found = missing.look(replace(STATE, roster=roster), (), ["phone.5"])
    assert len(found) == len(set(found)) == MOST
    assert found[0] == "phone.5"


def test_whoever_becomes_active_again_tells_everybody_once(missing: Missing) -> None:
    missing.begin()
    missing.look(STATE, {"alfa", "bravo", "charlie"}, [])
    assert missing.seen([]), "there may be others"
    assert missing.told(STATE, ()) is None
    missing.look(STATE, {"alfa", "bravo", "charlie"}, [])
    assert not missing.seen([])


def test_before_there_is_a_model_only_those_who_joined_are_waited_for(missing: Missing) -> None:
    assert missing.look(None, (), ["alfa"]) == ["alfa"]
