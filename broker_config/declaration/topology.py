"""The one declaration of what a federation has on the broker; everything else derives from it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from broker_config.declaration.federation import MAILBOX_LIMIT, Federation, Fleet
from warren_shared import naming

__all__ = ["ADMIN", "Federation", "Fleet", "Topology", "User", "suited", "topology"]

Arguments: TypeAlias = Mapping[str, str | int | bool]

GIB: Final = 1 << 30
WEEK_MS: Final = 7 * 24 * 3600 * 1000


@dataclass(frozen=True)
class Exchange:
    """A durable exchange of ``kind`` fanout, direct or topic."""

    name: str
    kind: str


@dataclass(frozen=True)
class Queue:
    """A durable queue; ``arguments`` cannot be changed while it exists.

    In a cluster it is declared on another node than the queue ``apart_from``. One that was observed
    ``is_away`` while its node is down: the broker does not show its bindings then.
    """

    name: str
    arguments: Arguments
    apart_from: str = ""
    is_away: bool = False


@dataclass(frozen=True)
class Binding:
    """Messages of exchange ``source`` with ``routing_key`` go to ``queue``."""

    source: str
    queue: str
    routing_key: str = ""


@dataclass(frozen=True)
class Policy:
    """Limits of all queues whose name matches ``pattern``; may be changed while they are in use.

    An ``operator``'s is a ceiling: no policy that somebody sets in the vhost lifts it.
    """

    name: str
    pattern: str
    definition: Arguments
    priority: int = 0
    operator: bool = False

    @property
    def kind(self) -> str:
        """What people call it."""
        return "operator policy" if self.operator else "policy"


@dataclass(frozen=True)
class Permission:
    """Regular expressions of what a user may configure, write and read in the vhost."""

    configure: str
    write: str
    read: str

    @classmethod
    def of(cls, row: Mapping[str, str]) -> Permission:
        """As the management API tells it."""
        return cls(row["configure"], row["write"], row["read"])


@dataclass(frozen=True)
class User:
    """A broker user; ``tags`` say what it may do in the management UI.

    ``limits`` are RabbitMQ's ``max-connections`` and ``max-channels``: open at once, on any node.
    """

    name: str
    permission: Permission | None
    tags: tuple[str, ...] = ()
    limits: Arguments = field(default_factory=dict)


@dataclass(frozen=True)
class Topology:
    """Everything a federation has on the broker, in the vhost ``vhost``.

    ``retired`` are bindings that an earlier version declared and that do harm; `apply` removes
    them.
    ``max_queues``: no more may be declared in the vhost; None: as many as anybody likes.
    """

    vhost: str
    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]
    policies: tuple[Policy, ...]
    users: tuple[User, ...]
    retired: tuple[Binding, ...] = ()
    max_queues: int | None = None

    @property
    def own_queues(self) -> frozenset[str]:
        """Names of the queues that are not a watcher's."""
        return frozenset(queue.name for queue in self.queues if not re.match(_WATCHED, queue.name))


# Not part of a topology: on a broker of your own you already have an administrator, and
# broker-config must not touch its password.
ADMIN: Final = User("admin", Permission(".*", ".*", ".*"), ("administrator",))

# Of a message to a quorum queue: RabbitMQ 4 gives it up after 20 unless it is told otherwise.
_MAX_RETURNS: Final = 1_000_000_000
_NOTHING: Final = "^$"
_PERHAPS_SPARE: Final = f"({re.escape(naming.SPARE)})?"
_DEAD_LETTERS: Final = "x-dead-letter-exchange"
# What a federation with a keeper has in addition.
KEEPER_POLICY: Final = naming.KEEPER_USER
KEEPER_QUEUES: Final = (naming.MASK_QUEUE, naming.UNMASK_QUEUE, naming.UNMASKED_QUEUE)

# A worker has one connection with one channel. One that was cut off without a word stays the
# broker's for two heartbeats, and a site whose line flaps may leave several behind.
_SPARE_CONNECTIONS: Final = 8
_CHANNELS_EACH: Final = 4
# The coordinator, its standbys and commands that look; people with `watch`.
_STAFF_CONNECTIONS: Final = 64

