"""When a confirm that does not come means that it never will."""

from warren_shared.amqp.confirm_deadline import FIRST_S, LONGEST_S, ConfirmDeadline


def look(deadline: ConfirmDeadline, now: float, progress: int = 7, unsent_bytes: int = 0) -> bool:
    return deadline.is_over(now, waits=True, progress=progress, unsent_bytes=unsent_bytes)


def test_nothing_moves_for_as_long_as_the_broker_may_take() -> None:
    deadline = ConfirmDeadline()
    assert not look(deadline, 100.0)
    assert not look(deadline, 100.0 + FIRST_S - 0.1)
    assert look(deadline, 100.0 + FIRST_S)


def test_a_slow_line_is_not_a_lost_confirm() -> None:
    deadline = ConfirmDeadline()
    for second in range(1000):
        assert not look(deadline, float(second), unsent_bytes=10_000_000 - 1_000 * second)


def test_confirms_that_trickle_are_waited_for() -> None:
    deadline = ConfirmDeadline()
    for step in range(20):
        assert not look(deadline, step * (FIRST_S - 1), progress=step)


def test_bytes_that_the_broker_does_not_read_count_as_nothing_moving() -> None:
    deadline = ConfirmDeadline()
    assert not look(deadline, 0.0, unsent_bytes=4096)
    assert look(deadline, FIRST_S, unsent_bytes=4096)


def test_heartbeats_on_their_way_are_nothing_that_moves() -> None:
    deadline = ConfirmDeadline()
    found = [look(deadline, float(second), unsent_bytes=8 * (second % 2)) for second in range(60)]
    assert any(found)


def test_without_a_confirm_due_no_time_passes() -> None:
    deadline = ConfirmDeadline()
    look(deadline, 0.0)
    assert not deadline.is_over(1000.0, waits=False, progress=7, unsent_bytes=0)
    assert not look(deadline, 2000.0)
    assert not look(deadline, 2000.0 + FIRST_S - 1)


def test_a_broker_without_a_majority_is_asked_at_growing_intervals() -> None:
    deadline, now, waits = ConfirmDeadline(), 0.0, []
    for _ in range(6):
        began = now
        while not look(deadline, now):
            now += 1.0
        waits.append(now - began)
    assert waits == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, LONGEST_S, LONGEST_S, LONGEST_S]
    deadline.confirmed()
    look(deadline, now)
    assert look(deadline, now + FIRST_S)
