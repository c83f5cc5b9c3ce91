"""Machines of a network, each a network namespace: an address, a hosts file, a firewall of its own.

They need root or user namespaces, and iproute2. Nothing of them has a name or a file outside: a
namespace lives as long as its keeper, which ends when this process does, however it ends.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

NETWORK: Final = "10.77.0"
BRIDGE: Final = "switch"
_NEEDED: Final = ("ip", "ss", "unshare", "nsenter")


@dataclass(frozen=True)
class Machine:
    """A machine of `network`; ``folder`` is where its commands are run."""

    name: str
    address: str
    folder: Path
    keeper: int
    entry: tuple[str, ...]

    def words(self, *command: str) -> list[str]:
        """What this machine runs ``command`` with."""
        return [*self.entry, f"--wdns={self.folder}", *command]

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``command`` here until it ends; its output is kept, both kinds in one."""
        told: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        told |= {"stdin": subprocess.DEVNULL, "text": True, "check": False, "timeout": 150}
        return subprocess.run(self.words(*command), **(told | options))  # noqa: PLW1510

    def start(self, *command: str, log: Path, **options: Any) -> "subprocess.Popen[str]":
        """Start ``command`` here, with its output in ``log``."""
        with log.open("w") as output:
            return subprocess.Popen(
                self.words(*command), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, text=True, start_new_session=True, **options
            )  # fmt: skip

    def listens(self) -> list[str]:
        """Addresses and ports that somebody waits for connections at, as ``ss`` tells them."""
        rows = self.run("ss", "-Hltn").stdout.splitlines()
        return sorted(row.split()[3] for row in rows)

    def allow_in(self, *, port: int | None = None, answers_from: int | None = None) -> None:
        """Let in what goes to ``port``, or what answers from it, and nothing else.

        A firewall made of routing rules, which need no kernel module: a packet that no rule takes
        to the local table is dropped. Only of TCP and UDP, for who may ask for a machine's hardware
        address (ARP) is decided by the same rules.
        """
        which = ["dport", str(port)] if port is not None else ["sport", str(answers_from)]
        rules = (
            ["add", "pref", "5", "iif", "eth0", "ipproto", "tcp", *which, "lookup", "local"],
            ["add", "pref", "6", "iif", "eth0", "ipproto", "tcp", "blackhole"],
            ["add", "pref", "7", "iif", "eth0", "ipproto", "udp", "blackhole"],
            ["add", "pref", "10", "lookup", "local"],
            ["del", "pref", "0"],
        )
        for rule in rules:
            _must(self.words("ip", "rule", *rule))


@contextmanager
def network(root: Path, names: Mapping[str, str]) -> Iterator[dict[str, Machine]]:
    """Machines on one switch, by name; ``names`` has the host name by which each is known.

    Each has a folder of its own in ``root``. Fails, and does not skip, where there can be none.
    """
    missing = [program for program in _NEEDED if shutil.which(program) is None]
    assert not missing, f"install iproute2 and util-linux: {', '.join(missing)} is missing"
    with ExitStack() as stack:
        switch = _keeper(stack, [], own_user=os.geteuid() != 0)
        inside = _entry(switch)
        _must([*inside, "ip", "link", "add", BRIDGE, "type", "bridge"])
        _must([*inside, "ip", "link", "set", BRIDGE, "up"])
        addresses = {name: f"{NETWORK}.{place}" for place, name in enumerate(names, 1)}
        hosts = root / "hosts"
        hosts.write_text(
            "127.0.0.1 localhost\n::1 localhost\n"
            + "".join(f"{addresses[name]} {host}\n" for name, host in names.items())
        )
        yield {
            name: _machine(stack, inside, name, addresses[name], hosts, root / name)
            for name in names
        }


def _machine(
    stack: ExitStack, inside: Sequence[str], name: str, address: str, hosts: Path, folder: Path
) -> Machine:
    folder.mkdir(exist_ok=True)
    keeper = _keeper(stack, inside)
    machine = Machine(name, address, folder, keeper, tuple(_entry(keeper)))
    wire = f"to-{name}"[:15]
    peer = ["type", "veth", "peer", "name", "eth0", "netns", str(keeper)]
    _must([*inside, "ip", "link", "add", wire, *peer])
    _must([*inside, "ip", "link", "set", wire, "master", BRIDGE, "up"])
    for command in (
        ["ip", "address", "add", f"{address}/24", "dev", "eth0"],
        ["ip", "link", "set", "eth0", "up"],
        ["ip", "link", "set", "lo", "up"],
        ["mount", "--bind", str(hosts), "/etc/hosts"],
    ):
        _must(machine.words(*command))
    return machine


def _keeper(stack: ExitStack, inside: Sequence[str], *, own_user: bool = False) -> int:
    """A process in a new network namespace, which ends when its standard input does."""
    user = ["--user", "--map-root-user"] if own_user else []
    # It tells its own pid, in the namespaces that we see: nsenter may have forked.
    command = [*inside, "unshare", *user, "--net", "--mount", "sh", "-c", "echo $$; exec cat"]
    process = stack.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    assert process.stdout is not None
    told = process.stdout.readline()
    assert told, "no network namespaces here: run as root, or let this user make user namespaces"
    return int(told)


def _entry(keeper: int) -> list[str]:
    own_user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    return ["nsenter", "--target", str(keeper), *own_user, "--net", "--mount"]


def _must(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
