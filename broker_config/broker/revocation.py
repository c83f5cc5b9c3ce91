"""Taking access away: who is revoked, or whose password is replaced, is out at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker_config.broker.apply import put_user
from broker_config.broker.drift import POLICIES
from broker_config.declaration.topology import (
    KEEPER_POLICY,
    KEEPER_QUEUES,
    Permission,
    is_contributor,
)
from warren_shared import naming
from warren_shared.errors import BrokerConfigError

_TRIES: Final = 5

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker_config.broker.management_api import Management
    from broker_config.declaration.topology import User


def revoke(vhost: str, name: str, management: Management) -> bool:
    """Delete the user ``name``, what it has open in ``vhost``, and its mailboxes.

    Of a keeper's also its exchange, policies and queues, with what waits in them, which only it
    can read. The user goes first: it cannot come back while the rest is cleared away. One that
    another federation on this broker has too loses its permissions here only. Whether the user is
    gone.
    """
    permissions = management.get("users", name, "permissions") or []
    is_shared = any(row["vhost"] != vhost for row in permissions)
    if is_shared:
        for kind in ("permissions", "topic-permissions"):
            if management.get(kind, vhost, name):
                management.delete(kind, vhost, name)
        _close_connections_in(vhost, name, management)
    else:
        if management.get("users", name) is not None:
            management.delete("users", name)
        _close_connections(name, management)
    if name == naming.KEEPER_USER:
        _delete_keepers_objects(vhost, management)
    for row in management.get("queues", vhost) or ():
        queue = str(row["name"])
        if _owner(queue) == name:
            management.delete("queues", vhost, queue)
    return not is_shared


def _delete_keepers_objects(vhost: str, management: Management) -> None:
    # Before the queues, by which the next attempt sees that something is left.
    found = [("exchanges", naming.UNMASKED_EXCHANGE), (POLICIES[False], KEEPER_POLICY)]
    found += [(POLICIES[True], queue) for queue in KEEPER_QUEUES]
    for kind, name in found:
        if management.get(kind, vhost, name) is not None:
            management.delete(kind, vhost, name)


def with_access(vhost: str, names: Iterable[str], management: Management) -> list[str]:
    """Those of ``names`` that have a queue, or a user with rights in ``vhost`` or nowhere."""
    owners = _owners(vhost, management)
    found = []
    for name in names:
        rows = management.get("users", name, "permissions")
        is_ours = rows is not None and (not rows or any(row["vhost"] == vhost for row in rows))
        if is_ours or name in owners:
            found.append(name)
    return found


def contributors(vhost: str, management: Management) -> list[str]:
    """Who has a client's, fleet's or keeper's rights or queues in ``vhost``, enrolled or not."""
    rows = management.get("vhosts", vhost, "permissions") or []
    rights = [row["user"] for row in rows if is_contributor(Permission.of(row), row["user"])]
    return sorted({*rights, *_owners(vhost, management)})


def _owners(vhost: str, management: Management) -> set[str]:
    queues = (str(row["name"]) for row in management.get("queues", vhost) or ())
    return {owner for owner in map(_owner, queues) if owner is not None}


def _owner(queue: str) -> str | None:
    """The user with whom ``queue`` goes; None if it belongs to all."""
    return naming.KEEPER_USER if queue in KEEPER_QUEUES else naming.owner_of_mailbox(queue)


def replace_passwords(
    users: Iterable[User], passwords: Mapping[str, str], management: Management
) -> None:
    """Give ``users`` the ``passwords``, and close what they opened with others."""
    for user in users:
        put_user(user, passwords[user.name], management)
        _close_connections(user.name, management)


def _close_connections_in(vhost: str, name: str, management: Management) -> None:
    for left in reversed(range(_TRIES)):
        rows = management.get("connections", "username", name) or []
        mine = [str(row["name"]) for row in rows if row.get("vhost", vhost) == vhost]
        if not mine:
            return
        for connection in mine:
            try:
                management.delete("connections", connection)
            except BrokerConfigError:  # it ended by itself
                if not left:
                    raise


def _close_connections(name: str, management: Management) -> None:
    # By the broker's own list of them; the one for people lags seconds behind.
    for left in reversed(range(_TRIES)):
        if not management.get("connections", "username", name):
            return
        try:
            management.delete("connections", "username", name)
        except BrokerConfigError:
            # One of them ended by itself in between, as a worker whose user was deleted does:
            # RabbitMQ answers 404 then, or 500, and may have closed no other.
            if not left:
                raise
        else:
            return
