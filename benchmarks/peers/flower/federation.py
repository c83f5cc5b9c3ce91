"""Flower's processes, started as a user starts them, but with nothing that leaves this machine."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.flower.setting import ROOT, Setting

BIN: Final = Path(sys.executable).parent
HOST: Final = "127.0.0.1"
TICK_S: Final = 0.05
QUIET: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",  # as our own workers have it
}


class FlowerEnded(RuntimeError):
    """One of Flower's processes ended before the server had told its figures."""


@dataclass
class Federation:
    """The processes of one federation; their files and logs are in ``folder``."""

    folder: Path
    setting: Setting
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, *program: str | Path) -> None:
        """Start a program of Flower's or, if it begins with ``-m``, a module of ours."""
        command = [sys.executable, *program] if program[0] == "-m" else program
        inherited = {
            **os.environ,
            **QUIET,
            **self.setting.environment(),
            "FLWR_HOME": str(self.folder / "home"),
            "PATH": f"{BIN}:{os.environ['PATH']}",  # Flower finds its other programs there
            "PYTHONPATH": str(ROOT),
        }
        with self._log(name).open("wb") as log:
            self.processes[name] = subprocess.Popen(
                list(map(str, command)),
                cwd=self.folder,
                env=inherited,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def check(self, *names: str) -> None:
        """Raise FlowerEnded if one of these processes has ended, all of them if none is named."""
        for name in names or self.processes:
            if self.processes[name].poll() is not None:
                raise FlowerEnded(f"{name} ended early: {self._said(name)}")

    def listening(self, port: int, *names: str) -> None:
        """Return when something listens on ``port``; these processes must live until then."""
        while True:
            with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                return
            self.check(*names)
            time.sleep(TICK_S)

    def told(self, *names: str) -> dict[str, Any]:
        """The server's figures, as soon as it tells them; these processes must live until then."""
        file = Path(self.setting.told)
        while not file.exists():
            try:
                self.check(*names)
            except FlowerEnded:
                if not file.exists():  # or else it told them and then ended
                    raise
            time.sleep(TICK_S)
        figures: dict[str, Any] = json.loads(file.read_text())
        return figures

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _said(self, name: str) -> str:
        return self._log(name).read_text(errors="replace").strip()[-2000:]


def free_ports(count: int) -> list[int]:
    """``count`` different ports that were free a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
