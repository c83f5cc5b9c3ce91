"""What a worker needs to be a service: an ending for expected errors, and signals."""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Final

from warren_shared.errors import WarrenError
from warren_shared.observability.log import Log
from warren_shared.protocol.messages import OLDEST, PROTOCOL

log = Log(__name__)

LAST_CHANCE_S: Final = 5.0  # how long what is being published may take once we were asked to stop


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

    ``stop`` runs between two bytecodes of the main thread, so it may only do what is safe while
    that thread holds any lock: ``SimpleQueue.put`` is.
    """
    asked = StopSignal()

    def received(number: int, _frame: FrameType | None) -> None:
        if asked.number is not None:
            os._exit(128 + number)
        asked.number = number
        stop()

    signal.signal(signal.SIGINT, received)
    signal.signal(signal.SIGTERM, received)
    return asked
