"""Taking access away: who is revoked, or whose password is replaced, is out at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker_config import names
from broker_config.apply import put_user
from broker_config.errors import BrokerConfigError

_TRIES: Final = 5

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker_config.management import Management
    from broker_config.topology import User


def revoke(vhost: str, name: str, management: Management) -> None:
    """Delete the user ``name``, what it has open, and its mailboxes.

    The user goes first: it cannot come back while the rest is cleared away.
    """
    if management.get("users", name) is not None:
        management.delete("users", name)
    _close_connections(name, management)
    prefix = names.mailbox("")
    for row in management.get("queues", vhost) or ():
        queue = str(row["name"])
        if queue.startswith(prefix) and names.speaks_for(name, queue.removeprefix(prefix)):
            management.delete("queues", vhost, queue)


def replace_passwords(
    users: Iterable[User], passwords: Mapping[str, str], management: Management
) -> None:
    """Give ``users`` the ``passwords``, and close what they opened with others.

    Raises:
        BrokerConfigError: the broker has no such user.
    """
    for user in users:
        if management.get("users", user.name) is None:
            raise BrokerConfigError(f"the broker has no user {user.name!r}: enrol it first")
        put_user(user, passwords[user.name], management)
        _close_connections(user.name, management)


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
