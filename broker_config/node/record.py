"""What is remembered of a private node in ``<home>/node.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from broker_config.broker.management_api import TIMEOUT_S, Management
from broker_config.declaration.federation import load as load_federation
from broker_config.declaration.topology import ADMIN
from broker_config.node import config_files, processes
from broker_config.node.ports import LOOPBACK, Ports
from broker_config.secrets.bundles import Address, load_passwords
from broker_config.secrets.certificates import Authority
from warren_shared.errors import BrokerConfigError
from warren_shared.files import write_private

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Node:
    """A private node as ``<home>/node.json`` remembers it; ``pid`` and ``epmd_pid`` 0 when down.

    ``tls`` is "", "tls", or "mutual" where users log in by certificate. ``host`` is the name or
    address by which other machines reach it; "" where it listens on the loopback address only.
    ``peers`` are the AMQP and management ports of the other nodes of its cluster. Of such another
    node ``owner`` is the first one's home, which has passwords and certificates.
    """

    home: Path
    name: str
    ports: Ports
    server: str = ""
    pid: int = 0
    epmd_pid: int = 0
    tls: str = ""
    host: str = ""
    peers: tuple[tuple[int, int], ...] = ()
    owner: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the node lives; also the mark its processes carry."""
        return self.home / "node"

    @property
    def secrets_home(self) -> Path:
        """The home that has passwords, certificates and the federation: of a cluster the first."""
        return self.owner or self.home

    @property
    def log(self) -> Path:
        """RabbitMQ's log."""
        return config_files.log_file(self.folder)

    @property
    def address(self) -> Address:
        """Where the node answers."""
        s = "s" if self.tls else ""
        host = f"[{self.host}]" if ":" in self.host else self.host or LOOPBACK
        every = ((self.ports.amqp, self.ports.management), *self.peers)
        amqp = f"amqp{s}://" + ",".join(f"{host}:{port}" for port, _ in every)
        management = f"http{s}://" + ",".join(f"{LOOPBACK}:{port}" for _, port in every)
        if not self.tls:
            return Address(amqp, management)
        authority = Authority(self.secrets_home)
        mutual = authority if self.tls == "mutual" else None
        return Address(amqp, management, authority.for_bundle(), mutual)

    @property
    def metrics_url(self) -> str | None:
        """Where RabbitMQ's own metrics for Prometheus are, if it was told to have them."""
        port = self.ports.prometheus
        return f"http://{LOOPBACK}:{port}/metrics" if port else None

    @property
    def running(self) -> bool:
        """Whether the remembered process is alive and ours."""
        return self.pid > 0 and processes.is_ours(self.pid, str(self.folder))

    def broker_url(self, user: str) -> str:
        """The AMQP URL ``user`` logs in with."""
        federation = load_federation(self.secrets_home / "federation.json")
        vhost = federation.name if federation else "/"
        return self.address.broker_url(user, self._password(user), vhost)

    def management_url(self, user: str = ADMIN.name) -> str:
        """The management URL with the login of ``user`` (admin or watcher) in it."""
        return self.address.management_url(user, self._password(user))

    def manage(self, timeout_s: float = TIMEOUT_S) -> Management:
        """Its management API, as the administrator."""
        ca = Authority(self.secrets_home).for_bundle() if self.tls else ""
        return Management(self.management_url(), ca, timeout_s)

    def _password(self, user: str) -> str:
        passwords = load_passwords(self.secrets_home)
        if user not in passwords:
            raise BrokerConfigError(
                f"{self.home / 'credentials.json'} has no user {user!r}: enrol it, or if that file "
                "was lost, `broker-config down` and `up` make new passwords"
            )
        return passwords[user]


def load(home: Path) -> Node | None:
    """The node of ``home``; None if there never was one. Raises BrokerConfigError if damaged."""
    try:
        found = json.loads((home / "node.json").read_text())
        ports, peers = Ports(**found["ports"]), tuple(map(tuple, found.get("peers", ())))
        node = Node(home=home, **{**found, "ports": ports, "peers": peers})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise BrokerConfigError(f"{home / 'node.json'} is damaged: {error!r}") from error
    return replace(
        node,
        pid=_living(node, node.pid, config_files.server_pid_file(node.folder)),
        epmd_pid=_living(node, node.epmd_pid, config_files.epmd_pid_file(node.folder)),
    )


def _living(node: Node, known: int, noted: Path) -> int:
    """The pid of a process of ``node``: the ``known`` one, or one that was ``noted`` since.

    The command that started it may have been killed before it could record it.
    """
    mark = str(node.folder)
    if known and processes.is_ours(known, mark):
        return known
    found = processes.noted_in(noted)
    return found if found and processes.is_ours(found, mark) else known


def save(node: Node) -> Node:
    """Write ``node`` to its home; return it."""
    record = {k: v for k, v in asdict(node).items() if k not in ("home", "owner")}
    write_private(node.home / "node.json", json.dumps(record, indent=2) + "\n")
    return node
