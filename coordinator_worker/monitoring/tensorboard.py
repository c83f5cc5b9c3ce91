"""Rounds as curves for TensorBoard: all of a history at once, or one by one while they close."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from coordinator_worker.monitoring.events import Event, RoundClosed
from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.versions.history import aligned
from warren_shared.errors import ConfigError
from warren_shared.files import writable
from warren_shared.observability.log import Log

log = Log(__name__)

MISSING: Final = "--tensorboard needs tensorboardX: pip install 'warren-fl[tensorboard]'"


class EventFile:
    """A file of TensorBoard's in ``folder``; raises ConfigError if that cannot be.

    Each round's figures stand at the step of its version.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        writer = _library()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = writer(str(folder / "events"), suffix)
        except OSError as error:
            raise ConfigError(f"--tensorboard {folder} cannot be written: {error}") from None

    def add(self, record: RoundRecord) -> None:
        """Write a round; raises OSError if there is no room.

        What clients evaluated stands at the version that they evaluated.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        for figures in aligned([record]):
            version, moment = int(figures.pop("version")), record.time
            figures.pop("time", None)
            values = [
                Summary.Value(tag=name if "/" in name else f"round/{name}", simple_value=value)
                for name, value in figures.items()
                if isinstance(value, (int, float))
            ]
            event = Event(wall_time=moment, step=version, summary=Summary(value=values))
            self._file.write_event(event)

    def flush(self) -> None:
        """Let TensorBoard see what was added."""
        self._file.flush()

    def close(self) -> None:
        """Nothing more is added."""
        self._file.close()


def export(history: Iterable[RoundRecord], folder: Path, run: str) -> None:
    """Write a history to ``folder``/``run``, which must not have curves yet."""
    place = folder / run
    if place.is_dir() and any(place.glob("events.out.tfevents*")):
        raise ConfigError(
            f"--tensorboard {folder}: {place} has this run already and would show each round twice;"
            " remove it, or name another folder"
        )
    file = EventFile(place, "")
    try:
        for record in history:
            file.add(record)
        file.close()
    except OSError as error:
        raise ConfigError(f"--tensorboard {place} cannot be written: {error}") from None


class Curves:
    """Writes each round that closes to ``folder``/RUN; a listener.

    Raises ConfigError at once if that cannot be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = writable(folder, "--tensorboard", private=False)
        self._file: EventFile | None = None
        self._over = False
        _library()

    def on_event(self, event: Event) -> None:
        """Write what closed a round."""
        if not isinstance(event, RoundClosed) or self._over:
            return
        try:
            if self._file is None:
                # A run that goes on has a file for each of its processes.
                self._file = EventFile(self._folder / event.run, f".{os.getpid()}")
            self._file.add(event.record)
            self._file.flush()
        except (OSError, ConfigError) as error:
            self._over = True
            log.warning("curves_off", "no more curves, --tensorboard cannot be written: %s", error)

    def close(self) -> None:
        """Nothing more is added."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()


def _library() -> Any:
    try:
        from tensorboardX.event_file_writer import EventsWriter
    except ImportError:
        raise ConfigError(MISSING) from None
    return EventsWriter
