"""A worker as a process of a `Federation`: ``python -m warren_fl.child PROGRAM [MODULE …]``.

It imports what takes long, waits for the worker's command line as a line of JSON on standard input,
and is that worker. When standard input ends, whoever started it is gone, and it ends, too.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from importlib import import_module
from typing import Final

GRACE_S: Final = 5.0
PROGRAMS: Final = {
    "client-worker": ("client_worker.cli", ("client_worker.runtime.worker",)),
    "coordinator-worker": (
        "coordinator_worker.cli", ("coordinator_worker.runtime.worker", "warren_fl.feed"),
    ),
}  # fmt: skip


def main() -> int:
    """Be the worker."""
    program, *modules = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    events = os.dup(1)
    os.dup2(2, 1)  # what a task prints is no event
    cli, ours = PROGRAMS[program]
    _preload([*ours, *modules], one_arena=program == "coordinator-worker")
    line = sys.stdin.readline()
    if not line:
        return 0
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if program == "coordinator-worker":
        import_module("warren_fl.feed").open_stream(events)
    else:
        os.close(events)
    sys.argv[0] = program
    code: int = import_module(cli).main(json.loads(line))
    return code


def _preload(modules: list[str], *, one_arena: bool) -> None:
    """Import ``modules``; what fails is for the worker to say, in its own words."""
    from warren_shared.service.malloc import keep_freed_memory

    keep_freed_memory(one_arena=one_arena)
    for name in modules:
        with contextlib.suppress(Exception):
            if name in ("keras", "tensorflow"):
                import_module("client_worker.models.keras_backend")
            else:
                import_module(name)


def _end_with_parent() -> None:
    while os.read(
        0, 4096
    ):  # not through sys.stdin, whose lock the interpreter's end would wait for
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
