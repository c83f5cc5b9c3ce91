"""TensorFlow's greetings are not our log."""

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_GREETING = re.compile(
    rb"[IWE]0000 |WARNING: All log messages before absl|To enable the following instructions"
)


@contextmanager
def without_greetings() -> Iterator[None]:
    """Drop what TensorFlow's C++ says on standard error while it loads; pass on all the rest.

    It writes to the file descriptor before any of its settings are read, half a dozen lines about
    what this machine lacks, in the middle of what may be a JSON log.

    On another thread than the main one nothing is held back: the descriptor is the whole process's,
    and a program that has threads of its own would lose what they say.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held:
                if not _GREETING.match(line):
                    os.write(2, line)
