"""A private RabbitMQ node in a folder: its own name, data, ports, cookie, log and processes."""

from __future__ import annotations

import queue
import secrets
import shutil
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from broker_config.broker import cluster
from broker_config.broker.upgrade_hazards import hazards
from broker_config.declaration.definitions import definitions
from broker_config.declaration.federation import save as save_federation
from broker_config.declaration.topology import ADMIN, topology
from broker_config.home.changes import Homes, grant, retire_keeper
from broker_config.home.lock import alone
from broker_config.home.marks import revoked
from broker_config.node import boot, config_files, members, processes, record
from broker_config.node.install import ensure_server
from broker_config.node.ports import LOOPBACK, Ports, settle
from broker_config.node.record import Node
from broker_config.secrets.bundles import ensure_passwords
from warren_shared.errors import BrokerConfigError
from warren_shared.files import private_folder

if TYPE_CHECKING:
    from broker_config.declaration.federation import Federation

DEADLINE_S: Final = 90.0
_STOP_S: Final = 30.0
_COMPLETE_S: Final = 20.0
_STATUS_S: Final = 5.0
_TLS: Final = {"": "no TLS", "tls": "TLS", "mutual": "mutual TLS"}


@dataclass(frozen=True)
class Status:
    """What `status` found: the node, if there ever was one, and its version, if it answers.

    ``members`` are the other nodes of its cluster.
    """

    node: Node | None
    running: bool
    version: str | None
    members: tuple[Node, ...] = ()


def up(
    home: Path,
    federation: Federation,
    ports: Ports | None = None,
    *,
    server: str | Path | None = None,
    tls: str | None = None,
    host: str | None = None,
    nodes: int | None = None,
    deadline_s: float = DEADLINE_S,
) -> Node:
    """Start the private node in ``home``, or find it running; bring it to ``federation``'s state.

    With ``nodes`` it is the first of a cluster of so many, all on this machine; None: as last time.

    Returns when AMQP and management answer. Ports that are not given are those of last time, else
    free ones. ``tls`` is "", "tls" or "mutual"; None: as last time. ``host``, a name or an address,
    lets other machines in, by AMQP alone; "" lets none in; None: as last time.

    Raises:
        BrokerConfigError: a port is in use, no RabbitMQ is to be had, the node does not start, or
            other machines are to be let in without TLS and no option says so; or the folder of
            another node is gone, and the rest runs.
    """
    home = private_folder(home.resolve())
    with alone(home):
        before = record.load(home)
        size = members.size(before, nodes)
        if before is not None and before.running:
            node, others = members.prepare(before, size)
            others = members.start(node, others)
            node = _running(node, ports or Ports(), tls, host, deadline_s)
            _wait_for(others, deadline_s)
        else:
            reach = _reach(before, tls, host)
            asked = ports or Ports()
            node = _start(home, before, federation, asked, server, reach, size, deadline_s)
        if members.without_data(node):
            node = _fill(node, size, deadline_s)
        bring_to_state(node, federation)
        if size > 1:
            _complete(node, federation)
        return node


def replace_lost(home: Path) -> None:
    """Have the cluster in ``home`` forget those of its nodes whose data are gone.

    `up` makes others in their place.

    Raises:
        BrokerConfigError: the cluster does not run, or does not forget them.
    """
    home = home.resolve()
    node = record.load(home)
    if node is None or not node.running:
        raise BrokerConfigError(
            "--replace-lost: the other nodes have to run for that, `broker-config up` first"
        )
    with alone(home):
        for name in _lost_data(node):
            members.forget(node, name)


def _lost_data(node: Node) -> list[str]:
    """The names of those members that have no data, and that the cluster counts on."""
    with node.manage() as management:
        known = {each.name for each in cluster.nodes(management)}
    return [name for name in members.without_data(node) if name in known]


def _fill(node: Node, size: int, deadline_s: float) -> Node:
    """Start the members that have no data, unless the cluster counts on theirs."""
    if lost := _lost_data(node):
        raise BrokerConfigError(
            f"the data of {', '.join(lost)} are gone, and the other nodes, which run, count on"
            f" them: put the folder below {node.home / 'nodes'} back, or `broker-config up"
            " --replace-lost` makes another node in its place"
        )
    node, others = members.prepare(node, size, recreate=True)
    _wait_for(members.start(node, others), deadline_s)
    return node


