"""What a federation from Python must not leave: processes, ports, folders, handlers."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from broker_config.node import record


def processes_of(folder: Path) -> list[psutil.Process]:
    """Those that work in ``folder``, or are named after it: broker, its name server, workers."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), process.cwd(), *process.environ().values()]
            if process.status() != psutil.STATUS_ZOMBIE and any(str(folder) in w for w in told):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
    return found


def ports_of(folder: Path) -> list[int]:
    """The ports of the private broker in ``folder``."""
    node = record.load(folder / "broker")
    assert node is not None
    ports = node.ports
    return [ports.amqp, ports.management, ports.distribution, ports.epmd]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def assert_nothing_left(folder: Path, ports: list[int], pids: list[int], within_s: float) -> None:
    """Fail if something is still there then."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        left = [
            *processes_of(folder),
            *(pid for pid in pids if psutil.pid_exists(pid) and not _is_zombie(pid)),
            *filter(answers, ports),
            *([folder] if folder.exists() else []),
        ]
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(f"left over: {left}")


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _state() -> dict[str, object]:
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
    root = logging.getLogger()
    return {
        "signals": [signal.getsignal(name) for name in names],
        "handlers": list(root.handlers),
        "level": root.level,
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "path": list(sys.path),
        "threads": {thread.name for thread in threading.enumerate()},
        "files": len(os.listdir("/proc/self/fd")),
        "children": {child.pid for child in psutil.Process().children()},
        "excepthook": (sys.excepthook, threading.excepthook),
    }


@contextmanager
def nothing_changed() -> Iterator[None]:
    """Fail if the block changes something of this process that outlives it."""
    before = _state()
    yield
    after = _state()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not changed
