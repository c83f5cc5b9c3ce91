"""Rejected messages as an operator, or a program, reads them."""

import io
import json
from datetime import UTC, datetime

import pytest
from rich.console import Console

from coordinator_worker.terminal.rejected import Rejection, Summary, read
from coordinator_worker.text.formatting import plain
from tests.support.bodies import encode
from warren_shared.amqp.queue_browser import QueuedMessage
from warren_shared.protocol.messages import Join

JOIN = encode(Join(federation="clinics", client="alfa"))
OURS = {
    "reason": "stale",
    "detail": "based on version 3, version 9 is the newest",
    "client": "alfa",
}
NOON = 1_795_435_200  # 2026-11-23 12:00:00 UTC
LONG = "header field metrics.loss: Input should be a finite number, and here is why that matters"


def rejection(reason: str = "stale", client: str = "hospital-a", time: float = NOON) -> Rejection:
    return Rejection(time, client, reason, LONG, "update", 1_048_700)


def drawn(summary: Summary, width: int) -> list[str]:
    page = io.StringIO()
    Console(width=width, file=page, highlight=False).print(summary.table())
    return page.getvalue().splitlines()


def test_the_coordinators_letter_says_who_and_why() -> None:
    found = read(QueuedMessage(JOIN, OURS, "coordinator", NOON))
    assert found == Rejection(NOON, "alfa", "stale", OURS["detail"], "join", len(JOIN))


def test_a_letter_of_the_broker_is_its_senders_whatever_the_sender_wrote_on_it() -> None:
    death = {
        "reason": "delivery_limit",
        "queue": "update",
        "time": datetime.fromtimestamp(NOON, UTC),
    }
    forged = {"reason": "none", "client": "bravo", "x-death": [death]}
    found = read(QueuedMessage(b"\xc1", forged, "alfa", 7))
    assert (found.client, found.reason, found.time) == ("alfa", "delivery_limit", NOON)
    assert found.detail == "given up by the broker in queue update"


@pytest.mark.parametrize("body", [b"", b"\xc1", b"rubbish", b"\x81\xa4kind\x07"])
@pytest.mark.parametrize("headers", [{}, {"x-death": 7}, {"x-death": []}, {"reason": ["stale"]}])
def test_a_letter_that_says_nothing_is_listed_all_the_same(
    body: bytes, headers: dict[str, object]
) -> None:
    summary = Summary.of([read(QueuedMessage(body, headers, None, 1 << 63))], None)
    assert len(drawn(summary, 80)) == 2
    assert summary.total().startswith("1 rejected: 1 ")


def test_the_newest_are_listed_first_and_all_are_counted() -> None:
    reasons = ["stale", "identity", "stale", "malformed", "stale"]
    rejections = [rejection(reason, f"c{n}") for n, reason in enumerate(reasons)]
    summary = Summary.of(iter(rejections), 2)
    assert [each.client for each in summary.newest] == ["c4", "c3"]
    assert summary.total() == (
        "5 rejected: 3 stale, 1 identity, 1 malformed (3 older ones not shown: --limit)"
    )
    assert Summary.of(rejections, None).total() == "5 rejected: 3 stale, 1 identity, 1 malformed"


def test_reasons_without_end_do_not_make_a_line_without_end() -> None:
    summary = Summary.of([rejection(f"r{n}") for n in range(100)], 1)
    assert "92 for other reasons" in summary.total()


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_fits_its_terminal_and_leaves_out_no_reason(width: int) -> None:
    summary = Summary.of([rejection(client="phone.123456" * 5)], None)
    lines = drawn(summary, width)
    assert max(map(len, lines)) <= width
    why = lines[0].index("why")
    assert f"stale: {LONG}" == " ".join(line[why:].strip() for line in lines[1:]).strip()
    assert "1.0 MB" in lines[1]


def test_what_a_client_wrote_cannot_act_in_the_operators_terminal() -> None:
    nasty = Rejection(None, "[red]x\x1b[2J", "a\nb", "\x9b31m\u202e\r", "\x07", 0)
    summary = Summary.of([nasty], None)
    shown = "\n".join(drawn(summary, 120)) + summary.total()
    assert shown.replace("\n", "").isprintable()
    assert "[red]x\N{REPLACEMENT CHARACTER}[2J" in shown, "it is shown, not obeyed"
    assert "\x1b" not in summary.json_lines()
    assert plain("") == "–"


def test_programs_read_one_object_a_line() -> None:
    summary = Summary.of([rejection("stale"), rejection("run", time=NOON + 1)], None)
    found = [json.loads(line) for line in summary.json_lines().splitlines()]
    assert [each["reason"] for each in found] == ["run", "stale"]
    assert found[0] == {
        "time": NOON + 1, "client": "hospital-a", "reason": "run", "detail": LONG,
        "kind": "update", "size_bytes": 1_048_700,
    }  # fmt: skip
    assert Summary.of([], None).json_lines() == ""
