"""What the user's code raises is told, tried again, and ends the client at last; others go on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client_worker import Task
from client_worker.runtime.mailbox import ModelCache
from client_worker.runtime.participant import Participant
from client_worker.settings import ClientSettings
from client_worker.tasks.failures import PAUSES_S, UserCodeError, reason_of, user_code
from client_worker.tasks.task import TaskSource
from tests.support.bodies import bodies_of, encode
from warren_shared.amqp.delivery import Delivery
from warren_shared.errors import ConfigError, TaskFailed
from warren_shared.observability.event_bus import EventBus
from warren_shared.protocol.codec import decode, tensor_entries
from warren_shared.protocol.messages import MAX_REASON, Failed, ModelManifest, Notice
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.layout import Layout, Weights

RUN = "ab" * 4
CALLS: list[str] = []
FAILING: list[Exception] = []


class Model:
    """Fails as often as FAILING says."""

    def __init__(self) -> None:
        CALLS.append("made")
        self.weights = [np.zeros(2)]

    def get_weights(self) -> list[np.ndarray]:
        return self.weights

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.weights = [np.array(array) for array in weights]

    def fit(self, data: Any, learning_rate: float) -> dict[str, float]:
        CALLS.append("fit")
        if FAILING:
            raise FAILING.pop(0)
        self.weights = [array + 1 for array in self.weights]
        return {}


def task() -> Task:
    return Task(Model(), np.zeros(3), 0.1)


class WorkerContext:
    """A process without a broker: what is published is kept, and time passes when it is told."""

    def __init__(self) -> None:
        self.shelf, self.keep, self.event_bus = ModelCache(), None, EventBus()
        self.published: list[tuple[str, Any]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.one = Participant(
            ClientSettings(task="x:y", federation="f", broker_url="amqp://alfa@localhost/f"),
            TaskSource("tests.unit.client_worker.tasks.test_failures:task", []),
            self,
        )

    def publish(self, bodies: Any, kind: str) -> None:
        body = next(iter(bodies))
        self.published.append((kind, decode(memoryview(b"".join(body)))[0]))

    def wake(self, participant: Participant) -> None: ...

    def expect(self, layout: Layout) -> None:
        self.one.mailbox.expect(layout)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.later.append((seconds, call))

    def deliver(self, *bodies: bytes) -> None:
        for tag, body in enumerate(bodies, start=1):
            delivery = Delivery(memoryview(body), tag, 1, "coordinator", redelivered=False)
            self.one.mailbox.deliver(delivery)
        self.one.process_mailbox()

    def model(self, version: int) -> None:
        weights = Weights.of([np.zeros(2)])
        manifest = ModelManifest(
            federation="f", run=RUN, version=version, tensors=tensor_entries(weights.layout),
            **transfer_fields(weights.buffer),
        )  # fmt: skip
        self.deliver(*bodies_of(Outgoing(manifest, weights.buffer)))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.published]


@pytest.fixture
def context() -> WorkerContext:
    CALLS.clear()
    FAILING.clear()
    made = WorkerContext()
    made.one.prepare()
    made.one.lease("alfa")
    made.one.process_mailbox()
    return made


def test_a_failure_is_told_with_its_traceback_and_tried_again_after_a_pause(
    context: WorkerContext, caplog: pytest.LogCaptureFixture
) -> None:
    FAILING.append(KeyError("age"))
    context.model(1)
    assert context.kinds() == ["join", "failed"]
    failed = context.published[-1][1]
    assert isinstance(failed, Failed)
    assert (failed.client, failed.version, failed.ends) == ("alfa", 1, False)
    assert failed.reason.startswith("KeyError: 'age' (test_failures.py:")
    line = next(record for record in caplog.records if vars(record)["action"] == "task_failed")
    assert line.exc_info is not None
    assert line.getMessage().startswith("KeyError: 'age'")

    context.model(2)  # comes during the pause, and is not burnt
    assert CALLS.count("fit") == 1
    [(pause, over)] = context.later
    assert pause == PAUSES_S[0]
    over()
    context.one.process_mailbox()
    assert context.kinds()[2:] == ["join", "update"]
    assert context.published[-1][1].base_version == 2


def test_after_the_last_attempt_the_client_ends_and_says_so(context: WorkerContext) -> None:
    FAILING.extend(ValueError(f"no {number}") for number in range(9))
    context.model(1)
    for version in range(2, len(PAUSES_S) + 2):
        context.later[-1][1]()
        if version == len(PAUSES_S) + 1:
            with pytest.raises(TaskFailed, match=r"failed 4 times: ValueError: no 3"):
                context.model(version)
        else:
            context.model(version)
    told = [message for kind, message in context.published if kind == "failed"]
    assert [message.ends for message in told] == [False, False, False, True]
    assert [seconds for seconds, _ in context.later] == list(PAUSES_S)
    assert sorted(PAUSES_S) == list(PAUSES_S)
    assert TaskFailed.exit_code != 0


def test_an_attempt_that_succeeds_is_a_new_beginning(context: WorkerContext) -> None:
    for version in range(1, 8):
        FAILING.append(OSError("busy"))
        context.model(2 * version)
        context.later[-1][1]()
        context.model(2 * version + 1)
    assert context.kinds().count("update") == 7
    assert {seconds for seconds, _ in context.later} == {PAUSES_S[0]}


def test_what_cannot_get_better_is_told_and_not_tried_again(context: WorkerContext) -> None:
    FAILING.append(ConfigError("give the task\n another optimizer"))
    with pytest.raises(ConfigError):
        context.model(1)
    failed = context.published[-1][1]
    assert (failed.reason, failed.ends) == ("give the task another optimizer", True)
    assert not context.later


def test_a_client_that_was_there_before_the_coordinator_makes_its_task_once(
    context: WorkerContext,
) -> None:
    context.deliver(encode(Notice(notice="join")))
    for _ in range(2):
        context.deliver(encode(Notice(notice="send-initial")))
    context.model(0)
    assert context.kinds() == ["join", "join", "initial", "initial", "update"]
    assert CALLS == ["made", "fit"]


def test_weights_that_have_been_trained_are_no_initial_model(context: WorkerContext) -> None:
    context.model(0)
    context.deliver(encode(Notice(notice="send-initial")))
    assert CALLS == ["made", "fit", "made"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a\nb\x1b[31m\u202e\udcfc" + "x" * 5000),
        RuntimeError(),
        KeyError("\x00"),
        OSError(28, "No space left on device", "/data/patients.csv"),
        type("Long" * 100, (Exception,), {})("y" * 300),
    ],
)
def test_a_reason_is_one_printable_line_that_a_message_holds(error: Exception) -> None:
    with pytest.raises(UserCodeError) as raised, user_code():
        raise error
    reason = raised.value.reason
    assert reason == reason_of(error)
    assert reason.isprintable()
    assert 0 < len(reason) <= MAX_REASON
    encode(Failed(federation="f", client="alfa", reason=reason))


def test_our_own_errors_are_not_the_users_codes() -> None:
    with pytest.raises(ConfigError), user_code():
        raise ConfigError("give num_examples")
