"""One line of the ledger: a set of updates whose masks were added up for somebody."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple, Self

import msgpack


class Row(NamedTuple):
    """An update of a set, and what it counts in the sum."""

    client: str
    base_version: int
    transfer: str
    weight: int

    @classmethod
    def read(cls, told: Any) -> Self:
        """From a line of the ledger; raises ValueError."""
        client, base_version, transfer, weight = told
        return cls(_text(client), _number(base_version), _text(transfer), _number(weight))


class NoiseUsed(NamedTuple):
    """Which noise a sum was given: how it is correlated with that of the rounds before.

    ``theta`` and ``omega`` are chosen once in a run, since another machine might find them a little
    different. ``before`` and ``after`` are digests of what is kept of the rounds before this one,
    and with it; "" for nothing. ``size`` is how many integers were noised.
    """

    theta: float
    omega: float
    size: int
    before: str
    after: str

    @classmethod
    def read(cls, told: Any) -> Self:
        """From a line of the ledger; raises ValueError."""
        theta, omega, size, before, after = told
        if not isinstance(theta, float) or not isinstance(omega, float):
            raise ValueError("no number")  # noqa: TRY004  of what is in a file
        return cls(theta, omega, _number(size), _text(before), _text(after))


@dataclass(frozen=True)
class Entry:
    """What was revealed for version ``version`` of ``run``; its ``rounds``-th sum.

    ``models``: the digest of the model that updates of each base version were trained from.
    ``window`` is how many versions an update may be late, at most, plus one.
    """

    federation: str
    run: str
    version: int
    rounds: int
    window: int
    updates: tuple[Row, ...]
    models: Mapping[int, str]
    noise: NoiseUsed | None = None

    @property
    def transfers(self) -> list[str]:
        """Ids of its updates, in their order."""
        return [row.transfer for row in self.updates]

    @property
    def digest(self) -> bytes:
        """The same for the same set, in whatever order it is named, and for no other one."""
        told = [self.federation, self.run, self.version, sorted(self.updates)]
        return sha256(msgpack.packb(told)).digest()

    def to_dict(self) -> dict[str, Any]:
        """As a line of the ledger has it."""
        told = {**vars(self), "models": {str(base): one for base, one in self.models.items()}}
        if self.noise is None:
            del told["noise"]
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """From what ``to_dict`` gave; raises ValueError, KeyError or TypeError."""
        noise = told.get("noise")
        return cls(
            federation=_text(told["federation"]),
            run=_text(told["run"]),
            version=_number(told["version"]),
            rounds=_number(told["rounds"]),
            window=_number(told["window"]),
            updates=tuple(map(Row.read, told["updates"])),
            models={int(base): _text(one) for base, one in told["models"].items()},
            noise=NoiseUsed.read(noise) if noise is not None else None,
        )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")  # noqa: TRY004  of what is in a file
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("no number")
    return value
