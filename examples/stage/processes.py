"""The processes of a demonstration: started, watched, and ended by their ids."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from warren_shared.errors import WarrenError

BIN = Path(sys.executable).parent
STOP_S = 10.0


class ChildFailed(WarrenError):
    """A process that should have gone on ended; the message has the decisive line of its log."""


class Child:
    """A worker in a process of its own, whose JSON log is ``log``."""

    def __init__(self, name: str, command: str, bundle: Path, log: Path, *arguments: str) -> None:
        self.name, self.log = name, log
        self.peak_rss_bytes = 0
        kept = {key: value for key, value in os.environ.items() if not key.startswith("WARREN_")}
        # One thread each: four TensorFlows that each take all cores only get in each other's way.
        threads = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
        threads |= {"TF_NUM_INTEROP_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
        self.started = time.time()
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [str(BIN / command), "--env-file", str(bundle), "--log-format", "json", *arguments],
                env={**kept, **threads},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to pass on, once
            )

    def measure(self) -> None:
        """Note the peak of its resident memory so far."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self.peak_rss_bytes = int(line.split()[1]) * 1024

    def seconds_until(self, action: str, times: int = 1) -> float | None:
        """Seconds from its start until it logged ``action`` for the ``times``-th time."""
        for line in self.log.read_text().splitlines():
            if line.startswith("{"):
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # it is being written; we shall look again
                times -= record.get("action") == action
                if times == 0:
                    return float(record["time"] - self.started)
        return None

    def check(self, *, may_end: bool = False) -> None:
        """Raise ChildFailed if it has ended, unless it has done its work and ``may_end``."""
        code = self.process.poll()
        if code is None or (may_end and code == 0):
            return
        killed = f"was ended by {signal.Signals(-code).name}, having said" if code < 0 else "ended"
        raise ChildFailed(f"{self.name} {killed}: {self.last_words()} (log: {self.log})")

    def last_words(self) -> str:
        """The last line of its log, as a person would read it."""
        lines = self.log.read_text().strip().splitlines()
        if not lines:
            return "it said nothing"
        try:
            return str(json.loads(lines[-1])["message"])
        except (ValueError, KeyError, TypeError):
            return lines[-1]

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                pass
            finally:  # also when a second Ctrl-C cuts the waiting short
                self.process.kill()
                self.process.wait()
