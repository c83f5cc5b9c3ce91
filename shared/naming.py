"""What all parts must agree on: names on the broker, and how big a message is. Imports nothing.

A client's AMQP user *is* its client id. A *fleet* is a row of identical replicas that share one
user; replica ``n`` of fleet ``phone`` is the client ``phone.n``. A dot therefore never occurs in
a user's name, and what stands before the first dot of a client id is the user who may speak for it.
"""

import re
from typing import Final

MODEL_EXCHANGE: Final = "model"
UPDATE_EXCHANGE: Final = "update"
UPDATE_QUEUE: Final = "update"
REJECTED_EXCHANGE: Final = "update.rejected"
REJECTED_QUEUE: Final = "update.rejected"
EVENT_EXCHANGE: Final = "event"
STATE_QUEUE: Final = "event.state"
NEWEST_QUEUE: Final = "coordinator.newest"
ENROLLED_QUEUE: Final = "coordinator.enrolled"
ENROLLED_FORMAT: Final = 1  # of the message in it
ENROLLED_MOST: Final = 10_000  # clients, and fleets, that it names: as many as anybody watches

# Secure aggregation: seeds from clients to the keeper, what the coordinator asks it, what it says.
MASK_QUEUE: Final = "mask"
UNMASK_QUEUE: Final = "unmask"
UNMASKED_EXCHANGE: Final = "unmasked"
UNMASKED_QUEUE: Final = "unmasked"

# No user has a dot in its name, and a fleet's replica has a number behind it.
SPARE: Final = ".spare"

# Model and update travel in messages of one MiB, the fastest size through pika and RabbitMQ; how
# many a mailbox must hold follows from it.
CHUNK_BYTES: Final = 1 << 20

COORDINATOR_USER: Final = "coordinator"
WATCHER_USER: Final = "watcher"
KEEPER_USER: Final = "keeper"
RESERVED_USERS: Final = frozenset({COORDINATOR_USER, WATCHER_USER, KEEPER_USER, "admin", "guest"})

USER_PATTERN: Final = r"[a-z0-9][a-z0-9_-]{0,63}"
_USER = re.compile(USER_PATTERN)
_CLIENT = re.compile(rf"({USER_PATTERN})(?:\.(0|[1-9][0-9]{{0,5}}))?")


def is_user_name(name: str) -> bool:
    """Whether ``name`` may name a client or fleet: lower case, digits, ``-`` and ``_``, no dot."""
    return _USER.fullmatch(name) is not None and name not in RESERVED_USERS


def is_client_id(client: str) -> bool:
    """Whether ``client`` is a client id: ``hospital-a``, or ``phone.17`` for a fleet's replica."""
    return _CLIENT.fullmatch(client) is not None


def speaks_for(user: str, client: str) -> bool:
    """Whether the broker's ``user`` may contribute as ``client``: its own id, or its fleet's."""
    matched = _CLIENT.fullmatch(client)
    return matched is not None and matched[1] == user


def mailbox(client: str) -> str:
    """Name of the queue that holds the newest global model for ``client``."""
    return f"model.{client}"


def spare(mailbox: str) -> str:
    """Name of the queue on another node of a cluster that gets what ``mailbox`` gets."""
    return mailbox + SPARE


def mailboxes(client: str, *, spares: bool) -> tuple[str, ...]:
    """The mailbox of ``client``, with ``spares`` its spare too."""
    first = mailbox(client)
    return (first, spare(first)) if spares else (first,)


def owner_of_mailbox(queue: str) -> str | None:
    """The user whose mailbox or spare ``queue`` is, or whose fleet's; None if it is neither."""
    prefix = mailbox("")
    client = queue.removeprefix(prefix).removesuffix(SPARE)
    matched = _CLIENT.fullmatch(client) if queue.startswith(prefix) else None
    return matched[1] if matched else None


def user_of(client: str) -> str:
    """The user that ``client`` logs in as: a fleet's replicas are one."""
    return client.partition(".")[0]


def fleet_member(fleet: str, number: int) -> str:
    """Client id of replica ``number`` (from 0) of ``fleet``."""
    return f"{fleet}.{number}"
