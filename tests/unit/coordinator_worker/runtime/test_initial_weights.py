"""Who is asked for the initial weights, and when the next one is."""

from queue import SimpleQueue

import pytest

from coordinator_worker.runtime import initial_weights
from coordinator_worker.runtime.initial_weights import InitialWeightsRequest


class Asking:
    """An initiation whose time passes when the test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.initial_weights_request = InitialWeightsRequest(self.asked.append, lambda: None)


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Asking:
    monkeypatch.setattr(initial_weights, "PATIENCE_S", 3600.0)
    return Asking()


def test_only_the_first_that_joins_is_asked(asking: Asking) -> None:
    for client in ("alfa", "bravo", "charlie"):
        asking.initial_weights_request.joined(client)
    assert asking.asked == ["alfa"]


def test_the_next_is_asked_when_nothing_comes(asking: Asking) -> None:
    for client in ("alfa", "bravo"):
        asking.initial_weights_request.joined(client)
    asking.initial_weights_request.reminded()
    asking.initial_weights_request.reminded()
    assert asking.asked == ["alfa", "bravo", "alfa"]


def test_a_transfer_that_moves_is_waited_for(asking: Asking) -> None:
    for client in ("alfa", "bravo"):
        asking.initial_weights_request.joined(client)
    for _ in range(initial_weights.MAX_SLOW - 1):
        asking.initial_weights_request.moved()
        asking.initial_weights_request.reminded()
    assert asking.asked == ["alfa"]
    asking.initial_weights_request.reminded()
    assert asking.asked == ["alfa", "bravo"]


def test_a_transfer_that_hardly_moves_does_not_keep_the_next_from_being_asked(
    asking: Asking,
) -> None:
    for client in ("alfa", "bravo"):
        asking.initial_weights_request.joined(client)
    for _ in range(initial_weights.MAX_SLOW):
        asking.initial_weights_request.moved()
        asking.initial_weights_request.reminded()
    assert asking.asked == ["alfa", "bravo"]
    assert asking.initial_weights_request.was_asked("alfa"), (
        "one with a slow line may still be the first"
    )


def test_one_whose_weights_are_refused_gives_way_at_once(asking: Asking) -> None:
    for client in ("alfa", "bravo"):
        asking.initial_weights_request.joined(client)
    asking.initial_weights_request.refused("charlie")
    asking.initial_weights_request.refused("alfa")
    assert asking.asked == ["alfa", "bravo"]
    assert not asking.initial_weights_request.was_asked("alfa")
    asking.initial_weights_request.refused("bravo")
    asking.initial_weights_request.joined("alfa")
    assert asking.asked == ["alfa", "bravo", "alfa"], "there is nobody else"


def test_only_who_was_asked_may_send_and_only_until_the_link_is_lost(asking: Asking) -> None:
    for client in ("alfa", "bravo"):
        asking.initial_weights_request.joined(client)
    assert asking.initial_weights_request.was_asked("alfa")
    assert not asking.initial_weights_request.was_asked("bravo")
    asking.initial_weights_request.reset()
    assert not asking.initial_weights_request.was_asked("alfa")


def test_one_that_was_asked_and_joins_again_is_asked_again(asking: Asking) -> None:
    for client in ("alfa", "bravo", "bravo", "alfa"):
        asking.initial_weights_request.joined(client)
    assert asking.asked == ["alfa", "alfa"]


def test_after_the_connection_was_lost_the_next_is_asked_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reminder that came while we were inactive was dropped, and no other followed."""
    monkeypatch.setattr(initial_weights, "PATIENCE_S", 0.01)
    asked: SimpleQueue[str] = SimpleQueue()
    reminders: SimpleQueue[None] = SimpleQueue()
    now = InitialWeightsRequest(asked.put, lambda: reminders.put(None))
    now.joined("alfa")
    assert asked.get(timeout=10) == "alfa"
    reminders.get(timeout=10)  # nobody heeds it: we are not the active one
    now.reset()
    for client in ("alfa", "bravo"):
        now.joined(client)
    assert asked.get(timeout=10) == "alfa"
    reminders.get(timeout=10)
    now.reminded()
    assert asked.get(timeout=10) == "bravo"


def test_a_reminder_from_before_asks_nobody(asking: Asking) -> None:
    asking.initial_weights_request.joined("alfa")
    asking.initial_weights_request.reset()
    asking.initial_weights_request.reminded()
    assert asking.asked == ["alfa"]
