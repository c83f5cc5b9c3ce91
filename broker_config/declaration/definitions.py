"""A topology as RabbitMQ's definitions file, which a node loads when it boots."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Any, Final

from broker_config.declaration.topology import ADMIN, Policy, Topology, User

if TYPE_CHECKING:
    from collections.abc import Mapping

HASHING: Final = "rabbit_password_hashing_sha256"
_SALT_BYTES: Final = 4


def definitions(
    topology: Topology, passwords: Mapping[str, str] | None = None, *, admin: bool = False
) -> dict[str, Any]:
    """The definitions of ``topology``, for RabbitMQ 3.10 and later.

    Without ``passwords`` the users have none (no hash either): good for reading, and a broker that
    imports it refuses their logins until each is given a password. ``admin`` adds the
    administrator of a private node.

    Not the limit of queues, which `apply` sets: RabbitMQ 4 refuses a whole file, and a node does
    not boot, when its queues would exceed the limit of the vhost that is there already.
    """
    vhost = topology.vhost
    users = (*topology.users, ADMIN) if admin else topology.users
    return {
        "vhosts": [{"name": vhost}],
        "users": [_user(user, passwords) for user in users],
        "permissions": [
            {"user": user.name, "vhost": vhost, **vars(user.permission)}
            for user in users
            if user.permission is not None
        ],
        "exchanges": [
            {"name": exchange.name, "vhost": vhost, **exchange_body(exchange.kind)}
            for exchange in topology.exchanges
        ],
        "queues": [
            {"name": queue.name, "vhost": vhost, **queue_body(queue.arguments)}
            for queue in topology.queues
        ],
        "bindings": [
            {
                "source": binding.source,
                "vhost": vhost,
                "destination": binding.queue,
                "destination_type": "queue",
                "routing_key": binding.routing_key,
                "arguments": {},
            }
            for binding in topology.bindings
        ],
        "policies": [
            {"name": policy.name, "vhost": vhost, **policy_body(policy)}
            for policy in topology.policies
            if not policy.operator
        ],
        "parameters": [
            {
                "name": policy.name,
                "vhost": vhost,
                "component": "operator_policy",
                "value": policy_body(policy),
            }
            for policy in topology.policies
            if policy.operator
        ],
    }


def exchange_body(kind: str) -> dict[str, Any]:
    """What RabbitMQ is told about an exchange, in a file or over HTTP."""
    return {
        "type": kind,
        "durable": True,
        "auto_delete": False,
        "internal": False,
        "arguments": {},
    }


def queue_body(arguments: Mapping[str, str | int | bool]) -> dict[str, Any]:
    """What RabbitMQ is told about a queue."""
    return {"durable": True, "auto_delete": False, "arguments": dict(arguments)}


def policy_body(policy: Policy) -> dict[str, Any]:
    """What RabbitMQ is told about a policy."""
    return {
        "pattern": policy.pattern,
        "definition": dict(policy.definition),
        "priority": policy.priority,
        "apply-to": "queues",
    }


def password_hash(password: str, salt: bytes | None = None) -> str:
    """RabbitMQ's salted SHA-256 of ``password``: base64(salt + sha256(salt + password))."""
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    digest = hashlib.sha256(salt + password.encode()).digest()
    return base64.b64encode(salt + digest).decode("ascii")


def is_password(password: str, hashed: str) -> bool:
    """Whether RabbitMQ's ``hashed`` is of ``password``."""
    salt = base64.b64decode(hashed)[:_SALT_BYTES]
    return hmac.compare_digest(password_hash(password, salt), hashed)


def _user(user: User, passwords: Mapping[str, str] | None) -> dict[str, Any]:
    # An empty hash is how RabbitMQ spells "no login by password".
    hashed = password_hash(passwords[user.name]) if passwords is not None else ""
    return {
        "name": user.name,
        "password_hash": hashed,
        "hashing_algorithm": HASHING,
        "tags": list(user.tags),
        "limits": user.limits,
    }
