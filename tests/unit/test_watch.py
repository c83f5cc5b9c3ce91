"""The board: what the events so far say."""

import io
from typing import Any

import pytest
from rich.console import Console

from coordinator_worker.watch import Board, size


def accepted(client: str, have: int = 1, **metrics: float) -> dict[str, Any]:
    return {
        "event": f"update.accepted.{client}", "client": client, "base_version": 3, "examples": 40,
        "metrics": metrics, "quorum": [have, 2],
    }  # fmt: skip


def published(version: int, topic: str = "model.published") -> dict[str, Any]:
    return {"event": topic, "version": version, "bytes": 1000, "quorum": [0, 2]}


CLOSED = {"event": "round.closed", "updates": 2, "bytes_up": 2000, "metrics": {"loss": 0.25}}


def drawn(board: Board) -> str:
    page = io.StringIO()
    Console(width=120, file=page).print(board)
    return page.getvalue()


@pytest.fixture
def board() -> Board:
    return Board("clinics")


def test_a_board_without_events_can_be_drawn(board: Board) -> None:
    assert "clinics" in drawn(board)
    assert "0 of 1" in drawn(board)


def test_a_round_is_counted_when_it_closes(board: Board) -> None:
    for event in (
        accepted("alfa", 1, loss=0.5), accepted("bravo", 2, loss=0.0), CLOSED, published(4),
    ):  # fmt: skip
        board.feed(event)
    assert (board.rounds, board.updates_folded, board.version) == (1, 2, 4)
    assert (board.bytes_up, board.bytes_down) == (2000, 2000)
    assert not board.finished.is_set()
    text = drawn(board)
    for words in ("version 4", "0 of 2", "up 2.0 kB, down 2.0 kB", "0.5000", "0.2500", "bravo"):
        assert words in text


def test_the_quorum_grows_with_each_update(board: Board) -> None:
    board.feed(accepted("alfa", 1))
    assert "1 of 2" in drawn(board)


def test_a_client_that_joined_has_its_line_before_it_contributes(board: Board) -> None:
    board.feed({"event": "client.joined", "client": "charlie"})
    assert "charlie" in drawn(board)
    board.feed(published(1))
    assert board.bytes_down == 1000


def test_a_rejected_update_is_not_a_contribution(board: Board) -> None:
    board.feed({"event": "update.rejected.alfa", "client": "alfa", "reason": "stale"})
    assert (board.rounds, board.updates_folded, board.bytes_up) == (0, 0, 0)
    assert "alfa" in drawn(board)


def test_the_last_model_finishes_the_federation(board: Board) -> None:
    board.feed(published(9, "federation.finished"))
    assert board.finished.is_set()
    assert board.version == 9


def test_a_coordinator_that_waits_for_its_disk_is_shown_until_it_goes_on(board: Board) -> None:
    board.feed({"event": "coordinator.stalled", "detail": "No space left on device"})
    assert "the coordinator waits: No space left" in drawn(board)
    board.feed({"event": "coordinator.recovered"})
    assert "waits" not in drawn(board)


def test_an_event_that_it_does_not_know_changes_nothing(board: Board) -> None:
    before = drawn(board)
    board.feed({})
    board.feed({"event": "weather.changed"})
    assert drawn(board) == before


def test_more_metrics_than_fit_are_left_out(board: Board) -> None:
    board.feed(accepted("alfa", **{f"m{n}": 1.0 for n in range(9)}))
    text = drawn(board)
    assert "m3" in text
    assert "m4" not in text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_230_000, "1.2 MB"), (4e15, "4000.0 TB")],
)
def test_sizes_are_for_people(count: float, text: str) -> None:
    assert size(count) == text
