"""Publishing with confirms, against a channel that records what was sent."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.pipeline import WINDOW_BYTES, Job, Pipeline, Publication, Unconfirmed

BIG = bytes(WINDOW_BYTES // 4)


def job(*bodies: bytes) -> Job:
    return Job([Publication("x", "k", body, "test") for body in bodies])


@pytest.fixture
def sent() -> list[int]:
    return []


@pytest.fixture
def pipeline(sent: list[int]) -> Pipeline:
    return Pipeline(lambda number, _message: sent.append(number))


def submit(pipeline: Pipeline, *jobs: Job) -> None:
    for each in jobs:
        pipeline.append(each)
    pipeline.pump()


def test_a_job_is_done_when_its_last_message_is_confirmed(
    pipeline: Pipeline, sent: list[int]
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


def test_one_confirm_may_stand_for_many(pipeline: Pipeline) -> None:
    first, second = job(b"a", b"b"), job(b"c")
    submit(pipeline, first, second)
    pipeline.confirmed(2, True, True)
    assert first.done.is_set()
    assert not second.done.is_set()


def test_a_full_queue_fails_the_job_for_another_try(pipeline: Pipeline) -> None:
    mine = job(b"a", b"b")
    submit(pipeline, mine)
    pipeline.confirmed(1, False, False)
    assert isinstance(mine.error, Unconfirmed)


def test_a_returned_message_fails_the_job_although_it_is_confirmed(pipeline: Pipeline) -> None:
    mine = job(b"a")
    submit(pipeline, mine)
    pipeline.returned(1, ValueError("no queue"))
    pipeline.confirmed(1, False, True)
    assert isinstance(mine.error, ValueError)


def test_a_lost_link_fails_what_had_begun_and_keeps_the_rest(
    pipeline: Pipeline, sent: list[int]
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


def test_a_job_without_messages_is_done_when_its_turn_comes(pipeline: Pipeline) -> None:
    empty = job()
    submit(pipeline, empty)
    assert empty.done.is_set()


class Confirms(RuleBasedStateMachine):
    """Whatever the broker does, each job ends right: done if and only if all was confirmed."""

    def __init__(self) -> None:
        super().__init__()
        self.pipeline = Pipeline(self._send)
        self.open: dict[int, bytes] = {}
        self.jobs: list[tuple[Job, int]] = []
        self.accepted: dict[int, int] = {}
        self.owner: dict[int, int] = {}

    def _send(self, number: int, message: Publication) -> None:
        self.open[number] = message.body
        self.owner[number] = int(message.exchange)

    @rule(sizes=st.lists(st.sampled_from([1, 1000, len(BIG)]), max_size=7))
    def submit(self, sizes: list[int]) -> None:
        number = len(self.jobs)
        made = Job([Publication(str(number), "k", bytes(size), "test") for size in sizes])
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
