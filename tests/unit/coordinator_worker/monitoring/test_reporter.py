"""What the coordinator says of what happens reaches those who listen in its process."""

from dataclasses import replace
from math import nan

import pytest

from coordinator_worker.monitoring.event_publisher import Events
from coordinator_worker.monitoring.events import (
    Event,
    LinkLost,
    RoundClosed,
    RoundTimed,
    UpdateFlooded,
)
from coordinator_worker.monitoring.reporter import RunReporter
from coordinator_worker.state.roster import StatusTotal
from coordinator_worker.state.round_record import ClientReport, RoundRecord
from warren_shared.amqp.publisher import Publication
from warren_shared.errors import Rejected
from warren_shared.observability.event_bus import EventBus, Timings


class Outbox:
    """Where events leave the process; the state that is left there is another test's."""

    STATE = ("event.state",)

    def __init__(self) -> None:
        self.topics: list[str] = []

    def post(self, message: Publication) -> None:
        if message.routing_key not in self.STATE:
            self.topics.append(message.routing_key)


class Ear:
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.closed = False

    def on_event(self, event: Event) -> None:
        self.heard.append(event)

    def close(self) -> None:
        self.closed = True


RECORD = RoundRecord(
    3, updates=2, norm=0.5, clients={}, bytes_up=80, seconds=1.5, time=1.7e9,
    participation={"in": StatusTotal(2, 1.0)},
)  # fmt: skip


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def event_bus() -> EventBus[Event]:
    return EventBus()


@pytest.fixture
def reporter(outbox: Outbox, event_bus: EventBus[Event]) -> RunReporter:
    events = Events(outbox, event_bus, federation="clinics")  # type: ignore[arg-type]
    return RunReporter(events, 2)


def test_listeners_hear_each_of_a_flood_and_everybody_only_the_first(
    reporter: RunReporter, outbox: Outbox, event_bus: EventBus[Event]
) -> None:
    ear = Ear()
    event_bus.subscribe([ear])
    for first in (True, False, False):
        reporter.flooded("alfa", Rejected("malformed", "rubbish"), first=first)
    assert outbox.topics == ["client.flooding.alfa"]
    flooded = [event for event in ear.heard if isinstance(event, UpdateFlooded)]
    assert flooded == [UpdateFlooded("alfa", "malformed")] * 3


def test_what_the_time_went_into_is_for_listeners_alone(
    reporter: RunReporter, outbox: Outbox, event_bus: EventBus[Event]
) -> None:
    ear, phases = Ear(), Timings()
    event_bus.subscribe([ear])
    reporter.closed("ab" * 4, RECORD, phases)
    reporter.link(LinkLost)
    assert outbox.topics == ["round.closed"]
    assert ear.heard == [RoundClosed("ab" * 4, RECORD), RoundTimed(3, phases), LinkLost()]
    event_bus.close()
    assert ear.closed


def test_phases_know_how_long_their_kind_took_together_and_leave_out_what_failed() -> None:
    phases = Timings()
    for number in range(3):
        with phases.measure("fold", client=f"c{number}"):
            pass
    assert phases.timing("aggregate", lambda a, b: a + b)(1, b=2) == 3
    with pytest.raises(OSError, match="full"), phases.measure("checkpoint"):
        raise OSError("full")
    assert [phase.name for phase in phases.done] == ["fold", "fold", "fold", "aggregate"]
    total = sum(phase.ended - phase.began for phase in phases.done[:3])
    assert phases.seconds("fold") == pytest.approx(total)
    assert phases.seconds("checkpoint") == 0


def test_a_metric_that_is_nan_and_one_that_is_gone_are_told_once_until_they_are_back(
    reporter: RunReporter, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    watched = {"eval_auc": "--monitor and --patience"}
    sound = replace(RECORD, metrics={"eval_auc": 0.5, "loss": 0.5})
    alfa = {"alfa": ClientReport(1, {"loss": nan})}
    broken = replace(RECORD, metrics={"eval_auc": 0.5, "loss": nan}, clients=alfa)
    gone = replace(RECORD, metrics={"loss": 0.5})
    for record in (sound, broken, broken, sound, gone, gone, sound, broken):
        reporter.judged(record, watched)
    topics = [topic for topic in outbox.topics if topic.startswith("round.")]
    assert topics == ["round.not-finite", "round.metric-missing", "round.not-finite"]
    said = [record.getMessage() for record in caplog.records]
    assert "loss is not a number" in said[0]
    assert "at alfa" in said[0]
    assert "--monitor and --patience waits for eval_auc" in said[1]


@pytest.mark.parametrize("name", ["name", "message", "version", "args", "time", "client", "self"])
def test_a_programs_figures_may_have_any_name(
    reporter: RunReporter, outbox: Outbox, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Such a name ended the evaluator's thread."""
    with caplog.at_level("INFO"):
        reporter.evaluated(3, {name: 0.5})
    assert f"{name} 0.5" in caplog.records[-1].getMessage()
    assert outbox.topics == ["model.evaluated"]
