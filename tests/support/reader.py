"""A reader of docs/deploy.md: machines with firewalls, terminals on them, and what runs there."""

import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.machines import Machine
from tests.support.pace import DEADLINE_S
from tests.support.processes import ROOT


@dataclass
class Deployment:
    """What a reader has done so far: machines, and what runs on them."""

    machines: dict[str, Machine]
    environment: dict[str, str]
    logs: Path
    running: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)

    def run(self, machine: str, text: str) -> str:
        """Type ``text`` in a terminal of ``machine``; return what that printed."""
        done = self.machines[machine].run(
            "bash", "-euc", self._terminal(text), env=self.environment
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def fail(self, machine: str, text: str) -> str:
        """The same, of what cannot be done."""
        done = self.machines[machine].run(
            "bash", "-euc", self._terminal(text), env=self.environment
        )
        assert done.returncode != 0, done.stdout
        return done.stdout

    def bundle_to(self, machine: str, user: str) -> None:
        """Hand over the bundle of ``user``, as the broker's machine has it now."""
        source = self.machines["broker"].folder / f".warren/bundles/{user}.env"
        shutil.copy(source, self.machines[machine].folder)

    def kill_broker(self) -> None:
        """Have the broker's machine lose its power."""
        node = json.loads((self.machines["broker"].folder / ".warren/node.json").read_text())
        for pid in (node["pid"], node["epmd_pid"]):
            os.kill(pid, signal.SIGKILL)

    def version(self) -> int:
        """The newest version that the coordinator says to be published."""
        said = self.said("coordinator", "is published")
        return int(re.findall(r"version (\d+) is published", said)[-1])

    def goes_on(self) -> None:
        """See two more versions come."""
        before = self.version()
        wait_for(lambda: self.version() > before + 1, self._last_words)

    def _last_words(self) -> str:
        ends = [Path(name).read_text()[-800:] for name in self.running]
        return "the rounds do not go on:\n" + "\n---\n".join(ends)

    def start(self, machine: str, text: str) -> None:
        """Type ``text`` and leave it running there."""
        log = self.logs / f"{machine}-{len(self.running)}.log"
        words = ("bash", "-euc", self._terminal(f"exec {text}"))
        self.running[str(log)] = self.machines[machine].start(*words, log=log, env=self.environment)

    def end(self, machine: str) -> str:
        """Wait for the end of what was started last on ``machine``; return what it printed."""
        log, process = self._last(machine)
        try:
            code = process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{machine} does not end:\n{log.read_text()}")
        assert code == 0, log.read_text()
        return log.read_text()

    def said(self, machine: str, words: str) -> str:
        """What it printed, as soon as ``words`` (a pattern) are among that."""
        log, process = self._last(machine)
        wait_for(
            lambda: re.search(words, log.read_text()) or process.poll() is not None,
            lambda: f"{machine} does not say {words}:\n{log.read_text()}",
        )
        assert re.search(words, log.read_text()), log.read_text()
        return log.read_text()

    def at_rest(self, machine: str) -> str:
        """What it printed, as soon as it has printed nothing for a second."""
        log, _ = self._last(machine)
        wait_for(
            lambda: time.time() - log.stat().st_mtime > 1,
            lambda: f"{machine} does not come to rest",
        )
        return log.read_text()

    def stop(self, machine: str) -> None:
        """Stop what was started last on ``machine``, as Ctrl-C does."""
        _, process = self._last(machine)
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_S)

    def close(self) -> None:
        """Stop all that still runs."""
        for process in self.running.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def _last(self, machine: str) -> tuple[Path, "subprocess.Popen[str]"]:
        name = [name for name in self.running if Path(name).name.startswith(f"{machine}-")][-1]
        return Path(name), self.running[name]

    @staticmethod
    def _terminal(text: str) -> str:
        return f". .venv/bin/activate\n{text}"


def wait_for(happened: Callable[[], Any], told: Callable[[], str]) -> None:
    """Wait until something has happened; fails with what is ``told`` if it does not."""
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        if time.monotonic() > deadline:
            pytest.fail(told())
        time.sleep(0.1)


def install(step: str, root: Path) -> tuple[Path, dict[str, str]]:
    """Follow ``step`` in a copy of this repository in ``root``; that, and the reader's environment.

    pip finds here what we depend on, and not on the net; it builds and installs as it always does.
    """
    checkout = root / "checkout"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).split("\0"):
        if name and (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    dependencies = root / "dependencies"
    dependencies.mkdir()
    for folder in site.getsitepackages():
        for path in Path(folder).iterdir():
            if not path.name.lower().startswith(("warren", "__")):
                (dependencies / path.name).symlink_to(path)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
    told = kept | {
        "PATH": f"{sys.base_prefix}/bin:{kept['PATH']}",
        "HOME": str(root),
        "PYTHONPATH": str(dependencies),
        "PYTHONUNBUFFERED": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # which means: none
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    done = subprocess.run(
        ["bash", "-euc", step], cwd=checkout, env=told, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return checkout, told
