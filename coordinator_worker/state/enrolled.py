"""Who may take part, as far as the coordinator has been told: to say who never came."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from warren_shared.naming import ENROLLED_FORMAT, ENROLLED_MOST, is_user_name, user_of


def unseen(names: Iterable[str], seen: Iterable[str]) -> list[str]:
    """Those ``names`` of clients and fleets of which nobody is among the client ids ``seen``."""
    users = {user_of(client) for client in seen}
    return [name for name in names if name not in users]


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The names of single ``clients``, and of ``fleets`` with the number of their replicas."""

    clients: tuple[str, ...] = ()
    fleets: Mapping[str, int] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Of clients, then of fleets."""
        return (*self.clients, *self.fleets)

    def unseen(self, seen: Iterable[str]) -> list[str]:
        """Clients and fleets of which nobody is among ``seen``, which are client ids."""
        return unseen(self.names, seen)

    def has(self, client: str) -> bool:
        """Whether ``client`` is one of them, or of a fleet."""
        return client in self.clients or user_of(client) in self.fleets

    def to_dict(self) -> dict[str, Any]:
        """As JSON and msgpack can hold it."""
        return {"clients": list(self.clients), "fleets": dict(self.fleets)}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """From what ``to_dict`` gave, ENROLLED_MOST of each.

        Raises ValueError if it is something else.
        """
        try:
            clients = tuple(given["clients"][:ENROLLED_MOST])
            fleets = {name: int(size) for name, size in [*given["fleets"].items()][:ENROLLED_MOST]}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no list of clients ({error!r})") from None
        for name in (*clients, *fleets):
            if not isinstance(name, str) or not is_user_name(name):
                raise ValueError(f"{name!r:.80} is no client's name")
        return cls(clients, fleets)

    @classmethod
    def read(cls, body: bytes) -> Self:
        """From a message of `broker-config`; raises ValueError if it is none that we know."""
        try:
            given = json.loads(body)
            written = given["format"]
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"no list of clients ({error!r})") from None
        if written != ENROLLED_FORMAT:
            raise ValueError(
                f"of format {written!r:.20}, not {ENROLLED_FORMAT}: written by another version"
            )
        return cls.from_dict(given)


NOBODY: Final = Enrolled()
