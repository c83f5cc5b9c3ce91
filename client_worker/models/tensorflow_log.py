"""TensorFlow's greetings are not our log."""

import atexit
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_GREETING = re.compile(
    rb"[IWE]0000 |WARNING: All log messages before absl|To enable the following instructions"
)


@contextmanager
def without_greetings() -> Iterator[None]:
    """Drop what TensorFlow's C++ says on standard error while it loads; pass on all the rest.

    It writes to the file descriptor before any of its settings are read, half a dozen lines about
    what this machine lacks, in the middle of what may be a JSON log. The descriptor is the whole
    process's: what several threads load at the same time is held back once, until the last is done.
    """
    _ours.hold()
    try:
        yield
    finally:
        _ours.release()


class _StandardError:
    """File descriptor 2, which any number of threads may have held back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._kept = -1  # a descriptor of what it was
        self._held: IO[bytes] | None = None

    def hold(self) -> None:
        with self._lock:
            self._holders += 1
            if self._holders > 1:
                return
            sys.stderr.flush()
            self._kept = os.dup(2)
            self._held = tempfile.TemporaryFile()  # noqa: SIM115  closed by who comes last
            os.dup2(self._held.fileno(), 2)

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if not self._holders:
                self.put_back()

    def put_back(self) -> None:
        """Also at the interpreter's end, where a thread that loads never comes to its own."""
        if self._held is None:
            return
        sys.stderr.flush()
        os.dup2(self._kept, 2)
        os.close(self._kept)
        held, self._held = self._held, None
        with held:
            held.seek(0)
            for line in held:
                if not _GREETING.match(line):
                    os.write(2, line)


_ours = _StandardError()
atexit.register(_ours.put_back)
