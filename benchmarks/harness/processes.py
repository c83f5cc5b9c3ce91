"""Workers in processes of their own, as a user starts them: watched, measured, and ended."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent
STOP_S: Final = 10.0
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


class WorkerFailed(RuntimeError):
    """A process ended, or was ended, before it had done its work."""


class Worker:
    """A program whose output is kept in the file ``log``; ended when its context ends.

    With ``followed`` its standard error comes to `records`, and from there into ``log``.
    """

    def __init__(self, program: Sequence[str | Path], log: Path, *, followed: bool = False) -> None:
        self.log = log
        kept = {key: value for key, value in os.environ.items() if not key.startswith("WARREN_")}
        with log.open("w") as output:
            self.process = subprocess.Popen(
                list(map(str, program)),
                cwd=ROOT,
                env={**kept, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE if followed else subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def records(self, timeout_s: float) -> Iterator[Mapping[str, Any]]:
        """Its log records as they come, until it ends by itself.

        Raises:
            WorkerFailed: it failed, or did not end within ``timeout_s`` seconds and was killed.
        """
        if self.process.stderr is None:
            raise WorkerFailed(f"the log of {self.log.stem} is not followed")
        late = threading.Timer(timeout_s, self.process.kill)
        late.start()
        try:
            with self.log.open("a", buffering=1) as copy:
                for line in self.process.stderr:
                    copy.write(line)
                    if line.startswith("{"):
                        yield json.loads(line)
            self.process.wait(timeout_s)
        finally:
            late.cancel()
        self.check()

    def done(self, timeout_s: float) -> None:
        """Return when it has ended by itself; WorkerFailed if it fails or takes longer."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise WorkerFailed(f"{self.log.stem} did not end: {last_line(self.log)}") from None
        self.check()

    def check(self) -> None:
        """Raise WorkerFailed if it has failed, or was ended by a signal."""
        if code := self.process.poll():
            raise WorkerFailed(f"{self.log.stem} ended with {code}: {last_line(self.log)}")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            if self.process.stderr is not None:
                self.process.stderr.close()


def worker(
    command: str, bundle: Path, log: Path, *arguments: str, followed: bool = False
) -> Worker:
    """``client-worker`` or ``coordinator-worker`` as installed beside this Python."""
    told = ("--env-file", str(bundle), "--log-format", "json", *arguments)
    return Worker([BIN / command, *told], log, followed=followed)


def python(module: str, log: Path, *arguments: str) -> Worker:
    """One of our own modules as a process."""
    return Worker([sys.executable, "-m", module, *arguments], log)


def last_line(log: Path, *, characters: int | None = 300) -> str:
    """The end of a log, where the reason usually stands; all of the line if ``characters`` None."""
    lines = log.read_text().strip().splitlines()
    return lines[-1][:characters] if lines else "it said nothing"


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used so far; 0 if it is gone."""
    with suppress(OSError):
        # The name in parentheses may hold blanks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S
    return 0.0


def peak_rss_bytes(pid: int) -> int:
    """The most memory a process has held so far; 0 if it is gone."""
    return _status_bytes(pid, "VmHWM:")


def rss_bytes(pid: int) -> int:
    """The memory a process holds now; 0 if it is gone."""
    return _status_bytes(pid, "VmRSS:")


def _status_bytes(pid: int, field: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open; 0 if it is gone."""
    with suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0
