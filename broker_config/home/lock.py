"""One command at a time works in a home folder."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from warren_shared.errors import BrokerConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Longer than any command but an `up` that installs RabbitMQ or starts it on a machine that is busy.
WAIT_S: Final = 60.0
_SILENT_S: Final = 1.0
_POLL_S: Final = 0.03

# Who holds a lock may ask for it again, in the same thread.
_held: set[tuple[int, Path]] = set()


@contextmanager
def alone(home: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Have ``home``, an existing folder, for this thread alone while the block lasts.

    The lock is on the folder itself: it needs no room on a disk that is full, and the system takes
    it back however we end. Two commands that each read what is remembered, add to it and write it
    would otherwise forget what the other added.

    Raises:
        BrokerConfigError: another command works there and is not done after ``wait_s`` seconds.
    """
    key = (threading.get_ident(), home)
    if key in _held:
        yield
        return
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _take(descriptor, home, wait_s)
        _held.add(key)
        yield
    finally:
        _held.discard(key)
        os.close(descriptor)


def _take(descriptor: int, home: Path, wait_s: float) -> None:
    began, said = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        except OSError as error:  # such as on NFS, which locks no folder
            _say(f"{home} cannot be locked ({error.strerror}): run one command at a time")
            return
        else:
            return
        waited_s = time.monotonic() - began
        if waited_s >= wait_s:
            raise BrokerConfigError(
                f"{_holder(descriptor)} works in {home} and was not done after {wait_s:.0f} s: "
                "repeat the command when it is"
            )
        if waited_s >= _SILENT_S and not said:
            _say(f"waiting for {_holder(descriptor)}, which works in {home}")
            said = True
        time.sleep(_POLL_S)


def _holder(descriptor: int) -> str:
    """Who has the lock, as far as the system tells."""
    inode = str(os.fstat(descriptor).st_ino)
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            # "1: FLOCK ADVISORY WRITE 4711 fe:01:523461 0 EOF"; waiters have an arrow
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode:
                return f"{_command(int(words[4]))} (pid {words[4]})"
    except (OSError, IndexError, ValueError):
        pass
    return "another broker-config"


def _command(pid: int) -> str:
    """What ``pid`` was started with, without the interpreter; no password stands there."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    if Path(words[0]).name.startswith("python"):
        words = words[1:]
    command = " ".join([Path(words[0]).name, *words[1:]]).strip()[:80]
    return f"`{command}`" if command.isprintable() and command else "another program"


def _say(line: str) -> None:
    print(f"broker-config: {line}", file=sys.stderr)  # noqa: T201
