"""What a worker needs to be a service: an ending for expected errors, and signals."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from warren_shared.errors import WarrenError
from warren_shared.observability.log import Log
from warren_shared.protocol.messages import OLDEST, PROTOCOL

log = Log(__name__)

LAST_CHANCE_S: Final = 5.0  # how long what is being published may take once we were asked to stop
# `timeout` sends its signal to the process and to its group, so it comes twice.
TWICE_S: Final = 0.1


def run(program: str, main: Callable[[], int | None]) -> int:
    """Run ``main``; return the exit code, which is ``main``'s unless that is None (0).

    An expected error becomes one line on standard error and its own exit code.
    """
    try:
        return main() or 0
    except WarrenError as error:
        print(f"{program}: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def say_started(unknown_settings: Iterable[str]) -> None:
    """Log that all is imported and read: from now on it is the broker that is waited for.

    ``unknown_settings`` are lines about variables that look like settings and are none.
    """
    for line in unknown_settings:
        log.warning("stray_setting", "%s", line)
    log.info("started", "connecting to the broker; reads protocols %d to %d", OLDEST, PROTOCOL)


@dataclass
class StopSignal:
    """The signal that asked this process to stop, if one has."""

    number: int | None = None

    @property
    def exit_code(self) -> int:
        """As of a process that the signal ended: a supervisor takes 0 for work that is done."""
        return 0 if self.number is None else 128 + self.number


def on_stop_signal(stop: Callable[[], None]) -> StopSignal:
    """Call ``stop`` at the first SIGINT or SIGTERM; leave the process at the second.

    Returns what knows which signal came.

    ``stop`` runs on a thread of its own. Python runs a handler on the main thread, between two
    bytecodes, and one that waits for a lock runs none: a signal that comes just before it begins to
    wait, or that the kernel gives another thread, would be heeded when the wait is over, which may
    be never. What the interpreter writes to a wakeup descriptor is there at once.
    """
    asked = StopSignal()
    hears, tells = socket.socketpair()
    tells.setblocking(False)
    signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    told = (hears, tells, asked, stop)
    threading.Thread(target=_heed, args=told, name="signals", daemon=True).start()
    return asked


def _heed(
    hears: socket.socket, _tells: socket.socket, asked: StopSignal, stop: Callable[[], None]
) -> None:
    came = 0.0
    while number := hears.recv(1):
        if number[0] not in (signal.SIGINT, signal.SIGTERM):
            continue
        if asked.number is None:
            asked.number, came = number[0], time.monotonic()
            # Not on this one: it may take a while, and the second signal is to be heeded then.
            threading.Thread(target=stop, name="stop", daemon=True).start()
        elif time.monotonic() - came > TWICE_S:
            os._exit(128 + number[0])
