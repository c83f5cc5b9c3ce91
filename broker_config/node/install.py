"""Find ``rabbitmq-server``, or have the system's package manager install it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from warren_shared.errors import BrokerConfigError
from warren_shared.observability.progress import spinner

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE: Final = "rabbitmq-server"
UNITS: Final = ("rabbitmq-server.service", "epmd.service", "epmd.socket")
_BOOTED: Final = Path("/run/systemd/system")  # where systemd is process 1, see sd_booted(3)
POLICY: Final = Path("/usr/sbin/policy-rc.d")
# Debian keeps servers in folders that an ordinary user's PATH does not name.
SERVER_FOLDERS: Final = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/rabbitmq/bin")
WHAT_ELSE: Final = (
    "install your system's rabbitmq-server package, or run `docker compose up`, "
    "or give a broker of your own in WARREN_MANAGEMENT_URL to `broker-config apply`"
)


def find_server(server: str | Path | None = None) -> Path | None:
    """The start script of RabbitMQ: ``server``, $RABBITMQ_SERVER, or the one on the PATH.

    Raises:
        BrokerConfigError: a script was named and is not there.
    """
    named = server or os.environ.get("RABBITMQ_SERVER")
    if named:
        found = shutil.which(str(Path(named).expanduser()))
        if found is None:
            raise BrokerConfigError(f"{named} is not an executable rabbitmq-server script")
        return _behind_wrapper(Path(found))
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SERVER_FOLDERS))
    found = shutil.which(PACKAGE, path=path)
    return _behind_wrapper(Path(found)) if found else None


def ensure_server(log: Path, server: str | Path | None = None) -> Path:
    """Like `find_server`, but installs Debian's package where we may; apt's output goes to ``log``.

    Raises:
        BrokerConfigError: no RabbitMQ, and none could be installed; says what to do instead.
    """
    found = find_server(server)
    if found is None:
        as_root = _as_root()
        if shutil.which("apt-get") is None or as_root is None:
            raise BrokerConfigError(
                f"RabbitMQ is missing and cannot be installed here: {WHAT_ELSE}"
            )
        _install(as_root, log)
        found = find_server()
    if found is None:
        raise BrokerConfigError(f"apt left no rabbitmq-server behind, see {log}; else {WHAT_ELSE}")
    return found


def _behind_wrapper(script: Path) -> Path:
    """The script that starts RabbitMQ as the caller.

    Debian's and Red Hat's command in sbin is a wrapper that refuses every user but root, and turns
    root into ``rabbitmq``, who may not write to a private node's folder.
    """
    resolved = script.resolve()
    real = resolved
    if resolved.name == "rabbitmq-script-wrapper":
        real = resolved.with_name(PACKAGE).resolve()
    elif str(resolved.parent) in SERVER_FOLDERS:
        real = Path(SERVER_FOLDERS[-1], PACKAGE).resolve()
    return real if real.exists() else resolved


def _as_root() -> list[str] | None:
    """What to put before a command to run it as root; None if we may not."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if (
        sudo
        and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        return [sudo, "-n"]
    return None


def _install(as_root: list[str], log: Path) -> None:
    print(f"RabbitMQ is missing: installing the {PACKAGE} package ...", file=sys.stderr)  # noqa: T201
    log.parent.mkdir(parents=True, exist_ok=True)
    apt = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y"]
    install = [*apt, "install", "--no-install-recommends", PACKAGE]
    with log.open("wb") as output, _no_public_broker(as_root), spinner("apt is at work"):
        # Lists that were never fetched, or are so old that the file they name is gone.
        done = _run(install, output) or (_run([*apt, "update"], output) and _run(install, output))
        if done:
            keep_from_booting(as_root, output)
    if not done:
        raise BrokerConfigError(f"apt could not install {PACKAGE}, see {log}; else {WHAT_ELSE}")


def keep_from_booting(as_root: list[str], output: IO[bytes]) -> None:
    """Take the units that came with the package out of the next boot.

    Debian enables them: after a reboot a second broker and Erlang's port mapper would listen on
    every address. A RabbitMQ that was installed before us stays as it was.
    """
    if shutil.which("systemctl") is not None:
        for unit in UNITS:  # one by one: not every release has each
            _run([*as_root, "systemctl", "disable", unit], output)


def starts_at_boot() -> bool:
    """Whether Debian's broker, which does not run now, would come with the next boot.

    One that runs is somebody's. So is one that we did not install, but perhaps no one knows of it.
    """
    systemctl = shutil.which("systemctl")
    if systemctl is None or not _BOOTED.is_dir():
        return False

    def says(question: str) -> bool:
        words = [systemctl, "--quiet", question, UNITS[0]]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    return says("is-enabled") and not says("is-active")


def _run(command: list[str], output: IO[bytes]) -> bool:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
    )
    return done.returncode == 0


@contextmanager
def _no_public_broker(as_root: list[str]) -> Iterator[None]:
    """Keep Debian from starting the new package as a second broker that listens to the world."""
    if POLICY.exists():
        yield
        return
    with tempfile.NamedTemporaryFile("w", suffix="-policy-rc.d") as policy:
        policy.write("#!/bin/sh\nexit 101\n")
        policy.flush()
        subprocess.run([*as_root, "install", "-m", "755", policy.name, str(POLICY)], check=True)
    try:
        yield
    finally:
        subprocess.run([*as_root, "rm", "-f", str(POLICY)], check=True)
