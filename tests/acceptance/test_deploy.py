"""docs/deploy.md, followed word by word on machines of a network that have nothing but each other.

The machines are network namespaces with firewalls as the page says. What a reader types is taken
from the page; the only difference is that pip finds what we depend on here instead of on the net.
"""

import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator_worker import checkpoint
from tests import documents
from tests.documents import Block, blocks
from tests.machines import Machine, network
from tests.processes import ROOT

PAGE = "docs/deploy.md"
SITES = ("hospital-a", "hospital-b")
HOSTS = {
    "broker": "broker.example",
    "coordinator": "coordinator.example",
    "hospital-a": "a.example",
    "hospital-b": "b.example",
    "watcher": "watcher.example",
}
AMQPS = 5671
DEADLINE_S = 60


def steps(*words: str) -> list[Block]:
    """The page's blocks whose words are these."""
    found = [block for block in blocks(PAGE) if block.words == words]
    assert found, f"{PAGE} has no block for {' '.join(words)}"
    return found


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


@contextmanager
def installed(root: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A checkout on which step 1 was done, and the environment of who did it."""
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
    (step,) = steps("everywhere")
    done = subprocess.run(
        ["bash", "-euc", step.text], cwd=checkout, env=told, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    yield checkout, told


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    """Steps 1 to 3, and the firewalls."""
    root = Path(tempfile.mkdtemp(prefix="warren-tests-"))
    try:
        with installed(root) as (checkout, told), network(root, HOSTS) as machines:
            for machine in machines.values():
                (machine.folder / ".venv").symlink_to(checkout / ".venv")
            machines["broker"].allow_in(port=AMQPS)
            for name in (*SITES, "coordinator", "watcher"):
                machines[name].allow_in(answers_from=AMQPS)
            made = Deployment(machines, told, root)
            try:
                for step in steps("broker"):
                    made.run("broker", step.text)
                hand_over(made)
                yield made
            finally:
                made.close()
                made.run("broker", "broker-config down")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def hand_over(made: Deployment) -> None:
    """Carry each bundle to where the page's table says."""
    rows = re.findall(r"^\| `([\w./-]+)` \| (.+) \|$", documents.text_of(PAGE), re.MULTILINE)
    assert len(rows) == 4
    for path, where in rows:
        (name,) = [
            name
            for name in made.machines
            if name in where or (name == "watcher" and where == "your own machine")
        ]
        shutil.copy(made.machines["broker"].folder / path, made.machines[name].folder)


def at(site_name: str, text: str) -> str:
    """What the page says for hospital-a, as it says it for ``site_name``."""
    if site_name == "hospital-a":
        return text
    return text.replace("hospital-a", site_name).replace("--seed 1", "--seed 2")


def begin(made: Deployment, *, coordinator: Callable[[str], str] = str) -> None:
    """Steps 4 to 6: start everything that the page starts."""
    (watch,) = steps("watcher", "runs-on")
    made.start("watcher", watch.text)
    (start,) = steps("coordinator", "runs-on")
    made.start("coordinator", coordinator(start.text))
    for name in SITES:
        documents.save(steps("site"), made.machines[name].folder)
        (start,) = steps("site", "runs-on")
        made.start(name, at(name, start.text))


@pytest.fixture(scope="module")
def trained(deployment: Deployment) -> Deployment:
    """The page, down to `Watch`."""
    begin(deployment)
    return deployment


def api(made: Deployment, path: str) -> Any:
    """An answer of the management API, asked for on the broker's machine."""
    password = json.loads((made.machines["broker"].folder / ".warren/credentials.json").read_text())
    url = f"https://127.0.0.1:15671/api/{path}"
    asked = f"curl -sS --cacert .warren/tls/ca.pem -u admin:{password['admin']} {url}"
    return json.loads(made.run("broker", asked))


def test_both_sites_and_the_coordinator_come_to_the_final_model(trained: Deployment) -> None:
    ends = {name: trained.end(name) for name in (*SITES, "coordinator", "watcher")}
    for name in SITES:
        assert "version 20 is final" in ends[name]
        assert trained.machines[name].listens() == []
    state = checkpoint.load(trained.machines["coordinator"].folder / "checkpoint")
    assert state is not None
    assert state.version == 20
    kernel = state.weights[0].ravel()
    assert kernel[0] > 0.5 > np.abs(kernel[2:]).max()
    assert kernel[1] < -0.5
    assert "20" in ends["watcher"]
    (_, report) = steps("coordinator")
    told = trained.run("coordinator", report.text)
    for name in SITES:
        assert name in told
