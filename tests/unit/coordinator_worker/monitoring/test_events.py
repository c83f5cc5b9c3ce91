"""Events on the wire: the same bytes as ever; what another version says is read or passed over."""

import json
from math import inf, isnan, nan
from typing import Any

import pytest

from coordinator_worker.monitoring import events
from coordinator_worker.monitoring.events import NOTHING, POSTED, Stamped
from tests.support.processes import ROOT
from warren_shared import strict_json

LINES = (ROOT / "tests" / "golden" / "federation" / "events.jsonl").read_text().splitlines()
ACCEPTED = {
    "event": "update.accepted.alfa", "time": 5.0, "number": 3, "federation": "f", "client": "alfa",
    "base_version": 4, "examples": 10, "metrics": {"loss": None}, "quorum": [1, 2],
}  # fmt: skip

LATER = {events.ClientsEnrolled}  # than the golden files
ENROLLED = (
    '{"event": "client.enrolled", "time": 5.0, "number": 3, "federation": "f",'
    ' "names": ["alfa", "phone"]}'
)


@pytest.mark.parametrize("line", [*LINES, ENROLLED])
def test_an_event_is_written_as_it_was_read(line: str) -> None:
    assert strict_json.dumps(Stamped.from_dict(json.loads(line)).to_dict()) == line


def test_the_golden_events_are_of_every_kind() -> None:
    kinds = {type(Stamped.from_dict(json.loads(line)).event) for line in LINES}
    assert kinds == set(POSTED.values()) - LATER


def test_an_older_coordinators_update_is_read_without_what_it_did_not_say() -> None:
    event = Stamped.from_dict(ACCEPTED).event
    assert isinstance(event, events.UpdateAccepted)
    assert (event.version, event.staleness, event.size_bytes) == (None, None, 0)
    assert isnan(event.metrics["loss"])
    assert event.routing_key == "update.accepted.alfa"


def test_a_field_of_a_newer_coordinator_is_passed_over() -> None:
    newer = Stamped.from_dict(ACCEPTED | {"carbon_g": 0.5})
    assert strict_json.dumps(newer.to_dict()) == strict_json.dumps(
        Stamped.from_dict(ACCEPTED).to_dict()
    )


@pytest.mark.parametrize(
    "odd",
    [
        {"event": "weather.changed"}, {"event": None}, {"metrics": 3}, {"quorum": [1]},
        {"examples": "ten"}, {"event": "round.closed"}, {"event": "round.closed", "format": 2},
    ],
)  # fmt: skip
def test_what_is_unknown_or_rubbish_is_no_event_but_has_a_number(odd: dict[str, Any]) -> None:
    found = Stamped.from_dict(ACCEPTED | odd)
    assert (found.event, found.number, found.time) == (None, 3, 5.0)
    with pytest.raises(ValueError, match="cannot be written"):
        found.to_dict()


def test_an_event_that_cannot_be_read_is_told(caplog: pytest.LogCaptureFixture) -> None:
    Stamped.from_dict(ACCEPTED | {"event": "weather.changed"})
    assert not caplog.records, "it is another version's"
    Stamped.from_dict(ACCEPTED | {"quorum": None})
    (record,) = caplog.records
    assert "update.accepted.alfa" in record.getMessage()


def test_rubbish_is_nothing() -> None:
    assert Stamped.from_dict({}) == NOTHING
    assert Stamped.from_dict({"time": "noon", "number": None, "event": {}}) == NOTHING
    for number in (nan, inf, [], "one"):
        assert Stamped.from_dict({"time": 1.0, "number": number}) == NOTHING
