"""Bring a broker to the declared state, as often as you like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_config.check import POLICIES, Difference, check, observe
from broker_config.definitions import (
    HASHING,
    exchange_body,
    is_password,
    password_hash,
    policy_body,
    queue_body,
)
from broker_config.errors import BrokerConfigError
from broker_config.topology import suited

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker_config.management import Management
    from broker_config.topology import Topology, User


def apply(
    topology: Topology,
    management: Management,
    passwords: Mapping[str, str],
    *,
    reset_passwords: bool = False,
) -> list[Difference]:
    """Create and mend what differs from ``topology``; return what differed.

    Nothing is deleted but bindings that an earlier version made and that do harm. What cannot be
    changed in place stops everything before the first change. A user that has another password
    than ``passwords`` says keeps it, since somebody may be logging in with it, unless
    ``reset_passwords``.

    Raises:
        BrokerConfigError: a queue or an exchange exists with other arguments, a user has another
            password, or the broker refuses.
    """
    found = check(topology, management)
    if (observed := observe(topology.vhost, management)) is not None:
        topology = suited(topology, observed)
    for difference in found:
        if difference.conflict:
            raise BrokerConfigError(
                f"{difference} in vhost {topology.vhost}; RabbitMQ cannot change that in place: "
                f"let it run empty, delete that {difference.kind} in the management UI, apply again"
            )
    foreign = _foreign_passwords(topology, management, passwords)
    if foreign and not reset_passwords:
        raise BrokerConfigError(
            f"the broker knows another password for {', '.join(foreign)} than credentials.json: "
            "bring the file of the home that made it, or apply --reset-passwords and hand out "
            "the new bundles"
        )
    if any(difference.kind == "vhost" for difference in found):
        _create_vhost(topology.vhost, management)
        found += check(topology, management)
    wrong = {(difference.kind, difference.name) for difference in found}
    for user in topology.users:
        if ("user", user.name) in wrong or user.name in foreign:
            put_user(user, passwords[user.name], management)
    _put_objects(topology, management, wrong)
    # Last, so that whoever may log in finds everything in its place.
    _put_permissions(topology, management, wrong)
    found += [Difference("user", name, "password reset") for name in foreign]
    return found


def _foreign_passwords(
    topology: Topology, management: Management, passwords: Mapping[str, str]
) -> list[str]:
    hashes = {row["name"]: row for row in management.get("users")}
    return [
        user.name
        for user in topology.users
        if user.name in hashes
        and hashes[user.name].get("hashing_algorithm", HASHING) == HASHING
        and not is_password(passwords[user.name], hashes[user.name]["password_hash"])
    ]


def _create_vhost(vhost: str, management: Management) -> None:
    management.put("vhosts", vhost, body={})
    # Whoever creates a vhost may not yet declare anything in it.
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    management.put("permissions", vhost, management.user, body=everything)


def put_user(user: User, password: str, management: Management) -> None:
    """Create ``user``, or give it this password and its tags."""
    body = {
        "password_hash": password_hash(password),
        "hashing_algorithm": HASHING,
        "tags": ",".join(user.tags),
    }
    management.put("users", user.name, body=body)


def _put_objects(topology: Topology, management: Management, wrong: set[tuple[str, str]]) -> None:
    vhost = topology.vhost
    for exchange in topology.exchanges:
        if ("exchange", exchange.name) in wrong:
            management.put("exchanges", vhost, exchange.name, body=exchange_body(exchange.kind))
    # Policies before queues: a mailbox without its limit would fill up meanwhile.
    for policy in topology.policies:
        if (policy.kind, policy.name) in wrong:
            management.put(POLICIES[policy.operator], vhost, policy.name, body=policy_body(policy))
    for queue in topology.queues:
        if ("queue", queue.name) in wrong:
            management.put("queues", vhost, queue.name, body=queue_body(queue.arguments))
    _put_bindings(topology, management, wrong)


def _put_bindings(topology: Topology, management: Management, wrong: set[tuple[str, str]]) -> None:
    vhost = topology.vhost
    for binding in topology.bindings:
        if ("binding", f"{binding.source} -> {binding.queue}") in wrong:
            path = ("bindings", vhost, "e", binding.source, "q", binding.queue)
            management.post(*path, body={"routing_key": binding.routing_key, "arguments": {}})
    for binding in topology.retired:
        if ("binding", f"{binding.source} -> {binding.queue}") in wrong:
            path = ("bindings", vhost, "e", binding.source, "q", binding.queue)
            # How the management API writes the properties of a binding without routing key.
            management.delete(*path, binding.routing_key or "~")


def _put_permissions(
    topology: Topology, management: Management, wrong: set[tuple[str, str]]
) -> None:
    for user in topology.users:
        if {("user", user.name), ("limit", user.name)} & wrong:
            for limit, value in user.limits.items():
                management.put("user-limits", user.name, limit, body={"value": value})
        if user.permission and {("user", user.name), ("permission", user.name)} & wrong:
            management.put("permissions", topology.vhost, user.name, body=vars(user.permission))
