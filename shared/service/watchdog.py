"""What a worker tells its supervisor: systemd by a socket, health checks by a file.

systemd names a socket in NOTIFY_SOCKET and, if it is to watch, says in WATCHDOG_USEC within what
time it wants to hear from us (sd_notify(3), sd_watchdog_enabled(3)). A health check looks whether
the ready file is there, and how old it is.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

DEFAULT_BEAT_S: Final = 20.0
AWAY: Final = "the broker is away; connecting again"


class Supervisor:
    """Says that we are ready, what we are doing, that we get on with it, and that we stop.

    Without socket and file it says nothing to anybody, nor without ``may_speak``. What is said in
    vain (the socket is gone, the disk full) is not said again: a worker does not end for that.
    """

    def __init__(self, ready_file: Path | None, *, may_speak: bool = True) -> None:
        self._file = ready_file
        self._address = _address(os.environ.get("NOTIFY_SOCKET", "")) if may_speak else None
        self._is_away = False
        self._remove_file()  # of a process that was killed
        self.beat_s = _beat_s() if self._address else DEFAULT_BEAT_S

    @property
    def listens(self) -> bool:
        """Whether anybody wants to know."""
        return self._address is not None or self._file is not None

    def ready(self) -> None:
        """We are connected and do our work."""
        self._is_away = False
        self._touch()
        self._say("READY=1", "STATUS=connected")

    def away(self) -> None:
        """The broker is away; we wait for it, which is our work too."""
        self._is_away = True
        self._remove_file()
        self._say(f"STATUS={AWAY}")

    def alive(self, status: str = "") -> None:
        """We get on with our work. ``status`` is a few words on what that is.

        While the broker is away that is what is said, whatever we do meanwhile.
        """
        status = AWAY if self._is_away else status
        if self._file is not None and self._file.exists():
            self._touch()
        self._say("WATCHDOG=1", *([f"STATUS={status}"] if status else []))

    def stopping(self) -> None:
        """We end, by ourselves or because we were asked to."""
        self._remove_file()
        self._say("STOPPING=1")

    def _remove_file(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)

    def _touch(self) -> None:
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()
        except OSError:
            pass  # no room: a health check sees an old file, or none

    def _say(self, *words: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            try:
                to.setblocking(False)
                to.sendto("\n".join(words).encode(), self._address)
            except OSError:
                pass  # its queue is full, or systemd is gone


class Pulse:
    """Asks at intervals whether we are alive: ``ask`` is called, and a live worker answers.

    Nothing is said from here: a timer that tells systemd all is well would say so of a worker that
    hangs. ``ask`` sends a question the way that work goes, through the connection's thread to the
    main thread, and that one's answer is what the supervisor hears.
    """

    def __init__(self, supervisor: Supervisor, ask: Callable[[], None]) -> None:
        self._over = threading.Event()
        self._supervisor = supervisor
        self._ask = ask

    def start(self) -> None:
        """Begin, if anybody listens."""
        if self._supervisor.listens:
            threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def stop(self) -> None:
        """End."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._supervisor.beat_s):
            self._ask()


class Busy:
    """Since when the main thread has been at something that takes as long as it takes."""

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s = limit_s
        self._since: float | None = None

    def __enter__(self) -> None:
        """It begins."""
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        """It is done."""
        self._since = None

    def seconds(self) -> float | None:
        """How long it has lasted; None if there is nothing."""
        return None if self._since is None else time.monotonic() - self._since

    def for_too_long(self) -> bool:
        """Whether it has lasted longer than it may."""
        seconds = self.seconds()
        return self._limit_s is not None and seconds is not None and seconds > self._limit_s


def _address(named: str) -> str | None:
    if named.startswith("@"):
        return "\0" + named[1:]  # an abstract socket
    return named or None


def _beat_s() -> float:
    """A third of the time that systemd grants, so that one question may be lost."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    meant = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not wanted.isdecimal() or not int(wanted) or meant != str(os.getpid()):
        return DEFAULT_BEAT_S
    return min(DEFAULT_BEAT_S, int(wanted) / 3e6)
