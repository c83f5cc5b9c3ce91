"""What would lose confirmed messages when RabbitMQ is upgraded, or its feature flags are enabled.

A quorum queue is a state machine with its own version, which goes up when all of its members
can follow and a leader is elected. RabbitMQ 4 takes the feature flag `rabbitmq_4.0.0` for a sign
that every queue has gone up. One that has not breaks with the next consumer for good, and confirms
and drops what is published (rabbitmq-server issues 17504 and 17199).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker_config.broker.cluster import nodes
from broker_config.broker.drift import Difference
from broker_config.declaration.topology import KEEPER_QUEUES
from warren_shared import naming

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from broker_config.broker.management_api import Management

FLAG_OF_4: Final = "rabbitmq_4.0.0"
MACHINE_OF_4: Final = 4
_QUEUES: Final = (naming.UPDATE_QUEUE, naming.NEWEST_QUEUE, *KEEPER_QUEUES)


def hazards(vhost: str, management: Management) -> list[Difference]:
    """What to put right before an upgrade; in a federation that is well, nothing.

    Machine versions are told by RabbitMQ 4; an older one has none that could be too old.
    """
    flags = management.get("feature-flags") or ()
    is_on = any(flag["name"] == FLAG_OF_4 and flag["state"] == "enabled" for flag in flags)
    found = list(disabled(flags))
    running = [node.name for node in nodes(management) if node.running]
    for name in _QUEUES:
        queue = management.get("queues", vhost, name)
        if queue is not None:
            rows = _status(vhost, queue, management)
            found += of_queue(queue, rows, running=running, is_on=is_on)
    return found


def _status(
    vhost: str, queue: Mapping[str, Any], management: Management
) -> Iterable[Mapping[str, Any]]:
    """A row for each member; none if one is away, which 4.0 answers with 500."""
    if not set(queue.get("members", ())) <= set(queue.get("online", ())):
        return ()
    status = management.get("queues", "quorum", vhost, queue["name"], "status")
    return status if isinstance(status, list) else ()


def disabled(flags: Iterable[Mapping[str, Any]]) -> Iterator[Difference]:
    """One about all stable feature flags that are off, ``flags`` as the management API has them."""
    off = [f["name"] for f in flags if f["state"] == "disabled" and f["stability"] == "stable"]
    if off:
        yield Difference(
            "feature flag",
            ", ".join(sorted(off)),
            "disabled, and the next release may not start without: when nothing is said here of a"
            " queue's members and machine version, run `rabbitmqctl enable_feature_flag all`",
        )


def of_queue(
    queue: Mapping[str, Any],
    status: Iterable[Mapping[str, Any]],
    *,
    running: Collection[str],
    is_on: bool,
) -> Iterator[Difference]:
    """About the members of a quorum queue, and its machine version.

    ``queue`` and ``status`` (a row for each member) are as the management API has them;
    ``running`` are the nodes that do; ``is_on`` is whether the feature flag FLAG_OF_4 is.
    """
    away = sorted(set(queue.get("members", ())) - set(queue.get("online", ())))
    down = [node for node in away if node not in running]
    if down:
        yield Difference(
            "queue",
            queue["name"],
            f"its member on {', '.join(down)} is away: upgrade nothing, and enable no feature flag,"
            " before it is back (or, if that node is gone for good, forgotten by the cluster)",
        )
    for node in [node for node in away if node in running]:
        where = f"--vhost {queue.get('vhost', '/')} {queue['name']} {node}"
        yield Difference(
            "queue",
            queue["name"],
            f"its member on {node} does not run, though the node does, so one node more that is"
            f" lost may stop it: `rabbitmq-queues delete_member {where}`, then"
            f" `rabbitmq-queues add_member {where}`; upgrade nothing before",
        )
    versions = [row["Machine Version"] for row in status if "Machine Version" in row]
    oldest = min((version for version in versions if isinstance(version, int)), default=None)
    if oldest is None or oldest >= MACHINE_OF_4:
        return
    what = f"its machine version is {oldest}, of RabbitMQ 3"
    if is_on:
        hint = (
            f"and {FLAG_OF_4} is enabled: it may confirm and drop what is published. Stop all"
            " workers, delete it, and apply; clients are told, and train again what was lost"
        )
    else:
        hint = (
            "and with the feature flags of RabbitMQ 4 it would confirm and drop what is published:"
            " enable none, have its members elect a leader (`rabbitmq-queues rebalance quorum`, or"
            " restart the leader's node), and check again"
        )
    yield Difference("queue", queue["name"], f"{what}, {hint}")
