"""Seeds that clients have sent and no set has used up; their messages are still in the broker."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from warren_shared.naming import COORDINATOR_USER, speaks_for
from warren_shared.protocol.messages import Seed

# A broker hands a consumer 65,535 unacknowledged messages and then none: one user could keep all
# others out.
MAX_WAITING: Final = 32_768
MAX_FOREIGN: Final = 1_000

Key = tuple[str, str]  # client and transfer


@dataclass(frozen=True, slots=True)
class Waiting:
    """A seed, who sent it as the broker says, and its delivery; ``number`` counts arrivals."""

    run: str
    client: str
    base_version: int
    transfer: str
    layout: str
    elements: int
    figures: str
    figure_elements: int
    model: str
    terms: str
    seed: bytes
    user: str
    tag: int
    number: int

    @property
    def key(self) -> Key:
        """By which the coordinator names it."""
        return self.client, self.transfer

    def says_the_same(self, other: "Waiting") -> bool:
        """Whether ``other`` is the same seed, sent twice."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in self.__slots__
            if name not in ("tag", "number")
        )


class Taken(NamedTuple):
    """What became of a seed: deliveries to acknowledge, and why it was dropped, if it was."""

    acknowledged: tuple[int, ...]
    dropped: str = ""
    detail: str = ""


class Seeds:
    """Those of one connection; what is unacknowledged comes again over the next one."""

    def __init__(self, federation: str, most: int = MAX_WAITING) -> None:
        self._federation = federation
        self._most = most
        self.reset()

    def reset(self) -> None:
        """The connection is gone."""
        self._by_key: dict[Key, Waiting] = {}
        self._by_user: dict[str, dict[Key, Waiting]] = {}
        self._foreign: dict[Key, str] = {}  # who sent it in another's name
        self._number = 0
        self._held: frozenset[Key] = frozenset()

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._by_key.values())

    def get(self, client: str, transfer: str) -> Waiting | None:
        """The seed of an update, if it is here."""
        return self._by_key.get((client, transfer))

    def sender(self, client: str, transfer: str) -> str | None:
        """Who has sent a seed of that update in the name of ``client``, and may not."""
        return self._foreign.get((client, transfer))

    def hold(self, keys: Iterable[Key]) -> None:
        """These are of the newest set, which may be asked for again: they are not pushed out."""
        self._held = frozenset(keys)

    def add(self, seed: Seed, user: str | None, tag: int) -> Taken:
        """Take what the broker says that ``user`` sent."""
        if seed.federation != self._federation:
            return Taken((tag,), "federation", f"it is of the federation {seed.federation!r}")
        if user is None or user == COORDINATOR_USER or not speaks_for(user, seed.client):
            self._foreign[seed.client, seed.transfer] = str(user)
            if len(self._foreign) > MAX_FOREIGN:
                del self._foreign[next(iter(self._foreign))]
            return Taken((tag,), "identity", f"{user} is not {seed.client}")
        self._number += 1
        waiting = _waiting(seed, user, tag, self._number)
        known = self._by_key.get(waiting.key)
        if known is not None and not known.says_the_same(waiting):
            return Taken((tag,), "transfer", f"another seed of {seed.transfer} was there before")
        self._put(waiting)
        if known is not None:
            return Taken((known.tag,))
        pushed = self._push_out() if len(self._by_key) > self._most else None
        if pushed is not None:
            return Taken(
                (pushed.tag,), "flood", f"too many seeds wait, most of them {pushed.user}'s"
            )
        return Taken(())

    def _put(self, waiting: Waiting) -> None:
        self._by_key[waiting.key] = waiting
        self._by_user.setdefault(waiting.user, {})[waiting.key] = waiting

    def _push_out(self) -> Waiting | None:
        """Forget the oldest seed of who has most of them, and return it."""
        for mine in sorted(self._by_user.values(), key=len, reverse=True):
            for waiting in mine.values():
                if waiting.key not in self._held:
                    self._forget(waiting)
                    return waiting
        return None

    def _forget(self, waiting: Waiting) -> None:
        del self._by_key[waiting.key]
        mine = self._by_user[waiting.user]
        del mine[waiting.key]
        if not mine:
            del self._by_user[waiting.user]

    def drop(self, keys: Iterable[Key]) -> list[int]:
        """Forget these; return the deliveries to acknowledge."""
        found = [waiting for key in keys if (waiting := self._by_key.get(key)) is not None]
        for waiting in found:
            self._forget(waiting)
        return [waiting.tag for waiting in found]


def _waiting(seed: Seed, user: str, tag: int, number: int) -> Waiting:
    # What many seeds have in common is there once.
    return Waiting(
        run=sys.intern(seed.run),
        client=sys.intern(seed.client),
        base_version=seed.base_version,
        transfer=seed.transfer,
        layout=sys.intern(seed.layout),
        elements=seed.elements,
        figures=sys.intern(seed.figures),
        figure_elements=seed.figure_elements,
        model=sys.intern(seed.model),
        terms=sys.intern(seed.terms),
        seed=bytes.fromhex(seed.seed),
        user=sys.intern(user),
        tag=tag,
        number=number,
    )
