"""The board: what the events so far say."""

import io
import time
from typing import Any

import pytest
from rich.console import Console

from coordinator_worker.monitoring.events import Stamped
from coordinator_worker.terminal import event_lines
from coordinator_worker.terminal.view import TerminalView


def accepted(client: str, have: int = 1, *, made: int = 4, **metrics: float) -> dict[str, Any]:
    return {
        "event": f"update.accepted.{client}", "client": client, "version": made - 1,
        "base_version": 3, "examples": 40, "bytes": 1000, "norm": 0.5, "metrics": metrics,
        "quorum": [have, 2], "time": time.time(),
    }  # fmt: skip


def published(version: int, topic: str = "model.published") -> dict[str, Any]:
    return {"event": topic, "run": "", "version": version, "bytes": 1000, "quorum": [0, 2]}


CLOSED = {
    "event": "round.closed", "version": 4, "updates": 2, "bytes_up": 2000, "seconds": 3.0,
    "metrics": {"loss": 0.25},
}  # fmt: skip
REJECTED = {
    "event": "update.rejected.alfa", "client": "alfa", "reason": "stale", "detail": "five late",
}  # fmt: skip


def apply(board: TerminalView, event: dict[str, Any]) -> None:
    board.apply(Stamped.from_dict(event))


def line(event: dict[str, Any]) -> str | None:
    return event_lines.line(Stamped.from_dict(event))


def drawn(board: TerminalView, width: int = 120, height: int | None = None) -> str:
    page = io.StringIO()
    console = Console(width=width, height=height, file=page, force_terminal=height is not None,
                      color_system=None)  # fmt: skip
    console.print(board)
    return page.getvalue()


@pytest.fixture
def board() -> TerminalView:
    return TerminalView("clinics")


def test_a_board_without_events_can_be_drawn(board: TerminalView) -> None:
    assert "clinics" in drawn(board)
    assert "0 of 1" in drawn(board)


def test_a_round_is_counted_when_it_closes(board: TerminalView) -> None:
    for event in (
        accepted("alfa", 1, loss=0.5), accepted("bravo", 2, loss=0.0), CLOSED, published(4),
    ):  # fmt: skip
        apply(board, event)
    federation_view = board.view
    assert (len(federation_view.rounds), federation_view.updates, federation_view.version) == (
        1,
        2,
        4,
    )
    assert (federation_view.bytes_up, federation_view.bytes_down) == (2000, 2000)
    assert not board.finished.is_set()
    text = drawn(board)
    for words in ("version 4", "0 of 2", "up 2.0 kB, down 2.0 kB", "0.5000", "0.2500", "bravo"):
        assert words in text
    assert "last round 3.0 s" in text


def test_the_quorum_grows_with_each_update(board: TerminalView) -> None:
    apply(board, accepted("alfa", 1))
    assert "1 of 2" in drawn(board)
    assert "━" in drawn(board)


def test_a_client_that_joined_has_its_line_before_it_contributes(board: TerminalView) -> None:
    apply(board, {"event": "client.joined", "client": "charlie"})
    assert "charlie" in drawn(board)
    apply(board, published(1))
    assert board.view.bytes_down == 1000


def test_a_rejected_update_is_not_a_contribution_and_its_reason_is_shown(
    board: TerminalView,
) -> None:
    apply(board, REJECTED)
    federation_view = board.view
    assert (len(federation_view.rounds), federation_view.updates, federation_view.bytes_up) == (
        0,
        0,
        0,
    )
    assert "rejected 1: 1 stale" in drawn(board)
    assert "alfa" in drawn(board)
    assert "five late" in drawn(board)


def test_the_last_model_finishes_the_federation(board: TerminalView) -> None:
    apply(board, published(9, "federation.finished"))
    assert board.finished.is_set()
    assert "version 9" in drawn(board)


def test_a_coordinator_that_waits_for_its_disk_is_shown_until_it_goes_on(
    board: TerminalView,
) -> None:
    apply(board, {"event": "coordinator.stalled", "detail": "No space left on device"})
    assert "the coordinator waits: No space left" in drawn(board)
    apply(board, {"event": "coordinator.recovered"})
    assert "waits" not in drawn(board)


def test_an_event_that_it_does_not_know_changes_nothing(board: TerminalView) -> None:
    before = drawn(board)
    apply(board, {})
    apply(board, {"event": "weather.changed"})
    assert drawn(board) == before


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal_and_what_matters_is_never_cut(
    board: TerminalView, width: int
) -> None:
    for number in range(5):
        name = f"university-hospital-{number}"
        apply(board, accepted(name, 1, **{f"a_rather_long_metric_{m}": 0.123 for m in range(9)}))
    apply(board, CLOSED)
    text = drawn(board, width)
    assert max(map(len, text.splitlines())) <= width
    (heading,) = [line for line in text.splitlines() if line.startswith("client ")]
    for column in ("status", "behind", "stale", "missed", "data", "size", "norm", "seen"):
        assert column in heading
    assert "university-hospital-3" in text
    assert "…" not in text


@pytest.mark.parametrize("height", [24, 40])
def test_a_thousand_clients_fit_the_terminal_and_the_one_that_is_away_is_shown(
    board: TerminalView, height: int
) -> None:
    names = [f"phone.{number}" for number in range(1000)]
    for name in (*names, "zulu"):
        apply(board, accepted(name, made=1))
    for version in range(2, 5):
        for name in names:
            apply(board, accepted(name, made=version))
        apply(board, CLOSED | {"version": version})
    text = drawn(board, 80, height)
    assert len(text.splitlines()) <= height
    (zulu,) = [line for line in text.splitlines() if line.startswith("zulu")]
    assert "late" in zulu
    shown = sum(line.startswith("phone.") for line in text.splitlines())
    assert shown > height / 2
    assert f"and {1000 - shown} more: {1000 - shown} in" in text


def test_names_cannot_act_on_the_terminal(board: TerminalView) -> None:
    apply(board, accepted("\x1b[2Jalfa", **{"loss\x1b]0;owned\x07": 1.0}))
    apply(board, REJECTED | {"client": "\x1b[31m", "detail": "[link=x]\x1b[0m"})
    text = drawn(board)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[link=x]" in text


def test_a_line_for_each_event_that_is_worth_one() -> None:
    told = CLOSED | {"time": 0.0, "participation": {"late": {"clients": 3, "data_share": 0.5}}}
    said = line(told)
    assert said is not None
    assert said.endswith("round 4: 2 updates in 3.0 s, 2.0 kB, loss 0.2500, 3 clients late")
    assert line(accepted("alfa")) is None
    assert line({}) is None
    escaped = line(REJECTED | {"detail": "\x1b[2J", "time": 0.0})
    assert escaped is not None
    assert "\x1b" not in escaped
