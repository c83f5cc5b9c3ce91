"""What a worker needs to be a service: an ending for expected errors, and signals."""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Final

from shared.errors import WarrenError
from shared.log import Log
from shared.messages import OLDEST, PROTOCOL

log = Log(__name__)

LAST_CHANCE_S: Final = 5.0  # how long what is being published may take once we were asked to stop


def run(program: str, main: Callable[[], None]) -> int:
    """Run ``main``; an expected error becomes one line on standard error and its exit code."""
    try:
        main()
    except WarrenError as error:
        print(f"{program}: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def say_started(strays: Iterable[str]) -> None:
    """Log that all is imported and read: from now on it is the broker that is waited for.

    ``strays`` are lines about variables that look like settings and are none.
    """
    for line in strays:
        log.warning("stray_setting", "%s", line)
    log.info("started", "connecting to the broker; reads protocols %d to %d", OLDEST, PROTOCOL)


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call ``stop`` at the first SIGINT or SIGTERM; leave the process at the second.

    ``stop`` runs between two bytecodes of the main thread, so it may only do what is safe while
    that thread holds any lock: ``SimpleQueue.put`` is.
    """
    asked = False

    def received(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        stop()

    signal.signal(signal.SIGINT, received)
    signal.signal(signal.SIGTERM, received)