# More than clients need: it bounds one that floods the queue with empty messages, each of which
# costs the broker's memory some hundred bytes.
_MESSAGES: Final = 8_192
_WATCHED_BYTES: Final = 64 << 20
# Sealed seeds: one for each version that a client may still contribute to, and repeated ones.
_SEEDS_EACH: Final = 64
_SEED_BYTES: Final = 1 << 10
# The coordinator has one request open at a time, and repeats it after a restart.
_REQUESTS: Final = 64
_ANSWERS: Final = 4  # of a model's size each
# Only the broker gives such a name, and only to a classic queue: to no exchange, and no stream.
_NAMED_BY_BROKER: Final = r"^amq\.gen.*$"
# Watchers of an older version chose their queues' names.
_WATCHED: Final = r"^(amq\.gen.*|watch\..*)$"
# One for each of the watcher's connections.
_WATCHERS_QUEUES: Final = _STAFF_CONNECTIONS
# A queue without a consumer is left over: `watch` and the dashboard end with theirs.
_LEFT_OVER_MS: Final = 60_000


def topology(federation: Federation) -> Topology:
    """What the broker must look like for ``federation``."""
    spare = federation.spare_mailboxes
    told = (_rejected(in_cluster=spare), _state(in_cluster=spare), _newest(), _enrolled())
    keepers = KEEPER_QUEUES if federation.keeper else ()
    queues = (_updates(), *told, *map(_log, keepers), *_mailboxes(federation))
    mailboxes = tuple(queue.name for queue in queues if naming.owner_of_mailbox(queue.name))
    return Topology(
        vhost=federation.name,
        max_queues=len(queues) + _WATCHERS_QUEUES,
        exchanges=(
            Exchange(naming.MODEL_EXCHANGE, "fanout"),
            Exchange(naming.UPDATE_EXCHANGE, "direct"),
            Exchange(naming.REJECTED_EXCHANGE, "fanout"),
            Exchange(naming.EVENT_EXCHANGE, "topic"),
            *([Exchange(naming.UNMASKED_EXCHANGE, "fanout")] if federation.keeper else []),
        ),
        queues=queues,
        bindings=(
            Binding(naming.UPDATE_EXCHANGE, naming.UPDATE_QUEUE, naming.UPDATE_QUEUE),
            Binding(naming.REJECTED_EXCHANGE, naming.REJECTED_QUEUE),
            *(_keepers_bindings() if federation.keeper else ()),
            *(Binding(naming.MODEL_EXCHANGE, mailbox) for mailbox in mailboxes),
        ),
        policies=_policies(federation),
        users=(
            _coordinator(with_keeper=bool(federation.keeper)),
            _watcher(),
            *([_keeper()] if federation.keeper else []),
            *(_client(client, spare) for client in federation.clients),
            *(_fleet(fleet, spare) for fleet in federation.fleets),
        ),
    )


def suited(declared: Topology, observed: Topology) -> Topology:
    """``declared`` for a broker that an earlier version, or one node, was prepared with.

    What cannot be changed while it exists stays as it is: queues that became quorum queues when the
    broker became a cluster, and the arguments of `update`. That one dead-letters into
    `update.rejected`: a client that sets an `expiration` puts its message there, past the
    coordinator, and pushes older ones out. So there the exchange must lead nowhere; the
    coordinator, which publishes to the queue itself, does not need it.
    """
    declared = _with_kinds(declared, observed)
    old = next((queue for queue in observed.queues if queue.name == naming.UPDATE_QUEUE), None)
    if old is None or old.arguments.get(_DEAD_LETTERS) != naming.REJECTED_EXCHANGE:
        return declared
    letters = Binding(naming.REJECTED_EXCHANGE, naming.REJECTED_QUEUE)
    kept = {_DEAD_LETTERS: naming.REJECTED_EXCHANGE}
    return replace(
        declared,
        queues=_with_arguments(declared.queues, {old.name}, kept),
        bindings=tuple(binding for binding in declared.bindings if binding != letters),
        retired=(letters,),
    )


def _with_kinds(declared: Topology, observed: Topology) -> Topology:
    """``declared``, with classic queues where they were classic before there was a cluster."""
    kept = {
        queue.name
        for queue in observed.queues
        if queue.name in (naming.REJECTED_QUEUE, naming.STATE_QUEUE)
        and queue.arguments.get("x-queue-type") == "classic"
    }
    classic: Arguments = {"x-queue-type": "classic"}
    return replace(declared, queues=_with_arguments(declared.queues, kept, classic))


def _with_arguments(
    queues: Iterable[Queue], changed: Collection[str], arguments: Arguments
) -> tuple[Queue, ...]:
    """``queues``, of which those named in ``changed`` have these ``arguments`` too."""
    return tuple(
        replace(queue, arguments={**queue.arguments, **arguments})
        if queue.name in changed
        else queue
        for queue in queues
    )


def _updates() -> Queue:
    return _log(naming.UPDATE_QUEUE)


