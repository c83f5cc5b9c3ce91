"""Rounds as curves for TensorBoard: all of a history at once, or one by one while they close."""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from coordinator_worker.monitoring.client_figures import ClientCurves
from coordinator_worker.monitoring.events import Event, RoundClosed, RoundContributions
from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.storage.client_history import ClientRound
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
        for figures in aligned([record]):
            version = int(figures.pop("version"))
            figures.pop("time", None)
            told = {
                name if "/" in name else f"round/{name}": value
                for name, value in figures.items()
                if isinstance(value, (int, float))
            }
            self.write(record.time, version, told)

    def write(self, moment: float, step: int, figures: Mapping[str, float]) -> None:
        """Write figures of one version; raises OSError if there is no room."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._file.write_event(Event(wall_time=moment, step=step, summary=Summary(value=values)))

    def flush(self) -> None:
        """Let TensorBoard see what was added."""
        self._file.flush()

    def close(self) -> None:
        """Nothing more is added."""
        self._file.close()


def export(
    history: Iterable[RoundRecord], folder: Path, run: str, clients: Iterable[ClientRound] = ()
) -> None:
    """Write a history to ``folder``/``run``, which must not have curves yet.

    ``clients``: what each client said, to be written too.
    """
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
        own = ClientCurves()
        for closed in clients:
            for step, figures in own.figures(closed.version, closed.updates):
                file.write(closed.time, step, figures)
        file.close()
    except OSError as error:
        raise ConfigError(f"--tensorboard {place} cannot be written: {error}") from None


class Curves:
    """Writes each round that closes to ``folder``/RUN; a listener.

    Raises ConfigError at once if that cannot be.
    """

    def __init__(self, folder: Path, *, clients: bool = False) -> None:
        self._clients = ClientCurves() if clients else None
        self._folder = writable(folder, "--tensorboard", private=False)
        self._file: EventFile | None = None
        self._over = False
        _library()

    def on_event(self, event: Event) -> None:
        """Write what closed a round."""
        if self._over:
            return
        try:
            if isinstance(event, RoundClosed):
                file = self._opened(event.run)
                file.add(event.record)
                file.flush()
            elif isinstance(event, RoundContributions) and self._clients is not None:
                file = self._opened(event.run)
                for step, figures in self._clients.figures(event.version, event.updates):
                    file.write(time.time(), step, figures)
                file.flush()
        except (OSError, ConfigError) as error:
            self._over = True
            log.warning("curves_off", "no more curves, --tensorboard cannot be written: %s", error)

    def _opened(self, run: str) -> EventFile:
        if self._file is None:
            # A run that goes on has a file for each of its processes.
            self._file = EventFile(self._folder / run, f".{os.getpid()}")
        return self._file

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
