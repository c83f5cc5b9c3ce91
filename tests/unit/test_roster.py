"""The roster and the report that is drawn from it."""

import pytest

from coordinator_worker import roster
from coordinator_worker.roster import GONE_AFTER, Member, participation, summary


def test_who_stands_where() -> None:
    members = roster.contributed({}, 1, [("gone", 10), ("late", 30)], now=5.0)
    members = roster.joined(members, "silent", now=6.0)
    members = roster.contributed(members, GONE_AFTER + 1, [("late", 30)], now=7.0)
    members = roster.contributed(members, GONE_AFTER + 2, [("in", 60), ("in", 60)], now=8.0)
    standings = participation(members, GONE_AFTER + 2)
    found = {s.client: (s.status, s.behind, s.data_share) for s in standings}
    assert found == {
        "in": ("in", 0, 0.6),
        "late": ("late", 1, 0.3),
        "gone": ("gone", GONE_AFTER + 1, 0.1),
        "silent": ("silent", GONE_AFTER + 2, 0.0),
    }
    assert members["in"] == Member(seen=8.0, version=12, contributions=2, examples=60)
    assert members["late"].contributions == 2
    assert summary(standings)["in"] == {"clients": 1, "data_share": 0.6}


def test_joining_again_forgets_nothing() -> None:
    members = roster.contributed({}, 3, [("alfa", 9)], now=1.0)
    again = roster.joined(members, "alfa", now=2.0)["alfa"]
    assert again == Member(joined=2.0, seen=1.0, version=3, contributions=1, examples=9)


@pytest.mark.parametrize("stranger", ["", "mallory"])
def test_a_stranger_who_is_rejected_is_not_remembered(stranger: str) -> None:
    """Or anybody could fill the checkpoint with names."""
    members = roster.joined({}, "alfa", now=1.0)
    assert roster.rejected(members, stranger) == members
    assert roster.rejected(members, "alfa")["alfa"].rejected == 1


def test_a_federation_without_members_has_an_empty_report() -> None:
    assert participation({}, 5) == []