def _log(name: str) -> Queue:
    return Queue(
        name,
        {
            "x-queue-type": "quorum",
            # A second coordinator, or keeper, waits as a standby; two that fold half a round each
            # would never reach a quorum.
            "x-single-active-consumer": True,
            # It could be a policy, but a wiped policy must not turn "the publisher is told" into
            # "the oldest update is dropped". It dead-letters nowhere: only what its sender lets
            # expire would go there, past the coordinator.
            "x-overflow": "reject-publish",
        },
    )


def _keepers_bindings() -> tuple[Binding, ...]:
    # Clients write to the exchange of updates already, and need no other right.
    return (
        Binding(naming.UPDATE_EXCHANGE, naming.MASK_QUEUE, naming.MASK_QUEUE),
        Binding(naming.UNMASKED_EXCHANGE, naming.UNMASKED_QUEUE),
    )


def _kind(*, in_cluster: bool) -> str:
    # A classic queue is away with its node. What there are few of, and small, may be on all nodes.
    return "quorum" if in_cluster else "classic"


def _rejected(*, in_cluster: bool) -> Queue:
    return Queue(naming.REJECTED_QUEUE, {"x-queue-type": _kind(in_cluster=in_cluster)})


def _state(*, in_cluster: bool) -> Queue:
    arguments: Arguments = {"x-queue-type": _kind(in_cluster=in_cluster), "x-max-length": 1}
    return Queue(naming.STATE_QUEUE, arguments)


def _newest() -> Queue:
    # Which version is out, for a coordinator that comes with another checkpoint: no node's loss
    # may take that away. A few, since one that was replaced may put its own behind a newer one.
    return Queue(naming.NEWEST_QUEUE, {"x-queue-type": "quorum", "x-max-length": 16})


def _enrolled() -> Queue:
    # Who may take part, as `broker-config` says it last: the coordinator reads it, and nobody else.
    return Queue(naming.ENROLLED_QUEUE, {"x-queue-type": "quorum", "x-max-length": 1})


def _mailboxes(federation: Federation) -> Iterator[Queue]:
    # Classic, since a fanout stores a body once on each node for all of them; a quorum queue would
    # store it once for each: on three nodes, 4 MiB to 50 mailboxes took 2.8 s instead of 0.03 and
    # 220 MB of each node's disk (`python -m benchmarks.mailboxes`). A classic queue is on one node
    # only, so in a cluster there is a second one on another.
    arguments: Arguments = {"x-queue-type": "classic", "x-max-length": MAILBOX_LIMIT}
    for member in federation.members:
        mailbox = naming.mailbox(member)
        yield Queue(mailbox, arguments)
        if federation.spare_mailboxes:
            yield Queue(naming.spare(mailbox), arguments, apart_from=mailbox)


