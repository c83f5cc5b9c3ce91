"""The roster and the report that is drawn from it."""

import pytest

from coordinator_worker.state import roster
from coordinator_worker.state.roster import (
    GONE_AFTER,
    Member,
    StatusTotal,
    participation,
    summary,
)


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
    assert summary(standings)["in"] == StatusTotal(clients=1, data_share=0.6)


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


def test_an_enrolled_client_of_which_all_is_rejected_is_remembered_and_stands_out() -> None:
    members = roster.rejected({}, "mallory", known=True)
    (standing,) = participation(roster.rejected(members, "mallory"), 4)
    assert (standing.status, standing.member.rejected) == ("rejected", 2)
    better = roster.contributed(members, 4, [("mallory", 9)], now=1.0)
    assert participation(better, 4)[0].status == "in"


def test_who_is_enrolled_and_never_came_has_a_line() -> None:
    members = roster.contributed({}, 3, [("alfa", 9)], now=1.0)
    standings = participation(members, 3, ["bravo", "phone"])
    assert [(s.client, s.status, s.behind) for s in standings] == [
        ("alfa", "in", 0), ("bravo", "unseen", 3), ("phone", "unseen", 3)
    ]  # fmt: skip
    assert summary(standings)["unseen"] == StatusTotal(clients=2, data_share=0.0)


def test_a_federation_without_members_has_an_empty_report() -> None:
    assert participation({}, 5) == []


def test_rarity_is_the_mean_of_contributions_over_ones_own() -> None:
    members = {"often": Member(contributions=9), "seldom": Member(contributions=1)}
    assert roster.rarity(members, "often") == pytest.approx(6 / 10)
    assert roster.rarity(members, "seldom") == pytest.approx(6 / 2)
    assert roster.rarity(members, "new") == pytest.approx((10 + 2 + 1) / 3)
    assert roster.rarity({}, "first") == 1.0


def test_in_the_long_run_every_client_has_counted_as_much() -> None:
    members: dict[str, Member] = {}
    counted = dict.fromkeys(("fast", "slow"), 0.0)
    for turn in range(4000):
        for client in ("fast", "slow") if turn % 10 == 0 else ("fast",):
            counted[client] += roster.rarity(members, client)
            members = dict(roster.contributed(members, turn, [(client, 1)], 0.0))
    assert counted["slow"] == pytest.approx(counted["fast"], rel=0.05)


def test_the_version_of_the_code_is_that_of_the_newest_update() -> None:
    members = roster.contributed({}, 1, [("alfa", 9), ("bravo", 9)], now=1.0)
    members = roster.with_codes(members, {"alfa": "0123456789ab", "stranger": "ba"})
    assert {client: member.code for client, member in members.items()} == {
        "alfa": "0123456789ab",
        "bravo": "",
    }
    assert participation(members, 1)[0].fields()["code"] == "0123456789ab"
    again = roster.with_codes(members, {"alfa": ""})  # an older client has its name now
    assert again["alfa"].code == ""
