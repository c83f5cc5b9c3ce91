"""The picture: what is known of a federation from its events."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator_worker.monitoring.client_view import WINDOW, Row
from coordinator_worker.monitoring.events import Stamped
from coordinator_worker.monitoring.federation_view import MAX_METRICS, MAX_REJECTED, FederationView
from coordinator_worker.state.roster import Member
from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.state.training_state import State
from coordinator_worker.text.formatting import duration, figure, plain, size, sparkline
from warren_shared.tensors.layout import Weights


def accepted(client: str, made: int, late: int = 0, examples: int = 10) -> dict[str, Any]:
    return {
        "event": f"update.accepted.{client}", "client": client, "version": made - 1,
        "base_version": made - 1 - late, "staleness": late, "examples": examples, "bytes": 100,
        "norm": 0.5, "metrics": {"loss": 1.0}, "quorum": [1, 2], "time": 1000.0 + made,
    }  # fmt: skip


def closed(version: int, run: str = "aa", **more: Any) -> dict[str, Any]:
    return {
        "event": "round.closed", "run": run, "version": version, "updates": 1, "bytes_up": 100,
        "metrics": {"loss": 1 / version}, "seconds": 1.0, "time": 1000.5 + version, **more,
    }  # fmt: skip


def published(version: int, run: str = "aa") -> dict[str, Any]:
    return {
        "event": "model.published", "run": run, "version": version, "bytes": 100, "quorum": [0, 2],
        "time": 1000.6 + version,
    }  # fmt: skip


def rejected(client: str, reason: str = "stale") -> dict[str, Any]:
    return {
        "event": f"update.rejected.{client}", "client": client, "reason": reason, "detail": "…",
        "time": 1.0,
    }  # fmt: skip


def apply(view: FederationView, event: dict[str, Any]) -> None:
    view.apply(Stamped.from_dict(event))


def picture_of(*events: dict[str, Any]) -> FederationView:
    view = FederationView()
    for event in events:
        apply(view, event)
    return view


def row(view: FederationView, client: str) -> Row:
    (found,) = [row for row in view.rows() if row.name == client]
    return found


def test_a_client_is_as_late_as_the_rounds_that_it_was_not_in() -> None:
    view = picture_of(published(0), accepted("alfa", 1), accepted("bravo", 1), closed(1))
    for version in (2, 3, 4):
        for event in (accepted("alfa", version), closed(version), published(version)):
            apply(view, event)
    assert (row(view, "alfa").status, row(view, "alfa").behind) == ("in", 0)
    bravo = row(view, "bravo")
    assert (bravo.status, bravo.behind, bravo.missed) == ("late", 3, 3)
    assert bravo.client.strip(4) == "0..."
    assert [row.name for row in view.rows()] == ["bravo", "alfa"]


def test_what_a_client_missed_before_it_came_is_not_held_against_it() -> None:
    view = picture_of(
        published(0), closed(1), closed(2), {"event": "client.joined", "client": "late"},
        accepted("late", 3), closed(3), closed(4),
    )  # fmt: skip
    assert row(view, "late").missed == 1


def test_staleness_is_counted_once_for_each_round_a_client_is_in() -> None:
    events = accepted("alfa", 3, late=2), accepted("alfa", 3, late=2), accepted("bravo", 3)
    assert picture_of(published(2), *events).staleness == {2: 1, 0: 1}


def test_the_share_of_data_is_that_of_all_examples() -> None:
    view = picture_of(accepted("alfa", 1, examples=30), accepted("bravo", 1, examples=10))
    assert row(view, "alfa").share == 0.75


def test_a_refused_update_is_marked_and_a_stranger_gets_no_line() -> None:
    view = picture_of(published(0), accepted("alfa", 1), closed(1), rejected("alfa"))
    apply(view, rejected("nobody"))
    apply(view, closed(2))
    assert row(view, "alfa").client.strip(2) == "0x"
    assert row(view, "alfa").missed == 1
    assert len(view.rows()) == 1
    assert view.reasons == {"stale": 2}


def enrolled(*names: str) -> dict[str, Any]:
    return {"event": "client.enrolled", "names": list(names), "time": 1.0}


def test_who_is_enrolled_and_never_came_has_a_line_until_it_comes() -> None:
    view = picture_of(published(0), enrolled("alfa", "bravo", "phone"), accepted("alfa", 1))
    apply(view, closed(1))
    assert [(row.name, row.status, row.behind) for row in view.rows()] == [
        ("bravo", "unseen", 1), ("phone", "unseen", 1), ("alfa", "in", 0)
    ]  # fmt: skip
    assert [one.client for one in view.waiting()] == ["alfa"], "nobody waits for who never came"
    read = FederationView.of(json.loads(json.dumps(view.as_dict())))
    assert read.as_dict() == view.as_dict()
    assert set(read.clients) == {"alfa"}
    apply(view, {"event": "client.joined", "client": "phone.7"})
    apply(view, accepted("bravo", 2))
    assert [row.name for row in view.rows() if row.status == "unseen"] == []
    apply(view, enrolled("alfa"))
    assert {row.name for row in view.rows()} == {"alfa", "bravo", "phone.7"}, "they were here"


def test_an_enrolled_client_of_which_all_is_rejected_comes_first() -> None:
    view = picture_of(published(0), enrolled("alfa", "phone"), accepted("alfa", 1), closed(1))
    for _ in range(20):
        apply(view, rejected("phone.7", "norm") | {"enrolled": True})
    first = view.rows()[0]
    assert (first.name, first.status, first.client.rejected) == ("phone.7", "rejected", 20)
    assert {row.name for row in view.rows()} == {"alfa", "phone.7"}, "of the fleet one was here"
    assert [one.why for one in view.waiting()] == ["rejected: norm: …", ""]


def test_a_round_has_how_far_single_sites_are_apart() -> None:
    found = {
        name: {"clients": 2, "low": 0.12345678, "low_client": "alfa", "high": 2.0,
               "high_client": "bravo"}
        for name in ("loss", "not-a-metric-of-the-round")
    }  # fmt: skip
    view = picture_of(published(0), closed(1, sites=found))
    assert view.rounds[-1]["sites"] == {"loss": [0.123457, "alfa", 2.0, "bravo"]}
    read = FederationView.of(json.loads(json.dumps(view.as_dict())))
    assert read.as_dict() == view.as_dict()


def test_another_run_begins_anew_and_keeps_the_clients() -> None:
    view = picture_of(published(0), accepted("alfa", 1), closed(1), rejected("alfa"))
    apply(view, published(0, run="bb"))
    assert (view.run, view.version, len(view.rounds)) == ("bb", 0, 0)
    assert (view.reasons, view.staleness) == ({}, {})
    assert row(view, "alfa").status == "silent"


def test_troubles_go_when_what_caused_them_has() -> None:
    view = picture_of(
        published(0),
        {"event": "round.overdue", "version": 1, "quorum": [1, 2]},
        {"event": "client.flooding.alfa", "client": "alfa", "reason": "norm"},
        {"event": "round.diverged", "version": 1, "detail": "infinite"},
    )
    assert set(view.trouble) == {"overdue", "flood", "diverged"}
    apply(view, closed(1, diverged="infinite", rejected={"malformed": 3}))
    assert set(view.trouble) == {"flood", "diverged"}
    apply(view, closed(2, rejected={}))
    assert view.trouble == {}


def test_what_is_evaluated_beside_belongs_to_its_version() -> None:
    view = picture_of(closed(1), closed(2))
    apply(view, {"event": "model.evaluated", "version": 1, "metrics": {"auc": 0.9}})
    assert view.rounds[0]["metrics"]["evaluate: auc"] == 0.9
    assert "evaluate: auc" in view.metrics


def test_nobody_can_make_it_grow_without_bound() -> None:
    view = FederationView()
    for number in range(3 * MAX_REJECTED):
        apply(view, rejected("alfa") | {"detail": "x" * 100_000})
        apply(view, accepted("alfa", number) | {"metrics": {f"{number}": 1.0, "y" * 9000: 1.0}})
        apply(view, closed(number + 1))
    assert len(view.rejected) == MAX_REJECTED
    assert len(view.metrics) == MAX_METRICS
    assert len(view.clients["alfa"].rounds) == WINDOW + 1
    assert len(json.dumps(view.as_dict())) < 60_000


def test_names_that_one_client_makes_up_give_way_to_those_of_the_rounds() -> None:
    view = FederationView()
    apply(view, accepted("alfa", 0) | {"metrics": {f"junk{n}": 1.0 for n in range(64)}})
    assert len(view.metrics) == MAX_METRICS
    apply(view, closed(1) | {"metrics": {"loss": 0.5, "auc": 0.7, "junk0": 1.0}})
    assert {"loss", "auc"} <= view.metrics.keys()
    assert view.rounds[-1]["metrics"] == {"loss": 0.5, "auc": 0.7, "junk0": 1.0}
    assert len(view.metrics) <= MAX_METRICS


def test_a_picture_that_was_a_message_is_the_same_and_goes_on_alike() -> None:
    view = picture_of(
        published(0), accepted("alfa", 1, late=0), closed(1), published(1), rejected("alfa"),
        accepted("bravo", 2, late=1), {"event": "model.best", "version": 1, "value": 0.5},
    )  # fmt: skip
    again = FederationView.of(json.loads(json.dumps(view.as_dict())))
    for both in (view, again):
        assert both.as_dict()["clients"][1]["now"] == 1
    assert json.dumps(again.as_dict()) == json.dumps(view.as_dict())
    for event in (closed(2), published(2), accepted("alfa", 3)):
        apply(view, event)
        apply(again, event)
    assert json.dumps(again.as_dict()) == json.dumps(view.as_dict())


def test_a_picture_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format 7"):
        FederationView.of(FederationView().as_dict() | {"format": 7})


def test_it_begins_with_what_the_checkpoint_knows() -> None:
    members = {"alfa": Member(1.0, 2.0, 7, 5, 100), "bravo": Member(1.0, 2.0, 6, 4, 300)}
    history = tuple(RoundRecord(v, updates=1, clients={}) for v in range(1, 8))
    weights = Weights.of([np.zeros(3, np.float32)])
    view = FederationView()
    view.resume(State("clinics", "aa", 7, weights, {}, history, members))
    assert (view.federation, view.version, len(view.rounds)) == ("clinics", 7, 7)
    bravo = row(view, "bravo")
    assert (bravo.status, bravo.behind, bravo.share, bravo.missed) == ("late", 1, 0.75, 0)


def test_what_a_restarted_coordinator_does_not_know_is_taken_over_from_before() -> None:
    before = picture_of(published(0), accepted("alfa", 1), closed(1), closed(2))
    after = picture_of(published(2), accepted("alfa", 3), closed(3))
    after.succeeds(before)
    assert row(after, "alfa").client.strip(3) == "0.0"
    assert row(after, "alfa").missed == 1
    other = picture_of(published(2, run="bb"), accepted("alfa", 3))
    other.succeeds(before)
    assert row(other, "alfa").client.rounds == {3: 0}


@given(st.lists(st.floats(-1e9, 1e9), max_size=200), st.integers(1, 30))
def test_a_sparkline_has_a_bar_for_each_value_or_for_some(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) == min(len(values), width)


def test_a_sparkline_rises_with_its_values() -> None:
    assert sparkline([0.0, 1.0], 9) == "▁█"
    assert sparkline([float(n) for n in range(80)], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([5.0, 5.0], 8) == "▁▁"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_230_000, "1.2 MB"), (4e15, "4000.0 TB")],
)
def test_sizes_are_for_people(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.31, "0.3 s"), (59, "59 s"), (300, "5 min"), (10_000, "3 h"), (200_000, "2 d")],
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0, "0.0000"), (0.91234, "0.9123"), (1e-9, "1.00e-09")]
)
def test_figures_have_as_many_digits_as_one_reads(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_foreign_words_cannot_steer_a_terminal() -> None:
    assert plain("a\x1b[2J\n") == "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("values", [[0.0, 1e-308], [0.0, -5e-324], [-1.7e308, 1.7e308]])
def test_a_sparkline_of_the_smallest_and_the_largest_differences(values: list[float]) -> None:
    assert sorted(sparkline(values, 2)) == sorted(sparkline([0.0, 1.0], 2))