def _policies(federation: Federation) -> tuple[Policy, ...]:
    members, model_bytes = len(federation.members), federation.model_bytes
    updates = {
        "max-length": max(_MESSAGES, 2 * members * federation.mailbox_length),
        "max-length-bytes": max(GIB, 2 * members * model_bytes),
    }
    watchers = {
        "max-length": _MESSAGES,
        "max-length-bytes": _WATCHED_BYTES,
        "expires": _LEFT_OVER_MS,
    }
    update_queue = f"^{re.escape(naming.UPDATE_QUEUE)}$"
    return (
        Policy(
            "mailbox",
            r"^model\.",
            {"max-length": federation.mailbox_length, "overflow": "drop-head"},
        ),
        Policy(
            "update",
            update_queue,
            # RabbitMQ 4 gives up a message after 20 returns: a coordinator that restarts often
            # would lose updates. 3.10 knows no limit, and -1 only means "none" from 4 on.
            {"delivery-limit": _MAX_RETURNS},
        ),
        Policy(
            "newest",
            _one_of(naming.NEWEST_QUEUE, naming.ENROLLED_QUEUE),
            {"delivery-limit": _MAX_RETURNS},  # they are looked at and given back
        ),
        Policy(
            "rejected",
            f"^{re.escape(naming.REJECTED_QUEUE)}$",
            {
                "max-length-bytes": max(GIB // 4, 2 * model_bytes),
                "message-ttl": WEEK_MS,
                "overflow": "drop-head",
                "delivery-limit": _MAX_RETURNS,
            },
        ),
        # The newest is what it is for; the queue itself says so too, should policies be wiped.
        Policy(
            "state",
            f"^{re.escape(naming.STATE_QUEUE)}$",
            {"max-length": 1, "overflow": "drop-head", "delivery-limit": _MAX_RETURNS},
        ),
        Policy("update", update_queue, updates, operator=True),
        Policy("watch", _WATCHED, watchers, operator=True),
        *(_keepers_policies(federation) if federation.keeper else ()),
    )


def _keepers_policies(federation: Federation) -> tuple[Policy, ...]:
    """Limits of the keeper's queues: sealed seeds, requests, and sums of masks."""
    seeds = max(_MESSAGES, _SEEDS_EACH * len(federation.members))
    answer = federation.mailbox_length
    limits = {
        naming.MASK_QUEUE: (seeds, max(_WATCHED_BYTES, seeds * _SEED_BYTES)),
        naming.UNMASK_QUEUE: (_REQUESTS, _WATCHED_BYTES),
        naming.UNMASKED_QUEUE: (_ANSWERS * answer, _ANSWERS * answer * naming.CHUNK_BYTES),
    }
    return (
        Policy(KEEPER_POLICY, _one_of(*KEEPER_QUEUES), {"delivery-limit": _MAX_RETURNS}),
        *(
            Policy(
                queue,
                _one_of(queue),
                {"max-length": messages, "max-length-bytes": size_bytes},
                operator=True,
            )
            for queue, (messages, size_bytes) in limits.items()
        ),
    )


def _one_of(*literal: str) -> str:
    return f"^({'|'.join(map(re.escape, literal))})$"


def _coordinator(*, with_keeper: bool) -> User:
    # "amq.default" is what a permission calls the exchange "": the way into one mailbox alone.
    write = (naming.MODEL_EXCHANGE, naming.EVENT_EXCHANGE, naming.REJECTED_EXCHANGE, "amq.default")
    # Never the keeper's `mask` and `unmask`: seeds are for the keeper alone.
    answers = (naming.UNMASKED_QUEUE,) if with_keeper else ()
    looked_at = (naming.NEWEST_QUEUE, naming.ENROLLED_QUEUE)
    read = _one_of(naming.UPDATE_QUEUE, naming.REJECTED_QUEUE, *looked_at, *answers)
    # Whether mailboxes and the last word are there, and consumed, it only asks: from 4.2.6 on
    # RabbitMQ wants some permission for that. This one lets it bind them to what it may read, which
    # it could send there anyway; the one to read would let it take models from clients.
    seen = f"{re.escape(naming.mailbox(''))}.+|{re.escape(naming.STATE_QUEUE)}"
    permission = Permission(_NOTHING, f"^({'|'.join(map(re.escape, write))}|{seen})$", read)
    return User(naming.COORDINATOR_USER, permission, limits=_limits(_STAFF_CONNECTIONS))


def _watcher() -> User:
    seen = f"{re.escape(naming.EVENT_EXCHANGE)}|{re.escape(naming.STATE_QUEUE)}"
    read = rf"^({seen}|amq\.gen.*|watch\..*)$"
    permission = Permission(_NAMED_BY_BROKER, _NAMED_BY_BROKER, read)
    return User(naming.WATCHER_USER, permission, ("monitoring",), _limits(_STAFF_CONNECTIONS))


def _keeper() -> User:
    # No read on `update`, nor on any mailbox: it learns who takes part, and nothing of an update.
    read = _one_of(naming.MASK_QUEUE, naming.UNMASK_QUEUE)
    permission = Permission(_NOTHING, _one_of(naming.UNMASKED_EXCHANGE), read)
    return User(naming.KEEPER_USER, permission, limits=_limits(_SPARE_CONNECTIONS))


def _client(client: str, spare: bool) -> User:
    mailbox = f"^{re.escape(naming.mailbox(client))}{_PERHAPS_SPARE if spare else ''}$"
    return User(client, _contributor(mailbox), limits=_limits(_SPARE_CONNECTIONS))


def _fleet(fleet: Fleet, spare: bool) -> User:
    end = _PERHAPS_SPARE if spare else ""
    mailboxes = rf"^{re.escape(naming.mailbox(fleet.name))}\.[0-9]+{end}$"
    limits = _limits(2 * fleet.size + _SPARE_CONNECTIONS)
    return User(fleet.name, _contributor(mailboxes), limits=limits)


def is_contributor(permission: Permission, user: str) -> bool:
    """Whether ``permission`` is that of the client or the fleet ``user``, or the keeper's."""
    if user == naming.KEEPER_USER:
        return permission == _keeper().permission
    if not naming.is_user_name(user):
        return False
    return permission in {
        known.permission
        for spare in (False, True)
        for known in (_client(user, spare), _fleet(Fleet(user, 1), spare))
    }


def _limits(connections: int) -> Arguments:
    return {"max-connections": connections, "max-channels": _CHANNELS_EACH * connections}


def _contributor(mailboxes: str) -> Permission:
    # No read on the exchange `model`: it would let a client bind `model` into `update`.
    return Permission(_NOTHING, _one_of(naming.UPDATE_EXCHANGE), mailboxes)
