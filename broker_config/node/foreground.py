"""Stay with a private node: start again what is lost of it, stop it when we are asked to end."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from broker_config.home.lock import alone
from broker_config.node import lifecycle as private
from warren_shared.service.watchdog import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LOOK_S: Final = 1.0


class _AskedToEnd(BaseException):
    """SIGTERM or SIGINT; no Exception, since no handler on the way may take it for a fault."""


def attend(home: Path, start: Callable[[], object]) -> None:
    """Call ``start``, which brings the node in ``home`` up, whenever a process of it is gone.

    Returns when we are asked to end, and the node is stopped then, or when somebody has stopped it.
    Raises what ``start`` does, after what was up is stopped: the supervisor starts us again.
    """
    supervisor = Supervisor(None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ask_to_end)
    try:
        start()
        sys.stdout.flush()
        supervisor.ready()
        while _is_wanted(home, start):
            time.sleep(_LOOK_S)
    except _AskedToEnd:
        pass
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        supervisor.stopping()
        private.down(home)


def _is_wanted(home: Path, start: Callable[[], object]) -> bool:
    """Whether the node is to run, which it does then."""
    if not private.lost(home) and private.pid(home) is not None:
        return True
    with alone(home):  # `down` may be at work, after which nothing is lost
        gone = private.lost(home)
        if gone:
            sys.stdout.write(f"{', '.join(gone)} ended: starting it again\n")
            start()
            sys.stdout.flush()
        elif private.pid(home) is None:
            sys.stdout.write("stopped by another command\n")
            return False
    return True


def _ask_to_end(_number: int, _frame: object) -> None:
    raise _AskedToEnd
