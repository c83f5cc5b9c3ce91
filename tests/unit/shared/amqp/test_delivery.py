"""Acknowledgements that go out together, and each exactly once."""

import threading

from warren_shared.amqp.delivery import AckTracker


def known(*tags: int) -> AckTracker:
    found = AckTracker(1)
    for tag in tags:
        found.add(tag)
    return found


def test_what_is_settled_in_order_is_one_acknowledgement() -> None:
    tags = known(1, 2, 3, 4)
    assert tags.record_acks([1, 2])
    assert not tags.record_acks([3])  # somebody is on the way already
    assert tags.take_acks() == (3, [])
    assert tags.record_acks([4])
    assert tags.take_acks() == (4, [])


def test_what_waits_for_its_round_is_not_acknowledged_with_what_came_after() -> None:
    tags = known(1, 2, 3, 4)
    tags.record_acks([1, 3, 4, 99])
    assert tags.take_acks() == (1, [3, 4])
    tags.record_acks([2])
    assert tags.take_acks() == (2, [])


def test_two_threads_lose_none_and_wake_the_other_whenever_it_sleeps() -> None:
    tags, wakes, taken = known(*range(1, 20_001)), threading.Semaphore(0), set[int]()

    def take_acks() -> None:
        while len(taken) < 20_000 and wakes.acquire(timeout=10):
            last, others = tags.take_acks()
            taken.update(others, range(1, last + 1))

    thread = threading.Thread(target=take_acks)
    thread.start()
    every = list(range(1, 20_001))
    while every:
        some = [every.pop(0) for _ in range(min(len(every), 1 + len(every) % 7))]
        if tags.record_acks(some):
            wakes.release()
    thread.join()
    assert len(taken) == 20_000
