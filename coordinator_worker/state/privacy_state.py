"""What a private run has promised, and what of it is spent."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

from warren_shared.errors import Rejected


class Participation(NamedTuple):
    """In how many rounds a client was, and the number of the last."""

    contributions: int
    last: int


@dataclass(frozen=True)
class PrivacyState:
    """``mechanism`` is the setting, as it is written; ``size`` how many parameters are noised.

    ``secret`` is what the noise is drawn with, in hexadecimal: whoever has it can take the noise
    off. ``theta`` and ``omega`` are how the noise is correlated, chosen once, since another machine
    might find them a little different. ``done`` rounds have been noised; a version that was made by
    a rollback is none. ``masked``: the keeper adds the noise, and has the secret.
    """

    mechanism: str
    rounds: int
    quorum: int
    size: int
    secret: str
    theta: float = 0.0
    omega: float = 0.0
    done: int = 0
    masked: bool = False
    participations: Mapping[str, Participation] = field(default_factory=dict)

    def check(self, client: str, contributions: int, distance: int, *, is_here: bool) -> None:
        """Raise Rejected(``spent`` or ``early``) if ``client`` may not be in the next round.

        ``is_here``: an update of it is in the open round.
        """
        before = self.participations.get(client, Participation(0, -distance))
        if before.contributions + is_here >= contributions:
            raise Rejected(
                "spent",
                f"{client} has been in {contributions} rounds, and the privacy of this run allows"
                " no more",
            )
        if is_here or self.done - before.last < distance:
            rest = distance if is_here else distance - (self.done - before.last)
            raise Rejected(
                "early",
                f"{client} may be in a round again {rest} rounds from now: the privacy of this run"
                f" wants {distance} from one to the next",
            )

    def after(self, clients: Iterable[str]) -> Self:
        """One noised round on, with ``clients`` in it."""
        found = dict(self.participations)
        for client in clients:
            count = found[client].contributions if client in found else 0
            found[client] = Participation(count + 1, self.done)
        return replace(self, done=self.done + 1, participations=found)

    def to_dict(self) -> dict[str, Any]:
        """As msgpack can hold it."""
        told = {**vars(self)}
        if not self.masked:
            del told["masked"]
        return {
            **told,
            "participations": {c: list(p) for c, p in self.participations.items()},
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """From what ``to_dict`` gave."""
        given = {client: Participation(*p) for client, p in fields["participations"].items()}
        return cls(**{**fields, "participations": given})
