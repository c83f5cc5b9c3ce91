"""Taking access away: who is revoked, or whose password is replaced, is out at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_config import names
from broker_config.apply import put_user
from broker_config.errors import BrokerConfigError

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
    if management.get("connections", "username", name):
        management.delete("connections", "username", name)
