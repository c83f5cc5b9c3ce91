"""When a coordinator finds out that the broker delivers to another one."""

import pytest

from coordinator_worker.runtime.activity import ANSWER_S, LOOK_S, Activity


@pytest.fixture
def activity() -> Activity:
    activity = Activity()
    activity.heard(0.0)
    return activity


def test_whoever_is_delivered_something_does_not_ask(activity: Activity) -> None:
    for second in range(60):
        activity.heard(float(second))
        assert activity.next_step(second + LOOK_S - 0.1) is None


def test_after_a_silence_it_asks_and_an_answer_ends_the_doubt(activity: Activity) -> None:
    assert activity.next_step(LOOK_S) == "ask"
    activity.asked(LOOK_S)
    activity.heard(LOOK_S + 0.1)
    assert activity.next_step(LOOK_S + 0.1 + LOOK_S) == "ask"


def test_a_question_that_does_not_come_back_means_to_let_go(activity: Activity) -> None:
    assert activity.next_step(10.0) == "ask"
    activity.asked(11.0)
    assert activity.next_step(11.0 + ANSWER_S - 0.1) is None
    assert activity.next_step(11.0 + ANSWER_S) == "let go"


def test_a_question_that_the_queue_has_not_got_proves_nothing(activity: Activity) -> None:
    """The queue may be full, or have no majority."""
    assert {activity.next_step(float(now)) for now in range(10, 1000)} == {"ask"}


def test_an_answer_may_come_before_the_news_that_the_queue_has_the_question(
    activity: Activity,
) -> None:
    assert activity.next_step(10.0) == "ask"
    activity.heard(10.1)
    activity.asked(10.2)
    assert activity.next_step(10.2 + ANSWER_S) == "ask"


def test_a_question_of_the_connections_beginning_is_none_of_these(activity: Activity) -> None:
    activity.asked(1.0)
    assert activity.next_step(1.0 + ANSWER_S) == "ask"
