"""Whom a round waits for is said at growing intervals, with what is known of the reason."""

from itertools import pairwise

import pytest

from coordinator_worker.monitoring.events import Stamped
from coordinator_worker.monitoring.federation_view import FederationView, silence
from coordinator_worker.monitoring.waiting import (
    FIRST_S,
    LONGEST_S,
    WaitingReport,
    in_words,
    remedy,
)


def event(topic: str, time: float = 1.0, **fields: object) -> dict[str, object]:
    return {"event": topic, "time": time, "number": 1, "federation": "f", **fields}


def accepted(client: str, version: int = 0) -> dict[str, object]:
    return event(
        f"update.accepted.{client}", client=client, version=version, base_version=version,
        staleness=0, examples=5, metrics={}, quorum=(1, 3),
    )  # fmt: skip


def apply(view: FederationView, event: dict[str, object]) -> None:
    view.apply(Stamped.from_dict(event))


@pytest.fixture
def view() -> FederationView:
    made = FederationView()
    for client in ("alfa", "bravo", "charlie"):
        apply(made, event("client.joined", client=client))
    return made


def test_a_round_says_whom_it_waits_for_and_why(view: FederationView) -> None:
    apply(view, accepted("alfa"))
    apply(view, event("client.failed", client="charlie", reason="KeyError: age", ends=True))
    words = in_words(1, 3, view.waiting())
    assert words == (
        "waiting for 2 of 3 updates: bravo (has contributed nothing yet),"
        " charlie (left: KeyError: age)"
    )
    apply(view, event("coordinator.alive", every_s=15.0, away=["bravo"]))
    assert "bravo (not connected)" in in_words(1, 3, view.waiting())


def test_what_a_client_did_since_ends_what_was_said_of_it(view: FederationView) -> None:
    apply(view, event("client.failed", client="bravo", reason="KeyError: age", ends=True))
    apply(view, event("coordinator.alive", every_s=15.0, away=["bravo"]))
    apply(view, event("client.joined", client="bravo"))
    assert not view.clients["bravo"].trouble
    assert not view.clients["bravo"].away
    apply(view, event("client.failed", client="alfa", reason="KeyError: age", ends=False))
    apply(view, event("client.joined", client="alfa"))
    assert view.clients["alfa"].trouble == "failed: KeyError: age", "it tries again"
    apply(view, accepted("alfa"))
    assert not view.clients["alfa"].trouble


def test_nobody_there_at_all_is_said() -> None:
    assert in_words(0, 3, FederationView().waiting()) == (
        "waiting for 3 of 3 updates; no client has joined"
    )
    assert "start more, or lower --quorum" in in_words(2, 3, [])


def test_everybody_rejected_is_a_finding_of_its_own(view: FederationView) -> None:
    for client in ("alfa", "bravo", "charlie"):
        assert not view.all_rejected()
        told = {"client": client, "reason": "norm", "detail": "its norm is 1e+30"}
        apply(view, event(f"update.rejected.{client}", **told))
    assert view.all_rejected()
    assert "alfa (rejected: norm: its norm is 1e+30)" in in_words(0, 3, view.waiting())
    assert "--max-update-norm" in remedy({"norm": 3})
    apply(view, accepted("bravo"))
    assert not view.all_rejected()


def test_being_late_is_no_reason_that_is_told(view: FederationView) -> None:
    apply(view, event("update.rejected.alfa", client="alfa", reason="stale", detail="late"))
    assert not view.clients["alfa"].trouble


def test_what_a_client_says_of_itself_is_bounded_and_printable(view: FederationView) -> None:
    apply(view, event("client.failed", client="alfa", reason="\x1b[2J\n" * 1000, ends=True))
    trouble = view.clients["alfa"].trouble
    assert len(trouble) < 300
    assert trouble.isprintable()


def test_the_intervals_grow() -> None:
    report, said, now = WaitingReport(), [], 0.0
    while now < 20_000:
        if report.due(1, now):
            said.append(now)
        now += 5.0
    gaps = [b - a for a, b in pairwise(said)]
    assert said[0] == FIRST_S
    assert gaps == sorted(gaps)
    assert gaps[0] == FIRST_S
    assert max(gaps) == LONGEST_S
    assert not report.due(2, now), "another round begins anew"
    assert not report.due(2, now + FIRST_S - 1)
    assert report.due(2, now + FIRST_S)


def test_a_picture_keeps_what_is_known_for_who_comes_later(view: FederationView) -> None:
    apply(view, event("client.failed", client="charlie", reason="KeyError", ends=True))
    apply(view, event("coordinator.alive", every_s=15.0, away=["bravo"]))
    again = FederationView.of(view.as_dict())
    assert again.waiting() == view.waiting()
    assert again.alive_s == 15.0
    old = view.as_dict()
    del old["alive_s"]
    for line in old["clients"]:
        del line["trouble"], line["away"]
    assert not silence(FederationView.of(old), 1000.0), (
        "an older coordinator gives no sign, dead or not"
    )


def test_a_coordinator_that_is_dead_does_not_look_alive(view: FederationView) -> None:
    apply(view, event("coordinator.alive", every_s=15.0))
    assert not silence(view, 44.0)
    assert silence(view, 90.0) == "no sign of the coordinator for 90 s"
    apply(view, event("coordinator.stopped"))
    assert not silence(view, 90.0), "it said so"
