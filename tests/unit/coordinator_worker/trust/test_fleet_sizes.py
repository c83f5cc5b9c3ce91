"""A fleet's login speaks for the replicas that its fleet has."""

import pytest

from coordinator_worker.trust.fleet_sizes import ASK_EVERY_S, MAX_REPLICAS, FleetSizes


class Broker:
    """Has fleets of some sizes, and a clock."""

    def __init__(self, **sizes: int) -> None:
        self.sizes: dict[str, int | None] = dict(sizes)
        self.now = 1000.0
        self.questions = 0
        self.fleets = FleetSizes(self.find, lambda: self.now)

    def find(self, fleet: str, _claimed: int) -> int | None:
        self.questions += 1
        return self.sizes.get(fleet, 0)


def test_a_client_that_is_no_replica_needs_no_question() -> None:
    broker = Broker()
    assert broker.fleets.has("alfa")
    assert not broker.questions


def test_a_fleet_has_the_replicas_whose_mailboxes_there_are_and_no_more() -> None:
    broker = Broker(phone=3)
    assert [broker.fleets.has(f"phone.{n}") for n in (2, 0, 1, 3, 999_999)] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert broker.questions == 1


def test_a_million_claimed_names_cost_one_question_every_few_seconds() -> None:
    broker = Broker(phone=3)
    for number in range(10_000):
        broker.now += ASK_EVERY_S / 1000
        assert not broker.fleets.has(f"phone.{4 + number % 5000}")
    assert broker.questions <= 11
    assert len(broker.fleets._known) == 1


def test_a_fleet_that_was_made_larger_is_seen() -> None:
    broker = Broker(phone=3)
    assert broker.fleets.has("phone.0")
    broker.sizes["phone"] = 5
    broker.now += ASK_EVERY_S
    assert broker.fleets.has("phone.4")


def test_fleets_do_not_take_each_others_questions() -> None:
    broker = Broker(phone=3, tablet=2)
    assert not broker.fleets.has("phone.7")
    assert broker.fleets.has("tablet.1")


def test_while_the_broker_does_not_tell_a_replica_is_believed_and_asked_for_again() -> None:
    broker = Broker()
    broker.sizes["phone"] = None
    assert broker.fleets.has("phone.7")
    assert not broker.fleets.has(f"phone.{MAX_REPLICAS}")
    broker.sizes["phone"] = 3
    assert not broker.fleets.has("phone.7")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_is_known_is_not_forgotten_when_less_is_found(number: int) -> None:
    broker = Broker(phone=3)
    assert broker.fleets.has("phone.2")
    broker.sizes["phone"] = 1  # a mailbox that somebody deleted by hand
    broker.now += ASK_EVERY_S
    assert not broker.fleets.has("phone.9")
    assert broker.fleets.has(f"phone.{number}")
