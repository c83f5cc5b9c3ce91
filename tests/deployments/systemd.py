"""A machine whose process 1 is systemd, made of namespaces; what it writes is gone with it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.deployments.namespaces import PATH, Namespaces, first_process
from tests.support.processes import ROOT

BOOT: Final = Path(__file__).with_name("boot.sh")
READY_S: Final = 30.0
CGROUPS: Final = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))

_PROGRAM: Final = """\
#!/opt/warren/.venv/bin/python
import sys
from {module} import main
raise SystemExit(main())
"""
_PROGRAMS: Final = {
    "coordinator-worker": "coordinator_worker.cli",
    "client-worker": "client_worker.cli",
    "broker-config": "broker_config.cli",
}


class SystemdMachine(Namespaces):
    """Commands run inside; Warren is installed in ``/opt/warren/.venv``, our tree is there too."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid, "--all", PATH=f"/opt/warren/.venv/bin:{PATH}", HOME="/run")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Have a file inside."""
        command = ["install", "-D", "-m", f"{mode:o}", "/dev/stdin", path]
        subprocess.run([*self._enter, *command], input=text, text=True, check=True)

    def journal(self, unit: str) -> str:
        """What the journal has of a unit."""
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit)

    def shows(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        told = self.run("systemctl", "show", unit, f"--property={','.join(properties)}")
        return dict(line.split("=", 1) for line in told.splitlines())

    def wait_for(self, unit: str, words: str, within_s: float = 90.0) -> str:
        """The unit's journal once it has ``words``."""
        deadline = time.monotonic() + within_s
        while words not in (said := self.journal(unit)):
            assert time.monotonic() < deadline, f"{unit} did not say {words!r}:\n{said}"
            time.sleep(0.2)
        return said


@contextmanager
def systemd_machine() -> Iterator[SystemdMachine]:
    """Boot one; root is needed. It ends with the block."""
    assert os.geteuid() == 0, "these tests boot systemd in namespaces: be root"
    scratch = Path(tempfile.mkdtemp(prefix="warren-systemd-"))
    hierarchy = next(folder for folder in CGROUPS if (folder / "cgroup.procs").exists())
    group = hierarchy / scratch.name
    group.mkdir()
    spaces = "--cgroup --mount --pid --uts --ipc --net --fork --kill-child --propagation private"
    boot = f'echo $$ > {group}/cgroup.procs; exec unshare {spaces} "$0" "$@"'
    words = [str(BOOT), str(scratch), str(ROOT), sys.base_prefix]
    outside = subprocess.Popen(["sh", "-c", boot, *words])
    try:
        machine = _booted(outside)
        _install(machine)
        yield machine
    finally:
        outside.kill()
        outside.wait()
        shutil.rmtree(scratch, ignore_errors=True)
        _remove(group)


def _booted(outside: subprocess.Popen[bytes]) -> SystemdMachine:
    first = first_process(outside)
    machine = SystemdMachine(first)
    deadline = time.monotonic() + READY_S
    state = ""
    while time.monotonic() < deadline:
        assert outside.poll() is None, "it did not boot"
        if Path(f"/proc/{first}/comm").read_text().strip() == "systemd":
            state = machine.run("systemctl", "is-system-running", check=False).strip()
            if state in ("running", "degraded"):
                return machine
        time.sleep(0.1)
    raise AssertionError(f"systemd is not up after {READY_S:.0f} s: {state}")


def _install(machine: SystemdMachine) -> None:
    """An environment that a service's user can reach, wherever ours is."""
    name = Path(sys.executable).resolve().name
    packages = f"lib/{Path(sysconfig.get_path('stdlib')).name}/site-packages"
    home = "/opt/warren/.venv"
    machine.write(f"{home}/pyvenv.cfg", "home = /opt/python/bin\n")
    machine.run("ln", "-s", f"/opt/python/bin/{name}", f"{home}/bin/python")
    for program, module in _PROGRAMS.items():
        machine.write(f"{home}/bin/{program}", _PROGRAM.format(module=module), 0o755)
    theirs = Path(sysconfig.get_path("purelib")).relative_to(ROOT)
    machine.write(f"{home}/{packages}/warren.pth", f"/srv/warren\n/srv/warren/{theirs}\n")
    for folder in ("shared", "examples"):
        machine.run("ln", "-s", f"/srv/warren/{folder}", f"{home}/{packages}/warren_{folder}")


def _remove(group: Path) -> None:
    """End what is left of the machine, and take its groups away."""
    (group / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + READY_S
    while group.exists() and time.monotonic() < deadline:
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):  # until its processes are gone
                Path(folder).rmdir()
