"""Bring a broker to the declared state, as often as you like."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker_config.broker.cluster import grow, is_cluster, places
from broker_config.broker.drift import POLICIES, Difference, check, max_queues, observe
from broker_config.declaration.definitions import (
    HASHING,
    exchange_body,
    is_password,
    password_hash,
    policy_body,
    queue_body,
)
from broker_config.declaration.topology import suited
from warren_shared.errors import BrokerConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from broker_config.broker.management_api import Management
    from broker_config.declaration.topology import Topology, User

# A node writes down half a second later which member of a queue it has, and one that is killed
# before comes back without it: measured with RabbitMQ 3.10.8, killed after .35 s and after 1.5 s.
_WRITTEN_DOWN_S: Final = 1.0


@dataclass(frozen=True)
class Plan:
    """What `perform` is going to do: ``found`` differs, and ``foreign`` have other passwords."""

    topology: Topology
    passwords: Mapping[str, str]
    found: tuple[Difference, ...]
    foreign: tuple[str, ...]


def plan(
    topology: Topology,
    management: Management,
    passwords: Mapping[str, str],
    *,
    reset_passwords: bool = False,
    ours: Collection[str] = (),
) -> Plan:
    """Find what differs from ``topology``, and refuse what cannot be done; changes nothing.

    Nothing is deleted but bindings that an earlier version made and that do harm. What cannot be
    changed in place stops everything before the first change. A user that has another password
    than ``passwords`` says keeps it, since somebody may be logging in with it, unless
    ``reset_passwords``. ``ours`` are users whose passwords are being replaced by us: theirs may
    differ.

    Raises:
        BrokerConfigError: a queue or an exchange exists with other arguments, or a user has another
            password.
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
    found_foreign = foreign_passwords(topology, management, passwords)
    foreign = [user for user in found_foreign if user not in ours]
    if foreign and not reset_passwords:
        raise BrokerConfigError(
            f"the broker knows another password for {', '.join(foreign)} than credentials.json: "
            "bring the file of the home that made it, or apply --reset-passwords and hand out "
            "the new bundles"
        )
    return Plan(topology, passwords, tuple(found), tuple(foreign))


def perform(planned: Plan, management: Management) -> list[Difference]:
    """Create or repair what differs; return what differed. Nothing is ever deleted.

    Interrupted anywhere it is only not done yet: planned and performed again, it goes on.

    Raises:
        BrokerConfigError: the broker refuses.
    """
    topology, found = planned.topology, list(planned.found)
    if any(difference.kind == "vhost" for difference in found):
        management.put("vhosts", topology.vhost, body={})
        found += check(topology, management)
    if found:
        let_ourselves_in(topology.vhost, management)
    wrong = {(difference.kind, difference.name) for difference in found}
    for user in topology.users:
        if ("user", user.name) in wrong or user.name in planned.foreign:
            put_user(user, planned.passwords[user.name], management)
    if ("limit", topology.vhost) in wrong:
        _put_max_queues(topology, management)
    _put_objects(topology, management, wrong)
    found += grow(topology, management)
    # Last, so that a user who can log in finds everything in its place.
    _put_permissions(topology, management, wrong)
    found += [Difference("user", name, "password reset") for name in planned.foreign]
    return found


def foreign_passwords(
    topology: Topology, management: Management, passwords: Mapping[str, str]
) -> list[str]:
    """Users whose password on the broker is not the one in ``passwords``, where that has one."""
    hashes = {row["name"]: row for row in management.get("users")}
    return [
        user.name
        for user in topology.users
        if user.name in hashes
        and user.name in passwords
        and hashes[user.name].get("hashing_algorithm", HASHING) == HASHING
        and not is_password(passwords[user.name], hashes[user.name]["password_hash"])
    ]


def let_ourselves_in(vhost: str, management: Management) -> None:
    """Give the user we are all rights in ``vhost``, unless it has some there.

    A user who creates a vhost may not yet declare anything in it.
    """
    if management.get("permissions", vhost, management.user) is None:
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        management.put("permissions", vhost, management.user, body=everything)


def put_bounds(topology: Topology, management: Management) -> None:
    """Bring the limits that go with a federation's size to those of ``topology``."""
    wrong = {(difference.kind, difference.name) for difference in check(topology, management)}
    if ("vhost", topology.vhost) not in wrong:
        _put_policies(topology, management, wrong)
        if ("limit", topology.vhost) in wrong:
            _put_max_queues(topology, management)


def put_permission(topology: Topology, name: str, management: Management) -> None:
    """Give the user ``name`` its rights in ``topology``, if they differ."""
    if ("permission", name) in {(each.kind, each.name) for each in check(topology, management)}:
        _put_permissions(topology, management, {("permission", name)})


def _put_max_queues(topology: Topology, management: Management) -> None:
    """Bound the queues in the vhost of ``topology``, if it is there."""
    if (observed := observe(topology.vhost, management)) is not None:
        most = max_queues(topology, observed)
        management.put("vhost-limits", topology.vhost, "max-queues", body={"value": most})


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
    _put_policies(topology, management, wrong)
    missing = [queue for queue in topology.queues if ("queue", queue.name) in wrong]
    at = places(topology, (queue.name for queue in missing), management) if missing else {}
    for queue in missing:
        body = queue_body(queue.arguments)
        body |= {"node": at[queue.name]} if queue.name in at else {}
        management.put("queues", vhost, queue.name, body=body)
    if missing and is_cluster(management):
        time.sleep(_WRITTEN_DOWN_S)
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


def _put_policies(topology: Topology, management: Management, wrong: set[tuple[str, str]]) -> None:
    for policy in topology.policies:
        if (policy.kind, policy.name) in wrong:
            path = (POLICIES[policy.operator], topology.vhost, policy.name)
            management.put(*path, body=policy_body(policy))


def _put_permissions(
    topology: Topology, management: Management, wrong: set[tuple[str, str]]
) -> None:
    for user in topology.users:
        if {("user", user.name), ("limit", user.name)} & wrong:
            for limit, value in user.limits.items():
                management.put("user-limits", user.name, limit, body={"value": value})
        if user.permission and {("user", user.name), ("permission", user.name)} & wrong:
            management.put("permissions", topology.vhost, user.name, body=vars(user.permission))
