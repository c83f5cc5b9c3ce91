"""The coordinator's events as JSON lines to the process that started it: a listener, and a reader.

Through a pipe of our own, not through the broker: it needs no account that may watch, and an event
that was posted is read.
"""

import json
from collections.abc import Callable
from typing import IO

from coordinator_worker.monitoring.events import Event, Posted, Stamped
from warren_shared import strict_json

_stream: IO[str] | None = None


def open_stream(descriptor: int) -> None:
    """Write events to this file from now on."""
    global _stream  # noqa: PLW0603  an import path names what listens, and brings no argument
    _stream = open(descriptor, "w", encoding="utf-8")  # noqa: SIM115


class Feed:
    """A listener that writes each event that is posted."""

    def __init__(self) -> None:
        self._number = 0

    def on_event(self, event: Event) -> None:
        """Write ``event``."""
        if _stream is None or not isinstance(event, Posted):
            return
        self._number += 1
        line = strict_json.dumps(Stamped.now(event, self._number, "").to_dict())
        _stream.write(line + "\n")
        _stream.flush()

    def close(self) -> None:
        """Nothing more comes."""
        if _stream is not None:
            _stream.close()


def read(stream: IO[bytes], take: Callable[[Stamped], None]) -> None:
    """Give each event to ``take`` until the coordinator has closed its end."""
    for line in stream:
        try:
            fields = json.loads(line)
        except ValueError:
            continue  # of a process that was killed while it wrote
        stamped = Stamped.from_dict(fields)
        if stamped.event is not None:
            take(stamped)
