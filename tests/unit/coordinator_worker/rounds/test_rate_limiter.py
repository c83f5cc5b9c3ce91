"""Attention for any mistake, and not enough for a flood."""

from coordinator_worker.rounds.rate_limiter import MAX_SENDERS, TokenBucket


class Clock:
    """Stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_sender_has_its_burst_and_then_so_many_a_second() -> None:
    clock = Clock()
    allowance = TokenBucket(3, 2.0, clock)
    assert [allowance.take("alfa") for _ in range(5)] == [True, True, True, False, False]
    clock.now += 1.0
    assert [allowance.take("alfa") for _ in range(3)] == [True, True, False]
    clock.now += 100.0
    assert [allowance.take("alfa") for _ in range(4)] == [True, True, True, False]


def test_one_that_floods_takes_nothing_from_another() -> None:
    allowance = TokenBucket(1, 1.0, Clock())
    assert allowance.take("alfa")
    assert not allowance.take("alfa")
    assert allowance.take("bravo")


def test_it_is_news_once_until_the_sender_has_been_quiet() -> None:
    clock = Clock()
    allowance = TokenBucket(1, 1.0, clock)
    allowance.take("alfa")
    assert not allowance.take("alfa")
    assert [allowance.news("alfa") for _ in range(3)] == [True, False, False]
    clock.now += 10.0
    assert allowance.take("alfa")
    assert not allowance.take("alfa")
    assert allowance.news("alfa")


def test_names_without_end_are_not_remembered_without_end() -> None:
    clock = Clock()
    allowance = TokenBucket(1, 1.0, clock)
    for number in range(3 * MAX_SENDERS):
        clock.now += 0.001
        assert allowance.take(f"phone.{number}")
    assert len(allowance._spent) <= MAX_SENDERS