def _complete(node: Node, federation: Federation) -> None:
    """Have each queue of a cluster where it belongs; return when all members of all are up."""
    declared = topology(replace(federation, spare_mailboxes=True))
    with node.manage() as management:
        every = [node, *members.load(node)]
        members.grow(node, every, federation.name, management)
        processes.wait_for(
            lambda: (
                not [*cluster.findings(declared, management), *hazards(federation.name, management)]
            ),
            _COMPLETE_S,
        )


def bring_to_state(node: Node, federation: Federation) -> None:
    """Remember ``federation``, write its bundles, and bring the running ``node`` to its state."""
    homes = Homes(node.home, node.home)
    with alone(node.home), node.manage() as management:
        grant(homes, federation, node.address, management, also=[ADMIN.name])


def down(home: Path) -> bool:
    """Stop the node in ``home`` and its epmd; whether there was anything to stop."""
    home = home.resolve()
    if record.load(home) is None:
        return False
    with alone(home):
        node = record.load(home)
        if node is None:
            return False
        stopped = [_stop(other) for other in members.load(node)]
        return _stop(node) or any(stopped)


def status(home: Path) -> Status:
    """How the node in ``home`` is."""
    node = record.load(home.resolve())
    others = tuple(members.load(node)) if node else ()
    if node is None or not any(each.running for each in (node, *others)):
        return Status(node, running=False, version=None, members=others)
    asked = [replace(each, peers=()) for each in (node, *others) if each.running]
    return Status(node, running=True, version=_first_version(asked), members=others)


def _first_version(nodes: list[Node]) -> str | None:
    """RabbitMQ's version, by whichever of ``nodes`` answers first; None if none does in time.

    A node that was halted takes connections, and answers nothing.
    """
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask(node: Node) -> None:
        try:
            with node.manage(_STATUS_S) as management:
                answers.put(management.version())
        except BrokerConfigError:
            answers.put(None)

    for node in nodes:
        threading.Thread(target=ask, args=(node,), daemon=True).start()
    return next((version for _ in nodes if (version := answers.get())), None)


def pid(home: Path) -> int | None:
    """Process id of the running node in ``home``, checked to be ours; None if it is down."""
    node = record.load(home.resolve())
    return node.pid if node is not None and node.running else None


def lost(home: Path) -> list[str]:
    """The names of the nodes in ``home`` that were started, were not stopped, and ended."""
    node = record.load(home.resolve())
    every = [node, *members.load(node)] if node is not None else []
    return [each.name for each in every if each.pid and not each.running]


@dataclass(frozen=True)
class _Reach:
    """``tls`` and ``host`` of a node that is about to be started."""

    tls: str
    host: str


def _reach(before: Node | None, tls: str | None, host: str | None) -> _Reach:
    found = _Reach(
        tls if tls is not None else before.tls if before else "",
        host if host is not None else before.host if before else "",
    )
    if host and not found.tls and tls is None:
        raise BrokerConfigError(
            f"--host {host} lets other machines in, who could read passwords and models on the way:"
            " add --tls or --mutual-tls (or --no-tls, if you trust the whole network)"
        )
    return found


def _running(
    node: Node, requested: Ports, tls: str | None, host: str | None, deadline_s: float
) -> Node:
    if tls not in (None, node.tls):
        raise BrokerConfigError(
            f"the node in {node.home} is running with {_TLS[node.tls]}: `broker-config down` first"
            f" to change that to {_TLS[tls or '']}"
        )
    if host not in (None, node.host):
        raise BrokerConfigError(
            f"the node in {node.home} is running as {node.host or LOOPBACK}: `broker-config down`"
            f" first to change that to {host or LOOPBACK}"
        )
    for use, port in asdict(requested).items():
        has = getattr(node.ports, use)
        if port != 0 and max(0, port) != has:
            raise BrokerConfigError(
                f"the node in {node.home} is running with {use} port {has or 'none'}: "
                f"`broker-config down` first to move it to {max(0, port) or 'none'}"
            )
    node.management_url()  # Says at once if credentials.json was lost.
    return boot.wait_until_ready(node, deadline_s)


