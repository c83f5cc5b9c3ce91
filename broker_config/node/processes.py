"""Start, recognise and end the processes of a private node, and no others."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MARK: Final = "WARREN_NODE"
_POLL_S: Final = 0.03
_EXEC_S: Final = 1.0


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put an interrupt or a request to end off until this is done, if this is the main thread.

    Between a process's start and the note of its pid, or half-way through a stop, either would
    leave a broker that is not recorded.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    usual = {
        number: signal.signal(number, lambda caught, _frame: came.append(caught))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
        if came:
            os.kill(os.getpid(), came[0])


def spawn(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path, noted: Path
) -> int:
    """Start ``command`` in ``folder`` so that it outlives us, output to ``log``; return its pid.

    A shell starts it in a new session and ends at once. As a child of ours it would be
    ended by our terminal, and stay a zombie when it dies before we do. The shell writes the pid
    into ``noted``: the next command finds the process even if we are killed now.
    """
    script = (
        'log=$1; noted=$2; shift 2; "$@" >>"$log" 2>&1 & pid=$!; echo $pid >"$noted"; echo $pid'
    )
    started = subprocess.run(
        ["/bin/sh", "-c", script, "sh", str(log), str(noted), *command],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
        start_new_session=True,
    )
    return int(started.stdout)


def noted_in(path: Path) -> int:
    """The pid that `spawn` wrote into ``path``; 0 if there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def is_ours(pid: int, mark: str) -> bool:
    """Whether ``pid`` runs and carries our ``mark``: a pid may long belong to somebody else."""
    until = time.monotonic() + _EXEC_S
    environment = _environment(pid)
    # Linux shows none while a process becomes another program, as the start script does several
    # times on its way to the Erlang VM: a node that is starting would be taken for dead.
    while environment == b"" and not _has_ended(pid) and time.monotonic() < until:
        environment = _environment(pid)
    return f"{MARK}={mark}".encode() in (environment or b"").split(b"\0")


def _environment(pid: int) -> bytes | None:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None


def _has_ended(pid: int) -> bool:
    """Whether ``pid`` is no more, or only waits for its parent to take note of its end."""
    try:
        # The name before the state may itself hold spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def end(pid: int, mark: str, deadline_s: float) -> bool:
    """Ask ``pid`` to stop, kill it at the deadline; whether it went by itself."""
    for number, patience_s in ((signal.SIGTERM, deadline_s), (signal.SIGKILL, 10.0)):
        if not is_ours(pid, mark):
            return True
        os.kill(pid, number)
        if wait_for(lambda: not is_ours(pid, mark), patience_s):
            return number is signal.SIGTERM
    return False


def wait_for(happened: Callable[[], bool], deadline_s: float) -> bool:
    """Whether ``happened`` turned true within ``deadline_s`` seconds."""
    until = time.monotonic() + deadline_s
    while not happened():
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_S)
    return True
