"""What runs in namespaces of its own: its process 1 as this machine counts, and commands inside."""

import subprocess
import time
from pathlib import Path
from typing import ClassVar, Final

PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
START_S: Final = 60.0


class Namespaces:
    """Commands run where process ``pid`` runs, in those of its namespaces that ``kinds`` names.

    ``kinds`` are nsenter's flags, ``environment`` is all that the commands find in theirs.
    """

    within_s: ClassVar[float] = 120.0

    def __init__(self, pid: int, *kinds: str, **environment: str) -> None:
        self._enter = ["nsenter", "--target", str(pid), *kinds]
        self._environment = environment

    def run(self, *words: str, check: bool = True, within_s: float | None = None) -> str:
        """What ``words`` print, both streams; fails with that if they fail and ``check``."""
        done = subprocess.run(
            [*self._enter, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self._environment, timeout=within_s or self.within_s, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout
        return done.stdout


def first_process(outside: subprocess.Popen[bytes]) -> int:
    """Process 1 of the namespace that ``outside`` makes."""
    deadline = time.monotonic() + START_S
    children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
    while not (told := children.read_text().split()):
        assert outside.poll() is None, "it ended before there was a process in the namespaces"
        assert time.monotonic() < deadline, "there is no process in the namespaces"
        time.sleep(0.05)
    return int(told[0])
