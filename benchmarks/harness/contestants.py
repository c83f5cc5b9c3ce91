"""Contestants in a process of their own, run one repetition at a time so that they can interleave.

Imports nothing but the standard library, because peers run it in an environment of their own.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

ROOT: Final = Path(__file__).parents[2]


class ContestantFailed(RuntimeError):
    """A contestant's process ended, or was too slow, before it had measured."""


@dataclass
class Samples:
    """Seconds of each repetition of a contestant, and the peak resident memory of its process."""

    seconds: list[float] = field(default_factory=list)
    peak_rss_bytes: int = 0

    def rate(self, size_bytes: float) -> float:
        """Median GB/s when each repetition takes in ``size_bytes``."""
        return size_bytes / median(self.seconds) / 1e9

    def spread(self, size_bytes: float) -> tuple[float, float]:
        """Lowest and highest GB/s."""
        return size_bytes / max(self.seconds) / 1e9, size_bytes / min(self.seconds) / 1e9


class Contestants:
    """The other end of `serve`: asks for repetitions and collects what they took."""

    def __init__(self, process: "subprocess.Popen[str]", deadline_s: float) -> None:
        self._process = process
        self._deadline_s = deadline_s
        self.samples: dict[str, Samples] = {}

    def run(self, names: Sequence[str], repetitions: int) -> Mapping[str, Samples]:
        """Run every contestant in turn, ``repetitions`` times, after one turn to warm up.

        Raises:
            ContestantFailed: the process ended, or one repetition took longer than the deadline.
        """
        for turn in range(repetitions + 1):
            for name in names:
                told = self._once(name)
                samples = self.samples.setdefault(name, Samples())
                samples.peak_rss_bytes = int(told["peak_rss_bytes"])
                if turn > 0:
                    samples.seconds.append(told["seconds"])
        return self.samples

    def _once(self, name: str) -> Mapping[str, float]:
        if self._process.stdin is None or self._process.stdout is None:
            raise ContestantFailed(f"{name} has no pipes")
        late = threading.Timer(self._deadline_s, self._process.kill)
        late.start()
        try:
            print(name, file=self._process.stdin, flush=True)
            told: Mapping[str, float] = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise ContestantFailed(f"{name} ended, or was ended, before it had measured") from error
        finally:
            late.cancel()
        return told


@contextmanager
def contestants(
    program: Sequence[str], *, python: str = sys.executable, deadline_s: float = 120.0
) -> Iterator[Contestants]:
    """The contestants of ``python -m program…``, whose process ends with this context."""
    command = [python, "-m", *program]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Contestants(process, deadline_s)
        finally:
            process.kill()  # it holds nothing but memory


def serve(named: Mapping[str, Callable[[], object]]) -> None:
    """Run the contestant that each line of standard input names, until there are no more lines."""
    for line in sys.stdin:
        contestant = named[line.strip()]
        start = time.perf_counter()
        kept = contestant()
        seconds = time.perf_counter() - start
        del kept  # to free the result is not part of making it
        told = {"seconds": seconds, "peak_rss_bytes": peak_rss_bytes()}
        print(json.dumps(told), flush=True)  # noqa: T201


def peak_rss_bytes() -> int:
    """Peak resident memory of this process so far."""
    # Not getrusage: its maximum begins with that of the process that started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ContestantFailed("this system does not tell the peak of the resident memory")
