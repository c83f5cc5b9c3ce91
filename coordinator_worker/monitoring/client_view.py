"""Where a client stands, as those who watch see it: late or not, in which of the last rounds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any, Final

from coordinator_worker.state.roster import Member, Status, status_of

WINDOW: Final = 60  # rounds that are remembered of each client
REFUSED: Final = -1
LATELY: Final = 10  # rounds
_ABSENT, _REFUSED = ".", "x"
_LATE: Final = (
    "0123456789abcdefghijklmnopqrstuvw"  # one letter for each version late; the last: more
)


@dataclass(slots=True)
class Client:
    """What the events said of one client.

    ``since``: the version at which it was first seen; ``version``: the newest model it is in, -1 if
    in none; ``base``: what its last update was trained from; ``bytes`` and ``norm`` (L2) of that
    update; ``rounds``: how late its update to each of the last versions was, or REFUSED.
    ``trouble``: what keeps it from its work, in words; ``away``: it has no connection.
    """

    joined: float = 0.0
    seen: float = 0.0
    since: int = 0
    version: int = -1
    base: int = -1
    examples: int = 0
    updates: int = 0
    rejected: int = 0
    bytes: int = 0
    norm: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    trouble: str = ""
    away: bool = False
    rounds: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, member: Member, since: int) -> "Client":
        """What a checkpoint knows of it; ``since`` is the version of the checkpoint."""
        client = cls(
            joined=member.joined, seen=member.seen, since=since, version=member.version,
            examples=member.examples, updates=member.contributions, rejected=member.rejected,
        )  # fmt: skip
        if member.version >= 0:
            client.rounds[member.version] = 0
        return client

    def record_contribution(self, version: int, late: int) -> bool:
        """Its update is in ``version``; False if that was known."""
        if self.rounds.get(version, REFUSED) != REFUSED:
            return False
        self._mark(version, late)
        self.version = max(self.version, version)
        self.updates += 1
        return True

    def record_rejection(self, version: int) -> None:
        """Something of it was refused while ``version`` was in the making."""
        self.rejected += 1
        if version not in self.rounds:
            self._mark(version, REFUSED)

    def _mark(self, version: int, late: int) -> None:
        self.rounds[version] = late
        if len(self.rounds) > WINDOW + 1:  # with the round in progress
            del self.rounds[min(self.rounds)]

    def remember(self, older: "Client") -> None:
        """Take over what ``older`` knows of rounds that this one does not."""
        self.since = min(self.since, older.since)
        self.rounds = older.rounds | self.rounds
        for version in sorted(self.rounds)[: -WINDOW - 1]:
            del self.rounds[version]

    def missed(self, version: int) -> int:
        """In how many of the last WINDOW rounds it is not, of those since it is known."""
        first = max(self.since, version - WINDOW)
        there = sum(1 for v, late in self.rounds.items() if first < v <= version and late >= 0)
        return version - first - there

    def strip(self, version: int) -> str:
        """The last WINDOW rounds to ``version`` as a letter each: how late, refused, or absent."""
        first = max(1, version - WINDOW + 1)
        letters = [_ABSENT] * (version + 1 - first)
        for v, late in self.rounds.items():
            if first <= v <= version:
                letters[v - first] = _letter(late)
        return "".join(letters)

    @classmethod
    def read(cls, line: Mapping[str, Any], version: int) -> "Client":
        """From a line that ``Row.as_dict`` made when ``version`` was the newest."""
        strip = line["strip"]
        letters = enumerate(strip, start=version + 1 - len(strip))
        rounds = {v: _lateness(letter) for v, letter in letters if letter != _ABSENT}
        if line["now"] is not None:
            rounds[version + 1] = line["now"]
        kept = {name: line[name] for name in _KEPT if name in line}
        metrics = {name: nan if v is None else v for name, v in kept.pop("metrics").items()}
        return cls(**kept, metrics=metrics, rounds=rounds)  # JSON's null was NaN


_KEPT: Final = (
    "joined", "seen", "since", "version", "base", "examples", "updates", "rejected", "bytes",
    "norm", "metrics", "trouble", "away",
)  # fmt: skip


def _letter(late: int) -> str:
    return _REFUSED if late == REFUSED else _LATE[min(late, len(_LATE) - 1)]


def _lateness(letter: str) -> int:
    return REFUSED if letter == _REFUSED else _LATE.index(letter)


@dataclass(frozen=True, slots=True)
class Row:
    """A client among the others: ``behind``: rounds since it was in one; ``share`` of all data.

    ``late``: how many versions late the newest update was that is in a model, or will be, None if
    there is none; ``now``: the same for the round in progress. ``refused``: in one of the last
    LATELY rounds.
    """

    name: str
    client: Client
    status: Status
    behind: int
    missed: int
    share: float
    late: int | None
    now: int | None
    refused: bool

    def as_dict(self, version: int) -> dict[str, Any]:
        """As JSON can hold it."""
        told = {name: getattr(self.client, name) for name in _KEPT}
        norm = self.client.norm
        told["norm"] = None if norm is None else float(f"{norm:.6g}")
        return told | {
            "client": self.name,
            "status": self.status,
            "behind": self.behind,
            "missed": self.missed,
            "share": round(self.share, 6),
            "late": self.late,
            "now": self.now,
            "strip": self.client.strip(version),
        }


_ALARM: Final[Mapping[Status, int]] = {
    "rejected": 0, "gone": 1, "late": 2, "silent": 3, "unseen": 4, "in": 5,
}  # fmt: skip


def rows(clients: Mapping[str, Client], version: int, unseen: Iterable[str] = ()) -> list[Row]:
    """A row for each, those that stand out first: refused, gone, late, silent, often away.

    ``unseen`` are clients and fleets that may take part, and of which nothing has ever come.
    """
    total = sum(client.examples for client in clients.values()) or 1
    found = [_row(name, client, version, total) for name, client in clients.items()]
    for name in unseen:
        nobody = Client(since=version)
        found.append(Row(name, nobody, "unseen", version, 0, 0.0, None, None, refused=False))
    return sorted(found, key=_interest)


def _row(name: str, client: Client, version: int, total: int) -> Row:
    status, behind = status_of(
        client.updates, min(client.version, version), version, client.rejected
    )
    there = {v: late for v, late in client.rounds.items() if late != REFUSED}
    return Row(
        name,
        client,
        status,
        behind,
        client.missed(version),
        client.examples / total,
        there[max(there)] if there else None,
        client.rounds.get(version + 1),
        any(late == REFUSED and v > version - LATELY for v, late in client.rounds.items()),
    )


def _interest(row: Row) -> tuple[Any, ...]:
    return (not row.refused, _ALARM[row.status], -row.behind, -row.missed, row.name)
