"""The processes of a private node: start them, know when they are ready, ask them to stop."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from broker_config.node import config_files, processes, record
from broker_config.node.ports import LOOPBACK
from warren_shared.errors import BrokerConfigError
from warren_shared.observability.progress import spinner

if TYPE_CHECKING:
    from pathlib import Path

    from broker_config.node.record import Node

_AMQP_HELLO: Final = b"AMQP\x00\x00\x09\x01"
_STOP_CALL_S: Final = 20.0
_ERROR: Final = re.compile(r"\b[Ee]rror(?!_)")  # and no feature of "mirrored" queues
_VERSION: Final = re.compile(r"Starting RabbitMQ (\S+)")
# What 4.0 says over data of 3.10, and the other way round.
_FOREIGN_DATA: Final = re.compile("initialize_feature_flags_registry|schema_integrity_check_failed")
# It boots while another node registers its feature flags, and finds them half there.
_DISTURBED: Final = re.compile(r"Error during startup: \{error,\s*\{?incompatible_feature_flags")
_STARTS: Final = 3


def start_epmd(node: Node, epmd: str) -> Node:
    """Start the name server by which Erlang programs of this node find it, on its own port.

    Left to Erlang it would become a daemon with an unknown pid, and that a second node
    of this machine would come to depend on.
    """
    command = [epmd, "-address", LOOPBACK, "-port", str(node.ports.epmd)]
    started = processes.spawn(
        command,
        _environment(node),
        node.folder,
        _output(node),
        config_files.epmd_pid_file(node.folder),
    )
    node = replace(node, epmd_pid=started)
    if not processes.wait_for(lambda: _answers(node.ports.epmd, b""), 10.0):
        processes.end(started, str(node.folder), 5.0)
        raise BrokerConfigError(f"epmd does not start on port {node.ports.epmd}: {_decisive(node)}")
    return node


def start_server(node: Node) -> Node:
    """Start RabbitMQ."""
    _output(node).write_text("")
    noted = config_files.server_pid_file(node.folder)
    started = processes.spawn([node.server], _environment(node), node.folder, _output(node), noted)
    return replace(node, pid=started)


def wait_until_ready(node: Node, deadline_s: float) -> Node:
    """Return ``node``, with the process that it has then, when AMQP and management answer.

    A node that another one of its cluster disturbed is started again, as systemd does with one that
    is a service (docs/decisions.md, 206).

    Raises:
        BrokerConfigError: the node died (with what its log says of why), or is late.
    """
    for attempt in range(_STARTS):
        if attempt:
            with processes.undisturbed():
                node = record.save(start_server(node))
        with spinner("RabbitMQ is starting"):
            ready = processes.wait_for(partial(_is_decided, node), deadline_s)
        if node.running or not _DISTURBED.search(_output(node).read_text(errors="replace")):
            break
    if not node.running:
        why = _decisive(node) + _on_foreign_data(node)
        raise BrokerConfigError(f"RabbitMQ did not start: {why} (log: {node.log})")
    if not ready:
        raise BrokerConfigError(
            f"RabbitMQ does not answer after {deadline_s:.0f} s, see {node.log}: {_decisive(node)}"
        )
    return node


def ask_to_stop(node: Node) -> None:
    """Have RabbitMQ stop in its own order.

    On SIGTERM, as with rabbitmqctl, the management plugin's event listener waits 5 s for an answer
    of the supervisor that is just ending it (RabbitMQ 3.10); here it leaves before.
    """
    erl = shutil.which("erl")
    if erl is None:
        return
    stop = (
        f"N='{node.name}',"
        "rpc:call(N,gen_event,delete_handler,[rabbit_event,rabbit_mgmt_db_handler,[]],2000),"
        f"rpc:call(N,rabbit,stop_and_halt,[],{_STOP_CALL_S * 1000:.0f}),halt()."
    )
    caller = f"stop-{node.pid}@localhost"
    flags = ["-noinput", "-hidden", "-start_epmd", "false", "-sname", caller]
    environment = {**_environment(node), "ERL_AFLAGS": ""}
    try:
        subprocess.run(
            [erl, *flags, "-kernel", "inet_dist_use_interface", "{127,0,0,1}", "-eval", stop],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_STOP_CALL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return  # SIGTERM comes next.
    processes.wait_for(lambda: not node.running, _STOP_CALL_S)


def _is_decided(node: Node) -> bool:
    return not node.running or _is_ready(node)


def _is_ready(node: Node) -> bool:
    hello = b"" if node.tls else _AMQP_HELLO
    if not _answers(node.ports.amqp, hello) or not _answers(node.ports.management, b""):
        return False
    try:
        with node.manage() as management:
            return management.get("overview") is not None
    except BrokerConfigError:
        return False


def _answers(port: int, hello: bytes) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2.0) as connection:
            connection.sendall(hello)
            return not hello or bool(connection.recv(1))
    except OSError:
        return False


def _environment(node: Node) -> dict[str, str]:
    return config_files.environment(node.folder, node.name, node.ports)


def _output(node: Node) -> Path:
    return config_files.output_file(node.folder)


def _decisive(node: Node) -> str:
    """What tells what went wrong: the first error of this start, else the last line."""
    lines: list[str] = []
    for path in (_output(node), node.log):
        if path.exists():
            lines += path.read_text(errors="replace")[-20_000:].splitlines()
    told = [line.strip() for line in lines if line.strip(" =-*\t")]
    for number, line in enumerate(told):
        if _ERROR.search(line):
            # An Erlang term goes on in the lines below.
            whole = told[number : number + 4] if line.endswith((",", "{", "[")) else [line]
            return " ".join(whole)[:300]
    return (told[-1:] or ["it printed nothing"])[0][:300]


def _on_foreign_data(node: Node) -> str:
    """What to do if the node's data are of a version whose data this one cannot read.

    That is what becomes of a node when the system below it goes on to its next release.
    """
    if not _FOREIGN_DATA.search(_output(node).read_text(errors="replace")):
        return ""
    began = _VERSION.search(node.log.read_text(errors="replace") if node.log.exists() else "")
    whose = f"RabbitMQ {began[1]}" if began else "another RabbitMQ"
    return (
        f"; the data of this node are of {whose}: end the training with that, "
        f"then move {node.folder} away"
    )
