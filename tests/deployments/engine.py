"""A container engine in namespaces of its own: Debian's dockerd and compose, and no registry."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.deployments.namespaces import PATH, Namespaces, first_process
from tests.support.processes import ROOT

HERE: Final = Path(__file__).parent
UNPACKED: Final = ROOT / ".engine"
TREE: Final = "/srv/warren"  # ours, inside
READY_S: Final = 60.0
WITHIN_S: Final = 600.0

_PLAIN: Final = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8")
_RABBITMQ: Final = (
    "PATH=/opt/bin:/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL=C.UTF-8",
    "HOME=/var/lib/rabbitmq",
    "RABBITMQ_LOGS=-",
)
IMAGES: Final = {
    "python": ("python:3.11-slim", _PLAIN),
    "rabbitmq": ("rabbitmq:4.3-management", _RABBITMQ),
}


class Engine(Namespaces):
    """Docker's commands, run where the engine runs; ``pid`` is its process 1."""

    within_s = WITHIN_S

    def __init__(self, pid: int) -> None:
        super().__init__(
            pid, "--mount", "--pid", "--net", PATH=PATH, HOME="/root",
            WARREN_ADMIN_PASSWORD="trial",
        )  # fmt: skip

    def load(self, folder: Path, image: str, environment: tuple[str, ...]) -> None:
        """Make an image of a folder of this machine."""
        changes = [word for line in environment for word in ("--change", f"ENV {line}")]
        packing = ["tar", "-C", str(folder), "--exclude=./dev", "--exclude=./proc", "-c", "."]
        with subprocess.Popen(packing, stdout=subprocess.PIPE) as packed:
            command = [*self._enter, "docker", "import", *changes, "-", image]
            subprocess.run(command, stdin=packed.stdout, check=True, stdout=subprocess.DEVNULL)
        assert packed.returncode == 0

    def state(self, container: str) -> dict[str, int | str]:
        """What the engine says of a container: Status, ExitCode, Pid, …"""
        found: dict[str, int | str] = json.loads(
            self.run("docker", "inspect", "--format", "{{json .State}}", container)
        )
        return found

    def restarts(self, container: str) -> int:
        """How often the engine has started it again by itself."""
        return int(self.run("docker", "inspect", "--format", "{{.RestartCount}}", container))

    def crash(self, container: str) -> None:
        """Kill its process, and wait until the engine has started it again.

        Not by ``docker kill``: who is killed by a command stays away, whatever the restart policy.
        """
        before = self.restarts(container)
        self.run("sh", "-c", f"kill -KILL {self.state(container)['Pid']}")
        deadline = time.monotonic() + WITHIN_S
        while self.restarts(container) == before:
            assert time.monotonic() < deadline, f"{container} is not started again"
            time.sleep(0.2)

    def ended(self, container: str) -> int:
        """Its exit code, once it has ended."""
        deadline = time.monotonic() + WITHIN_S
        while (found := self.state(container))["Status"] != "exited":
            assert time.monotonic() < deadline, f"{container} is {found}"
            time.sleep(0.2)
        return int(found["ExitCode"])


@contextmanager
def engine() -> Iterator[Engine]:
    """Start one that has docker-compose.yml's images; root is needed. It ends with the block."""
    assert os.geteuid() == 0, "these tests start a container engine in namespaces: be root"
    subprocess.run([HERE / "images.sh", UNPACKED], check=True)
    data = Path(tempfile.mkdtemp(prefix="warren-engine-"))
    try:
        # Images are built where this machine's network is, for pip; nothing else runs there.
        with _running(data, own_network=False) as found:
            for name, (image, environment) in IMAGES.items():
                found.load(UNPACKED / name, image, environment)
            for target in ("coordinator", "client"):
                # No TensorFlow: half a gigabyte, and a minute of imports on a machine that is busy.
                words = ("--network=host", "--build-arg=EXTRA=", f"--target={target}")
                found.run("docker", "build", *words, f"--tag=warren-{target}", TREE)
        with _running(data, own_network=True) as found:
            yield found
    finally:
        shutil.rmtree(data, ignore_errors=True)


@contextmanager
def _running(data: Path, *, own_network: bool) -> Iterator[Engine]:
    spaces = ["--mount", "--pid", "--fork", "--kill-child", "--propagation=private"]
    spaces += ["--net"] if own_network else []
    alone = ["--iptables=false", "--ip6tables=false", "--ip-forward=false"]
    rules = [] if own_network else alone  # this machine's network stays as it was
    words = [str(HERE / "engine.sh"), str(UNPACKED / "root"), str(data), str(ROOT), *rules]
    with (data / "engine.log").open("wb") as log:
        outside = subprocess.Popen(["unshare", *spaces, *words], stdout=log, stderr=log)
    first = 0
    try:
        first = first_process(outside)
        found = Engine(first)
        deadline = time.monotonic() + READY_S
        while "Server Version" not in found.run("docker", "info", check=False):
            log_text = (data / "engine.log").read_text()
            assert outside.poll() is None, f"the engine does not start:\n{log_text[-3000:]}"
            assert time.monotonic() < deadline, f"the engine is not up:\n{log_text[-3000:]}"
            time.sleep(0.2)
        yield found
        found.run("sh", "-c", "docker ps --quiet | xargs --no-run-if-empty docker kill")
    finally:
        # dockerd, not unshare, which hands no signal on. It ends what it has started.
        if first and outside.poll() is None:
            subprocess.run(["kill", "-TERM", str(first)], check=False)
            outside.wait(READY_S)
        outside.kill()
        outside.wait()
