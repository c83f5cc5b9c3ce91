"""The nodes of a broker: which queue is declared where, and which queue a lost node would take."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from broker_config.broker.drift import Difference
from warren_shared import naming
from warren_shared.errors import BrokerConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from broker_config.broker.management_api import Management
    from broker_config.declaration.topology import Queue, Topology

MEMBERS: Final = 3  # of a quorum queue, as RabbitMQ makes it by default; any one may be lost
_UNDER_WAY: Final = "cluster_change_not_permitted"
_CHANGE_S: Final = 30.0
_LOOK_S: Final = 0.2


@dataclass(frozen=True)
class ClusterNode:
    """A node by its Erlang name; ``running``: the node that was asked sees it."""

    name: str
    running: bool


def nodes(management: Management) -> list[ClusterNode]:
    """The nodes of the broker, those that are down included, in the order of their names."""
    found = management.get("nodes") or ()
    return sorted(
        (ClusterNode(row["name"], bool(row.get("running"))) for row in found),
        key=lambda node: node.name,
    )


def is_cluster(management: Management) -> bool:
    """Whether the broker has several nodes."""
    return len(nodes(management)) > 1


def places(topology: Topology, missing: Iterable[str], management: Management) -> Mapping[str, str]:
    """On which node to declare each mailbox of ``missing``, by queue name; nothing on one node.

    Mailboxes are spread evenly. A spare is on another node than its mailbox.

    Raises:
        BrokerConfigError: only one node of the cluster runs, so that a spare has no place.
    """
    every = nodes(management)
    running = [node.name for node in every if node.running]
    if len(every) < 2:
        return {}
    rows = management.get("queues", topology.vhost) or ()
    at = {row["name"]: row.get("node", "") for row in rows}
    load = Counter(dict.fromkeys(running, 0))
    load.update(node for node in at.values() if node in load)
    wanted = set(missing)
    found: dict[str, str] = {}
    for queue in topology.queues:
        if queue.name not in wanted or naming.owner_of_mailbox(queue.name) is None:
            continue
        free = [node for node in running if node != at.get(queue.apart_from)]
        if not free:
            raise BrokerConfigError(
                f"queue {queue.name} belongs on another node than {queue.apart_from}, and no other"
                " one is running: start the others, apply again"
            )
        found[queue.name] = at[queue.name] = min(free, key=lambda node: load[node])
        load[found[queue.name]] += 1
    return found


def findings(topology: Topology, management: Management) -> Iterator[Difference]:
    """What the loss of one more node would take away; nothing for a single node."""
    every = nodes(management)
    if len(every) < 2:
        return
    for node in every:
        if not node.running:
            yield Difference(
                "node", node.name,
                "is down: start it (a private one: `broker-config up`), or if it is gone for good"
                f" `rabbitmqctl forget_cluster_node {node.name}`",
            )  # fmt: skip
    rows = {row["name"]: row for row in management.get("queues", topology.vhost) or ()}
    for queue in topology.queues:
        row = rows.get(queue.name)
        if row is None:
            continue
        if queue.arguments.get("x-queue-type") == "quorum":
            yield from _members(queue, row, topology.vhost, every, management)
        elif queue.apart_from and row.get("node") == rows.get(queue.apart_from, {}).get("node"):
            yield Difference(
                "queue", queue.name,
                f"is on the node of {queue.apart_from}, {row.get('node')}: delete it, apply again",
            )  # fmt: skip


def _members(
    queue: Queue,
    row: Mapping[str, Any],
    vhost: str,
    every: Sequence[ClusterNode],
    management: Management,
) -> Iterator[Difference]:
    if row.get("type") not in (None, "quorum"):
        return  # an older version's, which `suited` accepts
    members, online = row.get("members") or [], row.get("online") or []
    if 2 * len(online) <= len(members):
        yield Difference(
            "queue", queue.name,
            f"has no majority: {len(online)} of its {len(members)} members are up, so it takes and"
            " gives nothing; start the others",
        )  # fmt: skip
    wanted = min(MEMBERS, len(every))
    if len(members) < wanted:
        without = [node.name for node in every if node.name not in members]
        yield Difference(
            "queue", queue.name,
            f"has {len(members)} members, of {wanted} that it should have: "
            + _how_to_grow(vhost, queue.name, without, management),
        )  # fmt: skip


def grow(topology: Topology, management: Management) -> list[Difference]:
    """Give quorum queues the members that they lack, on nodes that run; return what was done.

    RabbitMQ before 3.13 has no such request; `findings` says by which command to do it there.
    """
    running = [node.name for node in nodes(management) if node.running]
    if len(running) < 2 or not _can_grow(management):
        return []
    done = []
    rows = {row["name"]: row for row in management.get("queues", topology.vhost) or ()}
    for queue in topology.queues:
        row = rows.get(queue.name, {})
        members = list(row.get("members") or ())
        if row.get("type") != "quorum":
            continue
        lacking = min(MEMBERS, len(running)) - len(members)
        for node in [node for node in running if node not in members][: max(0, lacking)]:
            path = ("queues", "quorum", topology.vhost, queue.name, "replicas", "add")
            _add_member(management, path, node)
            done.append(Difference("queue", queue.name, f"had no member on {node}"))
    return done


def _add_member(management: Management, path: Sequence[str], node: str) -> None:
    """RabbitMQ refuses a change of a queue's members until all of them know of the last one."""
    until = time.monotonic() + _CHANGE_S
    while True:
        try:
            management.post(*path, body={"node": node})
        except BrokerConfigError as refused:
            if _UNDER_WAY not in str(refused) or time.monotonic() > until:
                raise
            time.sleep(_LOOK_S)
        else:
            return


def _can_grow(management: Management) -> bool:
    return _version(management) >= (3, 13)


def _how_to_grow(vhost: str, queue: str, without: Sequence[str], management: Management) -> str:
    if _can_grow(management):
        return "`broker-config apply`"
    command = f"rabbitmq-queues add_member --vhost {vhost} {queue}"
    return " and ".join(f"`{command} {node}`" for node in without)


def _version(management: Management) -> tuple[int, ...]:
    words = management.version().split(".")[:2]
    return tuple(int(word) for word in words if word.isdecimal())
