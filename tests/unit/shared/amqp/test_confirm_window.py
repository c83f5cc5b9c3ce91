"""Publishing with confirms, against a channel that records what was sent."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from warren_shared.amqp.confirm_window import (
    BLOCKED,
    WINDOW_BYTES,
    ConfirmWindow,
    Publication,
    PublishBatch,
    Unconfirmed,
)

BIG = bytes(WINDOW_BYTES // 4)


def job(*bodies: bytes) -> PublishBatch:
    return PublishBatch([Publication("x", "k", (body,), "test") for body in bodies])


@pytest.fixture
def sent() -> list[int]:
    return []


@pytest.fixture
def pipeline(sent: list[int]) -> ConfirmWindow:
    return ConfirmWindow(lambda number, _message: sent.append(number))


def submit(pipeline: ConfirmWindow, *jobs: PublishBatch) -> None:
    for each in jobs:
        pipeline.append(each)
    pipeline.pump()


def test_a_job_is_done_when_its_last_message_is_confirmed(
    pipeline: ConfirmWindow, sent: list[int]
) -> None:
    mine = job(b"a", b"b", b"c")
    submit(pipeline, mine)
    assert sent == [1, 2, 3]
    pipeline.confirmed(3, False, True)
    pipeline.confirmed(1, False, True)
    assert not mine.done.is_set()
    pipeline.confirmed(2, False, True)
    assert mine.done.is_set()
    assert mine.error is None


def test_one_confirm_may_stand_for_many(pipeline: ConfirmWindow) -> None:
    first, second = job(b"a", b"b"), job(b"c")
    submit(pipeline, first, second)
    pipeline.confirmed(2, True, True)
    assert first.done.is_set()
    assert not second.done.is_set()


def test_a_full_queue_fails_the_job_for_another_try(pipeline: ConfirmWindow) -> None:
    mine = job(b"a", b"b")
    submit(pipeline, mine)
    pipeline.confirmed(1, False, False)
    assert isinstance(mine.error, Unconfirmed)


def test_a_returned_message_fails_the_job_although_it_is_confirmed(pipeline: ConfirmWindow) -> None:
    mine = job(b"a")
    submit(pipeline, mine)
    pipeline.returned(1, ValueError("no queue"))
    pipeline.confirmed(1, False, True)
    assert isinstance(mine.error, ValueError)


def test_a_lost_link_fails_what_had_begun_and_keeps_the_rest(
    pipeline: ConfirmWindow, sent: list[int]
) -> None:
    confirmed, begun, waiting = job(b"a"), job(*[BIG] * 6), job(b"z")
    submit(pipeline, confirmed, begun, waiting)
    pipeline.confirmed(1, False, True)
    pipeline.lost()
    assert confirmed.error is None
    assert isinstance(begun.error, Unconfirmed)
    assert not waiting.done.is_set()
    sent.clear()
    pipeline.pump()
    assert sent == [1], "a new channel counts from 1"
    pipeline.confirmed(1, False, True)
    assert waiting.done.is_set()


def test_a_link_lost_before_the_last_message_was_made_takes_the_job_off_the_queue(
    pipeline: ConfirmWindow, sent: list[int]
) -> None:
    """Its publisher submits it again; what is left of the first attempt must not go out too."""
    begun, after = job(*[BIG] * 6), job(b"z")
    submit(pipeline, begun, after)
    pipeline.lost()
    assert list(pipeline._jobs) == [after]


def test_a_job_without_messages_is_done_when_its_turn_comes(pipeline: ConfirmWindow) -> None:
    empty = job()
    submit(pipeline, empty)
    assert empty.done.is_set()


class Confirms(RuleBasedStateMachine):
    """Whatever the broker does, each job ends right: done if and only if all was confirmed."""

    def __init__(self) -> None:
        super().__init__()
        self.pipeline = ConfirmWindow(self._send)
        self.open: dict[int, bytes] = {}
        self.jobs: list[tuple[PublishBatch, int]] = []
        self.accepted: dict[int, int] = {}
        self.owner: dict[int, int] = {}

    def _send(self, number: int, message: Publication) -> None:
        self.open[number] = b"".join(message.body)
        self.owner[number] = int(message.exchange)

    @rule(sizes=st.lists(st.sampled_from([1, 1000, len(BIG)]), max_size=7))
    def submit(self, sizes: list[int]) -> None:
        number = len(self.jobs)
        made = PublishBatch(
            [Publication(str(number), "k", (BIG[:size],), "test") for size in sizes]
        )
        self.jobs.append((made, len(sizes)))
        self.pipeline.append(made)
        self.pipeline.pump()

    @precondition(lambda self: self.open)
    @rule(draw=st.data(), multiple=st.booleans())
    def confirm(self, draw: st.DataObject, multiple: bool) -> None:
        number = draw.draw(st.sampled_from(sorted(self.open)))
        for each in [n for n in self.open if n == number or (multiple and n < number)]:
            del self.open[each]
            self.accepted[self.owner[each]] = self.accepted.get(self.owner[each], 0) + 1
        self.pipeline.confirmed(number, multiple, True)
        self.pipeline.pump()

    @rule()
    def lose(self) -> None:
        self.open.clear()
        self.owner.clear()
        self.pipeline.lost()
        self.pipeline.pump()

    @invariant()
    def the_window_holds(self) -> None:
        assert sum(map(len, self.open.values())) < WINDOW_BYTES + len(BIG)

    @invariant()
    def done_means_confirmed(self) -> None:
        for number, (made, size) in enumerate(self.jobs):
            if made.done.is_set() and made.error is None:
                assert self.accepted.get(number, 0) == size
            if made.error is not None:
                assert isinstance(made.error, Unconfirmed)


TestConfirms = Confirms.TestCase
TestConfirms.settings = settings(max_examples=60, deadline=None, stateful_step_count=30)


def test_one_refusal_may_stand_for_many(pipeline: ConfirmWindow) -> None:
    first, second, third = job(b"a", b"b"), job(b"c"), job(b"d")
    submit(pipeline, first, second, third)
    pipeline.confirmed(3, True, False)
    assert isinstance(first.error, Unconfirmed)
    assert isinstance(second.error, Unconfirmed)
    assert not third.done.is_set()


def test_the_rest_of_a_job_that_failed_is_not_sent(
    pipeline: ConfirmWindow, sent: list[int]
) -> None:
    failing, after = job(*[BIG] * 6), job(b"z")
    submit(pipeline, failing, after)
    assert sent == [1, 2, 3, 4]
    pipeline.returned(2, ValueError("no queue"))
    pipeline.confirmed(4, True, True)
    pipeline.pump()
    assert sent == [1, 2, 3, 4, 5], "only the next job's message may follow"
    pipeline.confirmed(5, False, True)
    assert after.error is None
    assert after.done.is_set()


def test_the_window_is_filled_and_not_exceeded_by_more_than_a_message(
    pipeline: ConfirmWindow, sent: list[int]
) -> None:
    submit(pipeline, job(*[BIG] * 9))
    assert len(sent) == 4
    pipeline.pump()
    assert len(sent) == 4
    pipeline.confirmed(2, False, True)
    pipeline.pump()
    assert len(sent) == 5


def test_messages_are_made_one_at_a_time_while_the_window_has_room(pipeline: ConfirmWindow) -> None:
    made = 0

    def messages():  # type: ignore[no-untyped-def]
        nonlocal made
        for _ in range(100):
            made += 1
            yield Publication("x", "k", (BIG,), "test")

    submit(pipeline, PublishBatch(messages()))
    assert made == 4


def test_what_the_broker_closed_the_channel_over_fails_with_its_reason(
    pipeline: ConfirmWindow,
) -> None:
    begun = job(b"a")
    submit(pipeline, begun)
    pipeline.lost(PermissionError("refused"))
    assert isinstance(begun.error, PermissionError)


def test_abandoning_ends_every_job(pipeline: ConfirmWindow) -> None:
    begun, waiting = job(*[BIG] * 6), job(b"z")
    submit(pipeline, begun, waiting)
    pipeline.abandon(TimeoutError("closed"))
    assert isinstance(begun.error, Unconfirmed)
    assert isinstance(waiting.error, TimeoutError)
    pipeline.pump()


class AtLeastOnce(RuleBasedStateMachine):
    """A publisher that tries again, over a broker that stores, refuses, and goes away.

    Whatever happens, in the end each transfer lies in the broker whole and in order, and none is
    said to be there before it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pipeline = ConfirmWindow(self._send)
        self.stored: list[tuple[str, int]] = []
        self.in_flight: list[tuple[int, tuple[str, int]]] = []  # sent, and not yet read by it
        self.answers: list[tuple[int, bool]] = []
        self.transfers: dict[str, int] = {}
        self.open: dict[str, PublishBatch] = {}

    def _send(self, number: int, message: Publication) -> None:
        self.in_flight.append((number, (message.exchange, int(message.routing_key))))

    def _try(self, name: str) -> None:
        messages = [
            Publication(name, str(index), (BIG,), "test") for index in range(self.transfers[name])
        ]
        self.open[name] = PublishBatch(messages)
        self.pipeline.append(self.open[name])
        self.pipeline.pump()

    @rule(count=st.integers(1, 7))
    def publish(self, count: int) -> None:
        name = f"transfer {len(self.transfers)}"
        self.transfers[name] = count
        self._try(name)

    @precondition(lambda self: self.in_flight)
    @rule(accepts=st.sampled_from([True, True, True, False]))
    def the_broker_reads(self, accepts: bool) -> None:
        number, message = self.in_flight.pop(0)
        if accepts:
            self.stored.append(message)
        self.answers.append((number, accepts))

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def an_answer_arrives(self, data: st.DataObject) -> None:
        number, accepted = self.answers.pop(data.draw(st.integers(0, len(self.answers) - 1)))
        earlier = {n for n, _ in self.in_flight if n < number}
        alike = [answer for answer in self.answers if answer[0] < number]
        multiple = not earlier and all(verdict is accepted for _, verdict in alike)
        if multiple:
            self.answers = [answer for answer in self.answers if answer not in alike]
        self.pipeline.confirmed(number, multiple, accepted)
        self.pipeline.pump()

    @rule()
    def the_link_is_lost(self) -> None:
        self.in_flight.clear()
        self.answers.clear()
        self.pipeline.lost()
        self.pipeline.pump()

    @invariant()
    def what_is_done_is_in_the_broker(self) -> None:
        for name, attempt in list(self.open.items()):
            if attempt.done.is_set() and attempt.error is None:
                assert self._lies_in_order(name)
                del self.open[name]
            elif attempt.done.is_set():
                assert isinstance(attempt.error, Unconfirmed)
                self._try(name)

    def _lies_in_order(self, name: str) -> bool:
        due = 0
        for stored, index in self.stored:
            due = due + 1 if stored == name and index == due else due
        return due == self.transfers[name]

    def teardown(self) -> None:
        while self.in_flight or self.answers:
            while self.in_flight:
                self.the_broker_reads(accepts=True)
            while self.answers:
                number, accepted = self.answers.pop(0)
                self.pipeline.confirmed(number, False, accepted)
            self.pipeline.pump()
            self.what_is_done_is_in_the_broker()
        assert not self.open, "no transfer may be forgotten"


TestAtLeastOnce = AtLeastOnce.TestCase
TestAtLeastOnce.settings = settings(max_examples=40, deadline=None, stateful_step_count=30)


def test_what_is_held_back_waits_for_a_pump_and_so_do_the_jobs_behind_it(
    pipeline: ConfirmWindow, sent: list[int]
) -> None:
    released = False

    def messages() -> Iterator[Publication | None]:
        yield Publication("x", "k", (b"a",), "test")
        while not released:
            yield BLOCKED
        yield Publication("x", "k", (b"b",), "test")

    held = PublishBatch(messages())
    submit(pipeline, held, job(b"c"))
    pipeline.confirmed(1, False, True)
    pipeline.pump()
    assert sent == [1]
    assert not held.done.is_set()
    released = True
    pipeline.pump()
    assert sent == [1, 2, 3]
    pipeline.confirmed(2, False, True)
    assert held.done.is_set()
