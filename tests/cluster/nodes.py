"""A private cluster: three nodes, each a machine of its own, and one more where workers run."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker_config.node.install import ensure_server
from tests.support.machines import Machine, network
from tests.support.processes import BIN, ROOT

NODES = ("node-1", "node-2", "node-3")
SITE = "site"
BOOT_S = 120.0
AGAIN_S = 60.0  # in which a node is back among the others
TICK_S = 5  # after a silence between its 3/4 and 5/4 a node takes another for dead
ADMIN = "boss"

_CONFIGURATION = """\
listeners.tcp.1 = {address}:5672
management.tcp.ip = {address}
management.tcp.port = 15672
log.console = false
default_user = {admin}
default_pass = {password}
loopback_users = none
disk_free_limit.absolute = 256MB
raft.wal_max_size_bytes = 134217728
max_message_size = 16777216
cluster_partition_handling = {partitions}
cluster_formation.peer_discovery_backend = classic_config
"""


@dataclass
class Cluster:
    """``partitions`` is RabbitMQ's cluster_partition_handling, or "khepri" (RabbitMQ 4)."""

    machines: dict[str, Machine]
    partitions: str
    password: str = field(default_factory=lambda: secrets.token_hex(8))
    cookie: str = field(default_factory=lambda: secrets.token_hex(20))
    processes: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)
    started_anew: int = 0  # nodes that did not come back by themselves

    def __post_init__(self) -> None:
        self._cuts: set[tuple[str, str]] = set()
        self._halted: set[str] = set()
        self._script = ""

    # --- nodes ------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start all three as one cluster; return when each knows the others."""
        self._script = str(ensure_server(self.machines[SITE].folder / "install.log"))
        epmd = shutil.which("epmd")
        assert epmd is not None, "no epmd on the PATH: it comes with rabbitmq-server"
        for name in NODES:
            self._prepare(name)
            self._run(f"epmd of {name}", name, epmd)
        for name in NODES:
            self._run(name, name, self._script)
        self._until(lambda: self.running(NODES[0]) == list(NODES), "the nodes do not find together")
        if self.partitions == "khepri":
            enabled = self.ask("PUT", "feature-flags/khepri_db/enable", {"name": "khepri_db"})
            assert enabled is None, enabled

    def kill(self, name: str, within_s: float = 0.0) -> None:
        """End a node for good if it has not ended by itself ``within_s`` seconds from now."""
        process = self.processes[name]
        with suppress(subprocess.TimeoutExpired):
            process.wait(within_s)
            return
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to every process of a node."""
        os.killpg(self.processes[name].pid, number)
        if number == signal.SIGSTOP:
            self._halted.add(name)

    def hint(self) -> None:
        """Have all nodes run, as one cluster; one that does not come back is started anew."""
        self.heal()
        for name in self._halted:
            self.signal(name, signal.SIGCONT)
        self._halted.clear()
        for name in NODES:
            if self.processes[name].poll() is not None:
                self._run(name, name, self._script)
        end = time.monotonic() + AGAIN_S
        while not self.is_whole():
            if time.monotonic() > end:
                self._start_anew()
                self._until(self.is_whole, "the nodes do not find together again")
            threading.Event().wait(0.5)

    def is_whole(self) -> bool:
        """Whether each node sees all three."""
        return all(self.running(name) == list(NODES) for name in NODES)

    def _start_anew(self) -> None:
        """What an administrator does when a node stays out."""
        seen = {name: self.running(name) for name in NODES}
        most = max(seen.values(), key=len)
        for name in NODES:
            if seen[name] != most:
                self.kill(name)
                self._run(name, name, self._script)
                self.started_anew += 1

    def running(self, seen_by: str) -> list[str]:
        """Nodes that run, as one of them sees it."""
        found = self.ask("GET", "nodes", node=seen_by)
        addresses = {self.machines[name].address: name for name in NODES}
        return sorted(addresses[n["name"].partition("@")[2]] for n in found or () if n["running"])

    def leader(self, vhost: str, queue: str, seen_by: str = NODES[0]) -> str | None:
        """The node that leads a queue."""
        found = self.ask("GET", f"queues/{vhost}/{queue}", node=seen_by) or {}
        addresses = {self.machines[name].address: name for name in NODES}
        return addresses.get(str(found.get("leader") or found.get("node")).partition("@")[2])

    def close(self) -> None:
        """End every process that was started here."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    # --- wires ------------------------------------------------------------------------------------

    def cut_off(self, node: str) -> None:
        """Nothing passes between ``node`` and the other two, either way; workers reach it still."""
        for other in NODES:
            if other != node:
                self._cut(node, other)
                self._cut(other, node)

    def isolate(self, node: str) -> None:
        """Nothing passes between ``node`` and anybody else."""
        self.cut_off(node)
        self._cut(node, SITE)
        self._cut(SITE, node)

    def _cut(self, at: str, to: str) -> None:
        if (at, to) not in self._cuts:  # two of three that are cut off share a wire
            self._route("add", at, to)
            self._cuts.add((at, to))

    def heal(self) -> None:
        """All wires are whole again."""
        for one, other in self._cuts:
            self._route("del", one, other)
        self._cuts.clear()

    def _route(self, what: str, at: str, to: str) -> None:
        address = f"{self.machines[to].address}/32"
        done = self.machines[at].run("ip", "route", what, "blackhole", address)
        assert done.returncode == 0, done.stdout

    # --- what is asked from the site --------------------------------------------------------------

    @property
    def inside(self) -> Sequence[str]:
        """What a command begins with that runs at the site."""
        return (*self.machines[SITE].entry, f"--wdns={ROOT}")

    def amqp(self, node: str) -> str:
        """``HOST:PORT`` of a node."""
        return f"{self.machines[node].address}:5672"

    def ask(self, method: str, path: str, body: Any = None, node: str = NODES[0]) -> Any:
        """The management API's answer, None if there is none or it is empty."""
        url = f"http://{ADMIN}:{self.password}@{self.machines[node].address}:15672/api/{path}"
        done = subprocess.run(
            [*self.inside, sys.executable, "-m", "tests.cluster.ask", method, url],
            input=json.dumps(body),
            capture_output=True,
            text=True,
            check=False,
        )
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout else None

    def broker_config(self, *arguments: str) -> None:
        """Run ``broker-config`` at the site; its failure is the test's."""
        done = self.command("broker-config", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr

    def command(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run one of our commands at the site until it ends."""
        environment = {**os.environ, "WARREN_MANAGEMENT_PASSWORD": self.password}
        return subprocess.run(
            [*self.inside, str(BIN / name), *arguments],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    # --- processes --------------------------------------------------------------------------------

    def _prepare(self, name: str) -> None:
        machine = self.machines[name]
        handling = "ignore" if self.partitions == "khepri" else self.partitions
        text = _CONFIGURATION.format(
            address=machine.address, admin=ADMIN, password=self.password, partitions=handling
        )
        for number, node in enumerate(NODES, 1):
            text += f"cluster_formation.classic_config.nodes.{number} = {self._erlang_name(node)}\n"
        folder = machine.folder
        (folder / "rabbitmq.conf").write_text(text)
        (folder / "advanced.config").write_text(f"[{{kernel,[{{net_ticktime,{TICK_S}}}]}}].\n")
        (folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (folder / "env.conf").write_text("")
        cookie = folder / ".erlang.cookie"
        cookie.write_text(self.cookie)
        cookie.chmod(0o400)

    def _erlang_name(self, name: str) -> str:
        return f"rabbit@{self.machines[name].address}"

    def _run(self, what: str, name: str, *command: str) -> None:
        folder = self.machines[name].folder
        foreign = ("RABBITMQ_", "ERL_", "WARREN_", "NOTIFY_SOCKET")
        ours = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        environment = ours | {
            "HOME": str(folder),
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_NODENAME": self._erlang_name(name),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": str(folder / "log" / "node.log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_DIST_PORT": "25672",
            "ERL_CRASH_DUMP": str(folder / "log" / "erl_crash.dump"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -start_epmd false",
            "RUNNING_UNDER_SYSTEMD": "true",
        }  # fmt: skip
        log = folder / _log(what)
        self.processes[what] = self.machines[name].start(*command, log=log, env=environment)

    def _said(self, what: str) -> str:
        name = what.rpartition(" ")[2]
        return (self.machines[name].folder / _log(what)).read_text(errors="replace")[-2000:]

    def _until(self, condition: Any, otherwise: str) -> None:
        end = time.monotonic() + BOOT_S
        while not condition():
            for what, process in self.processes.items():
                assert process.poll() is None, f"{what} ended:\n{self._said(what)}"
            assert time.monotonic() < end, otherwise
            threading.Event().wait(0.5)


def _log(what: str) -> str:
    return f"{what.replace(' ', '-')}.out"


@contextmanager
def cluster(root: Path, partitions: str = "ignore") -> Iterator[Cluster]:
    """A running cluster in ``root``, gone afterwards."""
    with network(root, {name: name for name in (*NODES, SITE)}) as machines:
        found = Cluster(machines, partitions)
        try:
            found.boot()
            yield found
        finally:
            found.close()
