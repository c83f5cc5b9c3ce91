"""The global model judged beside the coordinator, by a program that its user brings.

A child process, since it may need a framework that the coordinator must never load, and may take
longer than a round: then the versions that come meanwhile are passed over.
"""

import json
import os
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from math import nan
from pathlib import Path
from typing import IO, Final

from warren_shared import weights_file
from warren_shared.files import PRIVATE
from warren_shared.observability.log import Log
from warren_shared.printable import printable
from warren_shared.tensors.layout import Weights

log = Log(__name__)

MAX_LINE: Final = 500  # bytes

Judged = Callable[[int, Mapping[str, float]], None]


class Evaluator:
    """Runs ``command FILE`` on models as ``.npz``; calls ``judged(version, figures)``, on a thread.

    The program prints one JSON object of figures by name. One that fails costs a warning.
    """

    def __init__(self, command: str, folder: Path, judged: Judged) -> None:
        self._command = shlex.split(command)
        self._file = folder / "evaluated.npz"
        self._judged = judged
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._over = False
        self._newest = -1  # version that was looked at last

    def look_at(
        self, version: int, weights: Weights, facts: weights_file.Facts | None = None
    ) -> None:
        """Have ``weights``, of which the file says ``facts``, judged, unless an earlier one is."""
        if self._over or (self._thread is not None and self._thread.is_alive()):
            return
        complaints: IO[bytes] | None = None
        try:
            complaints = tempfile.TemporaryFile()  # noqa: SIM115  read and closed by the thread
            whole = weights_file.without_controls(weights)
            weights_file.write(self._file, whole, facts, mode=PRIVATE)
            self._process = subprocess.Popen(
                [*self._command, str(self._file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
            )
        except OSError as error:
            if complaints is not None:
                complaints.close()
            log.warning("not_evaluated", "version %d cannot be evaluated: %s", version, error)
            return
        self._newest = version
        self._thread = threading.Thread(
            target=self._wait, args=(version, self._process, complaints)
        )
        self._thread.start()

    def finish(
        self,
        version: int,
        weights: Weights,
        goes_on: Callable[[], bool],
        facts: weights_file.Facts | None = None,
    ) -> None:
        """Have the last version judged, too, and wait for it while ``goes_on()``.

        That is called every now and then; it may take a second.
        """
        if not self._ended(goes_on):
            return
        if self._newest != version:
            self.look_at(version, weights, facts)
        self._ended(goes_on)

    def _ended(self, goes_on: Callable[[], bool]) -> bool:
        """Wait for the program; whether it has ended."""
        while self._thread is not None and self._thread.is_alive():
            if not goes_on():
                return False
        return True

    def close(self) -> None:
        """End the program, if it runs."""
        self._over = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        if self._thread is not None:
            self._thread.join()

    def _wait(self, version: int, process: "subprocess.Popen[str]", complaints: IO[bytes]) -> None:
        try:
            with process, complaints:
                printed, _ = process.communicate()
                last = _last_line(complaints)
            if process.returncode:
                raise ValueError(f"{self._command[0]} ended with {process.returncode}{last}")
            said = json.loads(printed).items()  # JSON's null was NaN
            figures = {str(n): nan if value is None else float(value) for n, value in said}
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            if not self._over:
                log.warning("not_evaluated", "version %d was not evaluated: %s", version, error)
            return
        self._judged(version, figures)


def _last_line(complaints: IO[bytes]) -> str:
    """The end of what a program wrote to its standard error, as the end of a sentence."""
    size = complaints.seek(0, os.SEEK_END)
    complaints.seek(max(0, size - MAX_LINE))
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    return f": {printable(lines[-1])}" if lines else ""
