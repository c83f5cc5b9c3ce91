"""The other nodes of a private cluster: each in its own folder below the home of the first.

They share its name server, cookie and certificates, and have ports of their own. Passwords,
federation and bundles are the first one's.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from broker_config.broker.cluster import MEMBERS
from broker_config.node import boot, config_files, processes, record
from broker_config.node.ports import LOOPBACK, Ports, settle
from warren_shared.errors import BrokerConfigError
from warren_shared.files import private_folder

if TYPE_CHECKING:
    from broker_config.broker.management_api import Management
    from broker_config.node.record import Node

_COMMAND_S: Final = 60.0
SIZES: Final = (1, 3, 5, 7)  # an even one can lose no more nodes than the odd one before it


def size(before: Node | None, requested: int | None) -> int:
    """How many nodes there shall be: as ``requested``, else as before.

    Raises:
        BrokerConfigError: fewer than before, or a number that makes no cluster.
    """
    known = 1 + len(before.peers) if before else 1
    if requested is None:
        return known
    if requested not in SIZES:
        raise BrokerConfigError(
            f"--nodes {requested}: choose {', '.join(map(str, SIZES))}, of which most are left"
            " without any 0, 1, 2 or 3"
        )
    if requested < known:
        raise BrokerConfigError(
            f"--nodes {requested}: the cluster has {known}, each with queues on it, and cannot"
            " become smaller: make another one in another home"
        )
    return requested


def home_of(home: Path, number: int) -> Path:
    """The folder of member ``number``, from 2."""
    return home / "nodes" / str(number)


def configuration(first: str, nodes: int, *, begins: bool = False) -> str:
    """What every node's configuration says of a cluster of ``nodes``; nothing of a single one.

    The one that ``begins`` it looks for no others: RabbitMQ 4 would wait for a second one to join.
    """
    if nodes == 1:
        return ""
    lines = ["cluster_partition_handling = pause_minority"]
    if begins:
        return lines[0] + "\n"
    lines.append("cluster_formation.peer_discovery_backend = classic_config")
    for number in range(1, nodes + 1):
        name = _name(first, number)
        lines.append(f"cluster_formation.classic_config.nodes.{number} = {name}")
    return "\n".join(lines) + "\n"


def load(first: Node) -> list[Node]:
    """The members beside ``first`` that there are."""
    numbers = range(2, len(first.peers) + 2)
    found = (record.load(home_of(first.home, number)) for number in numbers)
    return [replace(node, owner=first.home) for node in found if node is not None]


def without_data(first: Node) -> list[str]:
    """The names of those members beside ``first`` whose folder is gone, or has no data."""
    return [_name(first.name, number) for number in _bare(first)]


def prepare(first: Node, nodes: int, *, recreate: bool = False) -> tuple[Node, list[Node]]:
    """Give each member ports and files; return ``first`` with its peers, and the members.

    Those that run stay as they are. One whose data are gone is left out, unless they are all to be
    recreated (``recreate``): the cluster may still count on it, and then refuses an empty one.
    """
    found, peers = [], []
    there = [first, *load(first)]
    bare = () if recreate else _bare(first)
    for number in range(2, nodes + 1):
        if number in bare:
            peers.append(first.peers[number - 2])
            continue
        home = private_folder(home_of(first.home, number))
        before = record.load(home)
        if before is not None and before.running:
            found.append(replace(before, owner=first.home))
        else:
            on = "" if first.host else LOOPBACK
            others = [each.ports for each in (*there, *found) if each.home != home]
            known = before.ports if before else Ports()
            ports = settle(Ports(), known, amqp_on=on, others=others)
            node = replace(
                first, home=home, owner=first.home, name=_name(first.name, number), pid=0,
                epmd_pid=0, peers=(), ports=replace(ports, epmd=first.ports.epmd, prometheus=0),
            )  # fmt: skip
            found.append(record.save(node))
        peers.append((found[-1].ports.amqp, found[-1].ports.management))
    return record.save(replace(first, peers=tuple(peers))), found


def _bare(first: Node) -> list[int]:
    numbers = range(2, len(first.peers) + 2)
    homes = {number: home_of(first.home, number) for number in numbers}
    return [
        number
        for number, home in homes.items()
        if (node := record.load(home)) is None or not config_files.has_data(node.folder)
    ]


def start(first: Node, members: list[Node]) -> list[Node]:
    """Start those of ``members`` that do not run; it is not waited for any."""
    started = []
    for node in members:
        if node.running:
            started.append(node)
            continue
        config_files.write_files(
            node.folder,
            node.ports,
            {},  # the others have them
            node.tls,
            node.host,
            authority=first.home,
            cluster=configuration(first.name, 1 + len(first.peers)),
            cookie=(first.folder / ".erlang.cookie").read_text(),
        )
        with processes.undisturbed():
            started.append(record.save(boot.start_server(node)))
    return started


def grow(first: Node, members: list[Node], vhost: str, management: Management) -> None:
    """Give the quorum queues in ``vhost`` the members that they lack, by RabbitMQ's own command.

    A queue that was made when there was one node is on that one alone. As many as RabbitMQ itself
    gives a queue that is made in a cluster (`cluster.MEMBERS`), however many nodes there are.

    Raises:
        BrokerConfigError: the command fails.
    """
    for row in management.get("queues", vhost) or ():
        if row.get("type") != "quorum":
            continue
        has = row.get("members") or ()
        lacking = max(0, min(MEMBERS, len(members)) - len(has))
        for node in [node for node in members if node.name not in has][:lacking]:
            what = f"queue {row['name']} gets no member on {node.name}"
            words = ("add_member", "--vhost", vhost, row["name"], node.name)
            _command(first, what, "rabbitmq-queues", *words)


def forget(first: Node, name: str) -> None:
    """Have the cluster of ``first`` count no longer on ``name``, whose data are gone.

    Raises:
        BrokerConfigError: the command fails.
    """
    what = f"the cluster does not forget {name}"
    _command(first, what, "rabbitmqctl", "forget_cluster_node", name)


def _command(first: Node, what: str, program: str, *words: str) -> None:
    """Run one of RabbitMQ's own on ``first``; ``what`` is wrong if it fails."""
    environment = config_files.environment(first.folder, first.name, first.ports) | {
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "", "ERL_AFLAGS": "",
        "RABBITMQ_CTL_ERL_ARGS":
            "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
    }  # fmt: skip
    done = subprocess.run(
        [Path(first.server).with_name(program), "-n", first.name, *words],
        env=environment, cwd=first.folder, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=_COMMAND_S,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise BrokerConfigError(f"{what}: {said[0][:200]}")


def _name(first: str, number: int) -> str:
    base, _, host = first.partition("@")
    return first if number == 1 else f"{base}-{number}@{host}"
