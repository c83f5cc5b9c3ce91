"""What the ledger comes to: per run what is spent, and what was said of models."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from keeper_worker.ledger.entries import Entry


class Participation(NamedTuple):
    """In how many noised sums a client was, and the number of the last, from 0."""

    contributions: int
    last: int


@dataclass
class RunHistory:
    """One run: its newest set, and what of the earlier ones can still matter.

    An update is known by its client and transfer, and by its client and base version. What is more
    versions late than any set allowed is refused for that, and is not kept here.
    """

    newest: Entry
    window: int = 1
    transfers: dict[tuple[str, str], int] = field(default_factory=dict)  # base version
    bases: set[tuple[str, int]] = field(default_factory=set)
    models: dict[int, str] = field(default_factory=dict)
    participations: dict[str, Participation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.newest_keys = _keys(self.newest)

    def take(self, entry: Entry) -> None:
        """One more set was revealed."""
        self.newest, self.newest_keys = entry, _keys(entry)
        self.window = max(self.window, entry.window)
        for row in entry.updates:
            self.transfers[row.client, row.transfer] = row.base_version
            self.bases.add((row.client, row.base_version))
        self.models |= entry.models
        if entry.noise is not None:
            for client in {row.client for row in entry.updates}:
                known = self.participations.get(client)
                count = known.contributions if known is not None else 0
                self.participations[client] = Participation(count + 1, entry.rounds - 1)
        oldest = self.oldest
        self.transfers = {key: base for key, base in self.transfers.items() if base >= oldest}
        self.bases = {(client, base) for client, base in self.bases if base >= oldest}
        self.models = {base: digest for base, digest in self.models.items() if base >= oldest}

    @property
    def oldest(self) -> int:
        """The oldest base version of which an update can be in a set that is still to come."""
        return self.newest.version + 1 - self.window

    def is_spent(self, client: str, transfer: str, base_version: int) -> bool:
        """Whether an update is in a set, or another one of its client and base version."""
        return (client, transfer) in self.transfers or (client, base_version) in self.bases

    def to_dict(self) -> dict[str, Any]:
        """As a line of a ledger that was written anew."""
        return {
            "newest": self.newest.to_dict(),
            "window": self.window,
            "transfers": [[*key, base] for key, base in self.transfers.items()],
            "bases": sorted(map(list, self.bases)),
            "models": {str(base): digest for base, digest in self.models.items()},
            "participations": {name: list(one) for name, one in self.participations.items()},
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """From what ``to_dict`` gave; raises ValueError, KeyError or TypeError."""
        return cls(
            Entry.from_dict(told["newest"]),
            int(told["window"]),
            {(str(client), str(transfer)): int(base) for client, transfer, base in
             told["transfers"]},
            {(str(client), int(base)) for client, base in told["bases"]},
            {int(base): str(digest) for base, digest in told["models"].items()},
            {str(name): Participation(int(count), int(last)) for name, (count, last) in
             told["participations"].items()},
        )  # fmt: skip


@dataclass
class History:
    """All runs, that of the newest set last."""

    runs: dict[str, RunHistory] = field(default_factory=dict)

    def take(self, entry: Entry) -> None:
        """One more set was revealed."""
        run = self.runs.pop(entry.run, None)
        if run is None:
            run = RunHistory(entry)
        run.take(entry)
        self.runs[entry.run] = run

    @property
    def federation(self) -> str | None:
        """Whose it is, if anything was revealed."""
        return next((run.newest.federation for run in self.runs.values()), None)


def _keys(entry: Entry) -> frozenset[tuple[str, str]]:
    return frozenset((row.client, row.transfer) for row in entry.updates)
