"""Who takes part: the clients and fleets of one federation, remembered in a file."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from broker_config.declaration.keeper import KeeperKeys
from warren_shared import naming
from warren_shared.errors import BrokerConfigError
from warren_shared.files import write_private

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# What a mailbox may hold beside one model: answers to one client ("rejected, because ...").
NOTICES: Final = 8
# The generous bound that a mailbox carries itself, so that a broker whose policies were wiped
# still cannot be filled up by one absent client.
MAILBOX_LIMIT: Final = 65_536


@dataclass(frozen=True)
class Fleet:
    """``size`` identical replicas that share the user ``name``."""

    name: str
    size: int

    @property
    def members(self) -> tuple[str, ...]:
        """The client ids of the replicas."""
        return tuple(naming.fleet_member(self.name, number) for number in range(self.size))


@dataclass(frozen=True)
class Federation:
    """One federation: a vhost named ``name``, its enrolled clients, its fleets, its model's size.

    With ``encrypt_updates`` the clients' bundles make them encrypt what they send. With
    ``spare_mailboxes``, for a cluster, each client has a second mailbox on another node.
    ``keeper`` is the public line of the third party of secure aggregation, see `KeeperKeys`; ""
    for none. With one, updates are encrypted: keeper and broker together could read them otherwise.

    Raises:
        BrokerConfigError: a name no user may have, one name for two, a size out of range, or a
            keeper that is none.
    """

    name: str = "warren"
    clients: tuple[str, ...] = ()
    fleets: tuple[Fleet, ...] = (Fleet("client", 20),)
    model_bytes: int = 64 << 20
    encrypt_updates: bool = False
    spare_mailboxes: bool = False
    keeper: str = ""

    def __post_init__(self) -> None:
        if self.keeper:
            object.__setattr__(self, "keeper", KeeperKeys.parse(self.keeper).line)
            object.__setattr__(self, "encrypt_updates", True)
        if not re.fullmatch(naming.USER_PATTERN, self.name):
            raise BrokerConfigError(f"federation name {self.name!r} is not {naming.USER_PATTERN}")
        for user in self.users:
            if not naming.is_user_name(user):
                reason = "is reserved" if user in naming.RESERVED_USERS else "is no client name"
                raise BrokerConfigError(f"{user!r} {reason} (allowed: {naming.USER_PATTERN})")
            if self.users.count(user) > 1:
                raise BrokerConfigError(f"{user!r} names two clients or fleets: pick another name")
        for fleet in self.fleets:
            if not 1 <= fleet.size <= 10_000:
                raise BrokerConfigError(f"fleet {fleet.name} has size {fleet.size}, not 1 to 10000")
        if self.model_bytes < 1 or self.mailbox_length > MAILBOX_LIMIT:
            largest = (MAILBOX_LIMIT - NOTICES) * naming.CHUNK_BYTES
            raise BrokerConfigError(f"model of {self.model_bytes} bytes: not 1 to {largest}")

    @property
    def users(self) -> tuple[str, ...]:
        """The broker users of the clients' side: one per client, one per fleet."""
        return self.clients + tuple(fleet.name for fleet in self.fleets)

    @property
    def revocable(self) -> tuple[str, ...]:
        """Who may be revoked: `users`, and the keeper if there is one."""
        return (*self.users, naming.KEEPER_USER) if self.keeper else self.users

    @property
    def members(self) -> tuple[str, ...]:
        """Every client id that may take part."""
        replicas = (member for fleet in self.fleets for member in fleet.members)
        return (*self.clients, *replicas)

    @property
    def mailbox_length(self) -> int:
        """Messages of one model and a few notices; the first chunk travels on the manifest."""
        return max(1, math.ceil(self.model_bytes / naming.CHUNK_BYTES)) + NOTICES

    def enrolling(self, clients: Iterable[str] = (), fleets: Iterable[Fleet] = ()) -> Federation:
        """A federation with more clients than this one, and with fleets added or resized."""
        known = dict.fromkeys((*self.clients, *clients))
        rows = {fleet.name: fleet for fleet in (*self.fleets, *fleets)}
        return replace(self, clients=tuple(known), fleets=tuple(rows.values()))

    def without(self, users: Iterable[str]) -> Federation:
        """A federation without these clients and fleets, or without its keeper.

        Raises:
            BrokerConfigError: it has no such client or fleet, or no keeper.
        """
        gone = set(users)
        if unknown := gone - set(self.revocable):
            known = ", ".join(self.revocable) or "none"
            raise BrokerConfigError(f"{min(unknown)!r} is not enrolled; enrolled: {known}")
        clients = tuple(client for client in self.clients if client not in gone)
        fleets = tuple(fleet for fleet in self.fleets if fleet.name not in gone)
        keeper = "" if naming.KEEPER_USER in gone else self.keeper
        return replace(self, clients=clients, fleets=fleets, keeper=keeper)


def load(path: Path) -> Federation | None:
    """The federation that `save` wrote to ``path``; None if there is no such file.

    Raises:
        BrokerConfigError: the file is not a federation.
    """
    try:
        found = json.loads(path.read_text())
        fleets = tuple(Fleet(str(row["name"]), int(row["size"])) for row in found["fleets"])
        clients = tuple(str(client) for client in found["clients"])
        encrypt = bool(found.get("encrypt_updates", False))
        spare = bool(found.get("spare_mailboxes", False))
        name, model_bytes = str(found["name"]), int(found["model_bytes"])
        keeper = str(found.get("keeper", ""))
        return Federation(name, clients, fleets, model_bytes, encrypt, spare, keeper)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise BrokerConfigError(f"{path} does not describe a federation: {error!r}") from error


def save(path: Path, federation: Federation) -> None:
    """Remember ``federation`` in ``path``."""
    write_private(path, json.dumps(asdict(federation), indent=2) + "\n")
