"""What runs have claimed of a site's privacy, in a file of its state folder.

A claim is written before anything that it is for leaves the site, so a crash refunds nothing. The
file is for one process at a time: two that did not know of each other would spend twice.
"""

import fcntl
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from client_worker.privacy.terms import Refused
from warren_shared.errors import ConfigError
from warren_shared.files import writable, write_private
from warren_shared.privacy.accountant import epsilon_of, mu_of

FILE: Final = "privacy.json"
LOCK: Final = "privacy.lock"
FLAG: Final = "--state-dir"
Unit = Literal["record", "client"]


class Claim(BaseModel):
    """What one run was promised, and what it has used of that.

    ``unit`` record: ``spent`` of ``steps`` noisy steps. ``unit`` client: the coordinator's promise,
    which counts as a whole from the first update on. ``version`` is the newest model that it was
    claimed for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    unit: Unit
    federation: str
    run: str
    client: str
    epsilon: float = Field(gt=0, le=100)
    delta: float = Field(gt=0, lt=1)
    clip: float = Field(gt=0)
    steps: int | None = Field(None, ge=1)
    examples: int | None = Field(None, ge=1)
    spent: int = Field(0, ge=0)
    contributions: int | None = Field(None, ge=1)
    version: int = Field(0, ge=0)
    first: str = ""
    last: str = ""

    @model_validator(mode="after")
    def _is_whole(self) -> "Claim":
        if (self.unit == "record") != (self.steps is not None):
            raise ValueError("a claim on records has steps, and no other")
        if self.steps is not None and self.spent > self.steps:
            raise ValueError("more is spent than there was")
        return self

    @property
    def mu(self) -> float:
        """What it has used, in standard deviations of the noise."""
        whole = mu_of(self.epsilon, self.delta)
        return whole if self.steps is None else whole * sqrt(self.spent / self.steps)

    def is_of_the_same_terms(self, other: "Claim") -> bool:
        """Whether ``other`` is the same promise to the same run."""
        changing = {"client", "spent", "version", "first", "last"}
        return self.model_dump(exclude=changing) == other.model_dump(exclude=changing)


@dataclass(frozen=True)
class Total:
    """What all runs together have used; ``unit`` says of what."""

    unit: Unit
    mu: float

    def epsilon(self, delta: float) -> float:
        """At ``delta``."""
        return epsilon_of(self.mu, delta)


def total(claims: Iterable[Claim]) -> Total:
    """All of ``claims``: mu's add up as the root of the sum of their squares.

    With a claim on records the total is of records. To them a promise to clients is worth half: it
    says what it means that this client were away, and one record more or less takes an update from
    one place to another, which is as if it went away and came back.
    """
    claims = list(claims)
    of_records = any(claim.unit == "record" for claim in claims)
    weights = {"record": 1.0, "client": 4.0 if of_records else 1.0}
    mu = sqrt(sum(weights[claim.unit] * claim.mu**2 for claim in claims))
    return Total("record" if of_records else "client", mu)


class Ledger:
    """The claims in ``folder``, as long as this object holds its lock; ``open`` makes it."""

    def __init__(self, folder: Path, claims: list[Claim], lock: int | None) -> None:
        self._folder = folder
        self.claims = claims
        self._lock = lock

    @classmethod
    def open(cls, folder: Path) -> "Ledger":
        """The ledger in ``folder``, which may be new. Raises ConfigError."""
        writable(folder, FLAG)
        return cls(folder, read(folder), _locked(folder))

    def put(self, claim: Claim) -> None:
        """Have ``claim`` on the disk, in the place of an earlier state of itself.

        Raises Refused if the disk does not take it.
        """
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        before = [one for one in self.claims if one.is_of_the_same_terms(claim)]
        first = before[0].first if before else moment
        claim = claim.model_copy(update={"first": first, "last": moment})
        others = [one for one in self.claims if not one.is_of_the_same_terms(claim)]
        try:
            _write(self._folder / FILE, [*others, claim])
        except OSError as error:
            said = error.strerror or type(error).__name__
            raise Refused(f"what training costs cannot be written to {FLAG} ({said}): nothing was"
                          " trained") from error  # fmt: skip
        self.claims = [*others, claim]

    def close(self) -> None:
        """Give the folder up."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1] = 1
    claims: list[Claim]


def read(folder: Path) -> list[Claim]:
    """The claims in ``folder``; none if no run has claimed anything.

    Raises ConfigError if there is a file that cannot be read: what is spent must not be forgotten.
    """
    path = folder / FILE
    try:
        return _File.model_validate_json(path.read_bytes()).claims
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        said = error.strerror if isinstance(error, OSError) else _what(error)
        raise ConfigError(
            f"{path} cannot be read ({said}), and what this site has spent of its privacy must not"
            " be forgotten: restore it from a backup"
        ) from None


def _what(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _write(path: Path, claims: list[Claim]) -> None:
    text = _File(claims=claims).model_dump_json(indent=1, exclude_none=True)
    write_private(path, f"{text}\n")


def _locked(folder: Path) -> int:
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigError(f"{FLAG} {folder} is another client's, which runs: each client that"
                          " counts what it spends needs a folder of its own") from None  # fmt: skip
    return descriptor