def _start(
    home: Path,
    before: Node | None,
    federation: Federation,
    requested: Ports,
    server: str | Path | None,
    reach: _Reach,
    size: int,
    deadline_s: float,
) -> Node:
    # The others of a cluster go on, and with them the name server by which they know each other.
    others = members.load(before) if before else []
    living = [other for other in others if other.running]
    kept = before.epmd_pid if before and living and _is_up(before) else 0
    if before is not None and not kept:
        _stop(before)  # An epmd that outlived its node holds a port we are about to ask for.
    amqp_on = "" if reach.host else LOOPBACK
    apart = [replace(other.ports, epmd=0) for other in others]  # which they share
    known = before.ports if before else Ports()
    ports = settle(requested, known, amqp_on=amqp_on, others=apart)
    if before is not None and living:
        ports = replace(ports, epmd=before.ports.epmd)
    # Remembered, since the node's data belong to its name.
    name = before.name if before else f"warren-{secrets.token_hex(4)}@localhost"
    chosen = server or (before.server if before and Path(before.server).exists() else None)
    script = ensure_server(home / "node" / "log" / "install.log", chosen)
    epmd = shutil.which("epmd")
    if epmd is None:
        raise BrokerConfigError("no epmd on the PATH: it comes with Erlang, install that")
    # Not who was revoked and is enrolled again: that waits until its last password is forgotten.
    retire_keeper(Homes(home, home), federation, mutual=reach.tls == "mutual")
    federation = federation.without(
        name for name in revoked(home).names() if name in federation.revocable
    )
    declared = topology(federation)
    passwords = ensure_passwords(home, [user.name for user in (*declared.users, ADMIN)])
    # Before the node lets anybody in whom the home does not know.
    save_federation(home / "federation.json", federation)
    peers = before.peers if before else ()
    node = Node(
        home, name, ports, str(script), epmd_pid=kept, tls=reach.tls, host=reach.host, peers=peers
    )
    told = definitions(declared, passwords, admin=True)
    if size > 1 or config_files.has_data(node.folder):
        # For the same reason: what is declared and not there is made when it has booted. And in a
        # cluster not before all nodes are there, among which queues are spread.
        told |= {"queues": [], "bindings": []}
    node, others = members.prepare(node, size)  # its data belong to its name
    begins = not any(config_files.has_data(other.folder) for other in others)
    config_files.write_files(
        node.folder, ports, told, node.tls, node.host, authority=home,
        cluster=members.configuration(name, size, begins=begins),
    )  # fmt: skip
    return _boot(node, others, epmd, deadline_s)


def _boot(node: Node, others: list[Node], epmd: str, deadline_s: float) -> Node:
    """Start the processes of ``node`` and wait until it answers; end them if it does not.

    Of ``others`` those that have data are waited for by it; the rest asks it for theirs.
    """
    had = [other for other in others if config_files.has_data(other.folder)]
    living = {other.name for other in others if other.running}
    try:
        if not node.epmd_pid:
            with processes.undisturbed():
                node = boot.start_epmd(node, epmd)
                record.save(node)
        with processes.undisturbed():
            node = boot.start_server(node)
            record.save(node)
        begun = {other.name: other for other in members.start(node, had)}
        node = boot.wait_until_ready(node, deadline_s)
        others = [begun.get(other.name, other) for other in others]
        _wait_for(members.start(node, others), deadline_s)
    except BaseException:
        for other in members.load(node):
            if other.name not in living:
                _stop(other)
        _stop(record.load(node.home) or node)  # it may have been started again
        raise
    return node


def _wait_for(others: list[Node], deadline_s: float) -> None:
    for other in others:
        boot.wait_until_ready(other, deadline_s)


def _is_up(node: Node) -> bool:
    """Whether the name server of ``node`` is."""
    return bool(node.epmd_pid) and processes.is_ours(node.epmd_pid, str(node.folder))


def _stop(node: Node) -> bool:
    with processes.undisturbed():
        was_running = node.running
        if was_running:
            boot.ask_to_stop(node)
            processes.end(node.pid, str(node.folder), _STOP_S)
        if node.epmd_pid:
            processes.end(node.epmd_pid, str(node.folder), 5.0)
        with suppress(OSError):  # a full disk; that they have ended shows without it
            record.save(replace(node, pid=0, epmd_pid=0))
    return was_running
