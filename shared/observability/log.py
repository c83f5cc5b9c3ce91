"""Logs that people and programs read: each line has an ``action`` that dashboards key on."""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal, TextIO

from warren_shared import strict_json
from warren_shared.printable import printable

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Logging raises KeyError for a field of such a name, and the rest would replace what a line says.
_RESERVED = _STANDARD | {"time", "level", "action", "traceback"}


def _extra(action: str, fields: Mapping[str, object]) -> dict[str, object]:
    free = {f"{name}_" if name in _RESERVED else name: value for name, value in fields.items()}
    return {**free, "action": action}


def _shown(args: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(arg if isinstance(arg, (int, float)) else printable(str(arg)) for arg in args)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonLines(logging.Formatter):
    """One JSON object a line: time (Unix seconds), level, action, message, and the rest."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        line = {"time": record.created, "level": record.levelname, "message": record.getMessage()}
        line |= _fields(record)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return strict_json.dumps(line, default=str)


class Readable(logging.Formatter):
    """``12:00:00 message`` for people; the level is shown from WARNING on.

    What follows a message's first line is indented, and nothing in it acts on a terminal: a client
    may have written some of it, and no line of its making may look like one of ours.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of text."""
        level = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        line = f"{self.formatTime(record, '%H:%M:%S')} {level}{record.getMessage()}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return "\n  ".join(map(printable, line.split("\n")))


class ForJournal(logging.Formatter):
    """Lines of ``inner`` that begin as systemd's journal wants them, with their priority.

    See sd-daemon(3): without ``<4>`` a warning is as good as any other line to `journalctl -p`.
    """

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with its priority at the head of each line."""
        head = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(head + line for line in self._inner.format(record).split("\n"))


_PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def is_journal(stream: TextIO) -> bool:
    """Whether ``stream`` goes to systemd's journal, which says so in JOURNAL_STREAM."""
    try:
        told = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{told.st_dev}:{told.st_ino}"


def configure(
    style: Literal["text", "json"], level: str = "INFO", stream: TextIO | None = None
) -> None:
    """Log to ``stream`` (standard error unless told) in the given style."""
    stream = stream or sys.stderr
    target = logging.StreamHandler(stream)
    formatter = JsonLines() if style == "json" else Readable()
    target.setFormatter(ForJournal(formatter) if is_journal(stream) else formatter)
    logging.basicConfig(level=level, handlers=[target], force=True)
    for chatty in ("asyncio", "h5py", "urllib3", "absl", "tensorflow"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class Log:
    """A logger whose every line names its action: ``log.info("model_published", "…", version=3)``.

    ``action`` is what tests and dashboards key on, the message is for people and may be reworded.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def info(self, action: str, message: str, *args: object, **fields: object) -> None:
        """Say what happened."""
        self._logger.info(message, *_shown(args), extra=_extra(action, fields))

    def warning(self, action: str, message: str, *args: object, **fields: object) -> None:
        """Say what went wrong and is being dealt with."""
        self._logger.warning(message, *_shown(args), extra=_extra(action, fields))

    def error(self, action: str, message: str, *args: object, **fields: object) -> None:
        """Log an error that a person has to fix."""
        self._logger.error(message, *_shown(args), extra=_extra(action, fields))

    def exception(
        self, action: str, message: str, *args: object, error: BaseException, **fields: object
    ) -> None:
        """Log an error that a person has to fix, with the traceback of ``error`` below."""
        self._logger.error(message, *_shown(args), exc_info=error, extra=_extra(action, fields))
