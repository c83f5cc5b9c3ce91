"""The processes that descend from this one: all of them end with it, however it ends.

Flower's processes start others in sessions of their own, and Ray's do too, so that neither their
process group nor the death of their parent would end them.
"""

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

STOP_S: Final = 5.0
_PARENT_DIED: Final = 1  # PR_SET_PDEATHSIG
_ADOPT: Final = 36  # PR_SET_CHILD_SUBREAPER


def adopt(timeout_s: float) -> None:
    """Become the parent of orphaned descendants; raise SystemExit when told to end.

    That is on SIGTERM, when the process that started this one dies, and after ``timeout_s``.
    """
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _leave)
    libc = ctypes.CDLL(None)
    libc.prctl(_ADOPT, 1)
    libc.prctl(_PARENT_DIED, signal.SIGTERM)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(f"ended by {signal.Signals(number).name}")


def end() -> None:
    """End every descendant: politely, and those that stay after ``STOP_S`` not so."""
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)  # nothing may interrupt this
    deadline = time.monotonic() + STOP_S
    for pid in descendants():
        _signal(pid, signal.SIGTERM)
    while left := descendants():
        if time.monotonic() > deadline:
            for pid in left:
                _signal(pid, signal.SIGKILL)
        time.sleep(0.05)


def descendants() -> list[int]:
    """The children of this process, their children, and so on; the dead ones are buried."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it has just gone
                # The name in parentheses may hold blanks.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
    found, rest = [], [os.getpid()]
    while rest:
        parent = rest.pop()
        children = [pid for pid, of in parents.items() if of == parent]
        found += children
        rest += children
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
