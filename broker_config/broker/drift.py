"""What differs between the declared state of a broker and the state it is in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from broker_config.declaration.topology import (
    Binding,
    Exchange,
    Permission,
    Policy,
    Queue,
    Topology,
    User,
    suited,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker_config.broker.management_api import Management

# Where the management API keeps policies, and those of the operator.
POLICIES: Final = {False: "policies", True: "operator-policies"}


@dataclass(frozen=True)
class Difference:
    """One thing that is not as declared; its text is one line.

    ``conflict`` marks what RabbitMQ cannot change while the thing exists.
    """

    kind: str
    name: str
    detail: str
    conflict: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.detail}"


def check(topology: Topology, management: Management) -> list[Difference]:
    """Every way in which the broker is not as ``topology`` declares; empty when it is."""
    observed = observe(topology.vhost, management)
    found = differences(topology, observed)
    return found + list(_most_queues(topology, observed)) if observed else found


def observe(vhost: str, management: Management) -> Topology | None:
    """What the broker has in ``vhost``; None if there is no such vhost."""
    if management.get("vhosts", vhost) is None:
        return None
    granted = {
        row["user"]: Permission.of(row) for row in management.get("vhosts", vhost, "permissions")
    }
    limits = {row["user"]: row["value"] for row in management.get("user-limits")}
    bounds = {row["vhost"]: row["value"] for row in management.get("vhost-limits", vhost) or ()}
    return Topology(
        vhost=vhost,
        max_queues=bounds.get(vhost, {}).get("max-queues"),
        exchanges=tuple(
            Exchange(row["name"], row["type"] if row["durable"] else f"{row['type']}, not durable")
            for row in management.get("exchanges", vhost)
        ),
        queues=tuple(
            Queue(row["name"], row["arguments"], is_away=row.get("state") == "down")
            for row in management.get("queues", vhost)
        ),
        bindings=tuple(
            Binding(row["source"], row["destination"], row["routing_key"])
            for row in management.get("bindings", vhost)
            if row["destination_type"] == "queue"
        ),
        policies=tuple(
            Policy(row["name"], row["pattern"], row["definition"], row["priority"], operator)
            for operator in (False, True)
            for row in management.get(POLICIES[operator], vhost)
        ),
        users=tuple(
            User(
                row["name"],
                granted.get(row["name"]),
                _tags(row["tags"]),
                limits.get(row["name"], {}),
            )
            for row in management.get("users")
        ),
    )


def differences(declared: Topology, observed: Topology | None) -> list[Difference]:
    """How ``observed`` falls short of ``declared``; what a broker has beyond that is its own."""
    if observed is None:
        return [Difference("vhost", declared.vhost, "missing")]
    declared = suited(declared, observed)
    found = [
        *_users(declared, observed),
        *_exchanges(declared, observed),
        *_queues(declared, observed),
        *_policies(declared, observed),
    ]
    bound = set(observed.bindings)
    away = {queue.name for queue in observed.queues if queue.is_away}
    found += [
        Difference("binding", f"{binding.source} -> {binding.queue}", "missing")
        for binding in declared.bindings
        if binding not in bound and binding.queue not in away
    ]
    found += [
        Difference("binding", f"{binding.source} -> {binding.queue}", "must not be there any more")
        for binding in declared.retired
        if binding in bound
    ]
    return found


def _users(declared: Topology, observed: Topology) -> Iterator[Difference]:
    users = {user.name: user for user in observed.users}
    for user in declared.users:
        other = users.get(user.name)
        if other is None:
            yield Difference("user", user.name, "missing")
            continue
        if set(other.tags) != set(user.tags):
            yield Difference("user", user.name, _not(list(other.tags), list(user.tags), "tags"))
        for detail in _settings(user.limits, other.limits):
            yield Difference("limit", user.name, detail)
        if user.permission is None or other.permission is None:
            if user.permission != other.permission:
                yield Difference("permission", user.name, "missing")
            continue
        for right, pattern in vars(user.permission).items():
            has = getattr(other.permission, right)
            if has != pattern:
                yield Difference("permission", user.name, _not(has, pattern, right))


def max_queues(declared: Topology, observed: Topology | None) -> int:
    """How many queues to allow in the vhost: all that are there or declared, and the watchers'.

    Fewer than there are would let no watcher in. A fleet that was made smaller leaves mailboxes.
    """
    there = observed.own_queues if observed else frozenset()
    watchers = (declared.max_queues or 0) - len(declared.queues)
    return len(there | declared.own_queues) + watchers


def _most_queues(declared: Topology, observed: Topology) -> Iterator[Difference]:
    most, has = max_queues(declared, observed), observed.max_queues
    # A queue or two that an administrator has added since leave room enough.
    room = ((declared.max_queues or 0) - len(declared.queues)) // 2
    if has is None or not most - room <= has <= most:
        yield Difference("limit", declared.vhost, _not(has, most, "max-queues"))


def _exchanges(declared: Topology, observed: Topology) -> Iterator[Difference]:
    kinds = {exchange.name: exchange.kind for exchange in observed.exchanges}
    for exchange in declared.exchanges:
        if exchange.name not in kinds:
            yield Difference("exchange", exchange.name, "missing")
        elif kinds[exchange.name] != exchange.kind:
            detail = _not(kinds[exchange.name], exchange.kind, "type")
            yield Difference("exchange", exchange.name, detail, conflict=True)


def _queues(declared: Topology, observed: Topology) -> Iterator[Difference]:
    queues = {queue.name: queue for queue in observed.queues}
    for queue in declared.queues:
        if queue.name not in queues:
            yield Difference("queue", queue.name, "missing")
            continue
        for detail in _settings(queue.arguments, queues[queue.name].arguments):
            yield Difference("queue", queue.name, detail, conflict=True)


def _policies(declared: Topology, observed: Topology) -> Iterator[Difference]:
    policies = {(policy.kind, policy.name): policy for policy in observed.policies}
    for policy in declared.policies:
        other = policies.get((policy.kind, policy.name))
        if other is None:
            yield Difference(policy.kind, policy.name, "missing")
            continue
        wanted = {**policy.definition, "pattern": policy.pattern, "priority": policy.priority}
        has = {**other.definition, "pattern": other.pattern, "priority": other.priority}
        for detail in _settings(wanted, has):
            yield Difference(policy.kind, policy.name, detail)


def _settings(wanted: Any, has: Any) -> Iterator[str]:
    for key in sorted({*wanted, *has}):
        if wanted.get(key) != has.get(key):
            yield _not(has.get(key), wanted.get(key), key)


def _not(has: object, wanted: object, what: str) -> str:
    return f"{what} is {has!r}, declared {wanted!r}"


def _tags(tags: str | Iterable[str]) -> tuple[str, ...]:
    # Text up to RabbitMQ 3.8, a list since.
    return tuple(filter(None, tags.split(",") if isinstance(tags, str) else tags))
