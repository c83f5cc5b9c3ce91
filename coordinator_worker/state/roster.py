"""Who takes part: the members of a federation as the coordinator knows them, and their report."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

GONE_AFTER: Final = 10  # rounds without a contribution

Status = Literal["in", "late", "gone", "silent", "rejected", "unseen"]


@dataclass(frozen=True, slots=True)
class Member:
    """One client. Times are seconds since the epoch, 0 if it never happened.

    ``version``: the newest model it is in, -1 if it is in none; ``examples``: the number it last
    trained on; ``code``: the version of its task's code that made its newest update, as it says.
    """

    joined: float = 0.0
    seen: float = 0.0
    version: int = -1
    contributions: int = 0
    examples: int = 0
    rejected: int = 0
    code: str = ""


Roster = Mapping[str, Member]


def joined(roster: Roster, client: str, now: float) -> Roster:
    """``client`` has said that it is there."""
    return {**roster, client: replace(roster.get(client, Member()), joined=now)}


def rarity(roster: Roster, client: str) -> float:
    """Contributions that a member has on average over those of ``client``, with one more for each.

    One that has never contributed counts as if it were there once, or it would weigh without bound.
    """
    counts = {name: member.contributions + 1 for name, member in roster.items()}
    mine = counts.setdefault(client, 1)
    return sum(counts.values()) / (len(counts) * mine)


def rejected(roster: Roster, client: str, *, known: bool = False) -> Roster:
    """Something of ``client`` was rejected; of a stranger who is not ``known`` nothing is kept."""
    if client not in roster and not known:
        return roster
    member = roster.get(client, Member())
    return {**roster, client: replace(member, rejected=member.rejected + 1)}


def contributed(
    roster: Roster, version: int, examples: Iterable[tuple[str, int]], now: float
) -> Roster:
    """Model ``version`` was made; ``examples`` has an entry for each update in it."""
    members = dict(roster)
    for client, count in examples:
        member = members.get(client, Member())
        members[client] = replace(
            member,
            seen=now,
            version=version,
            contributions=member.contributions + 1,
            examples=count,
        )
    return members


def with_codes(roster: Roster, codes: Mapping[str, str]) -> Roster:
    """With the version of the task's code that made each client's newest update."""
    changed = {
        client: replace(roster[client], code=code)
        for client, code in codes.items()
        if client in roster and roster[client].code != code
    }
    return {**roster, **changed} if changed else roster


@dataclass(frozen=True)
class Standing:
    """A line of the participation report: a member, and where it stands at a version.

    ``data_share``: its part of all members' examples; ``behind``: rounds since its last
    contribution. ``status``: ``in`` the newest model, ``late``, ``gone`` after GONE_AFTER rounds
    without a contribution, ``silent``: it joined, and nothing has come of it yet, ``rejected``:
    nothing but what was rejected, or ``unseen``: it is enrolled, and was never there.
    """

    client: str
    status: Status
    behind: int
    data_share: float
    member: Member

    def fields(self) -> dict[str, Any]:
        """As plain figures, for JSON."""
        line = {"client": self.client, "status": self.status, "behind": self.behind}
        return {**line, "data_share": self.data_share, **asdict(self.member)}


def participation(roster: Roster, version: int, unseen: Iterable[str] = ()) -> list[Standing]:
    """Where every member stands now that ``version`` is the newest model, those in it first.

    ``unseen`` are enrolled and no members.
    """
    total = sum(member.examples for member in roster.values()) or 1
    standings = [
        Standing(
            client,
            *status_of(member.contributions, member.version, version, member.rejected),
            member.examples / total,
            member,
        )
        for client, member in roster.items()
    ]
    standings += [Standing(client, "unseen", version, 0.0, Member()) for client in unseen]
    return sorted(standings, key=lambda standing: (standing.behind, standing.client))


def status_of(
    contributions: int, newest: int, version: int, refused: int = 0
) -> tuple[Status, int]:
    """Status and rounds behind at ``version`` of one whose newest contribution made ``newest``.

    ``refused``: how much of it was rejected.
    """
    if not contributions:
        return ("rejected" if refused else "silent"), version
    behind = version - newest
    if behind <= 0:
        return "in", 0
    return ("late" if behind <= GONE_AFTER else "gone"), behind


@dataclass(frozen=True, slots=True)
class StatusTotal:
    """How many ``clients`` have a status, and which ``data_share`` they stand for together."""

    clients: int = 0
    data_share: float = 0.0


def summary(standings: Iterable[Standing]) -> dict[Status, StatusTotal]:
    """The clients of each status together."""
    found: dict[Status, StatusTotal] = {}
    for standing in standings:
        so_far = found.get(standing.status, StatusTotal())
        found[standing.status] = StatusTotal(
            so_far.clients + 1, so_far.data_share + standing.data_share
        )
    return found
