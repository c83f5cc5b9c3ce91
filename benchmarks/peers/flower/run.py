"""Run a federation of Flower and print its figures as one line of JSON; Flower's Python runs this.

``python -m benchmarks.peers.flower.run MODE CLIENTS SIZE_BYTES ROUNDS TIMEOUT_S``
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers.flower import descendants
from benchmarks.peers.flower.federation import Federation, FlowerEnded
from benchmarks.peers.flower.modes import MODES
from benchmarks.peers.flower.setting import Setting


def main(mode: str, clients: int, size_bytes: int, rounds: int) -> None:
    """Measure; every process has ended when this returns or raises."""
    # A socket of Ray's lies deep in this folder, and its path may have 107 characters.
    with TemporaryDirectory(prefix="fl-", ignore_cleanup_errors=True) as name:
        told = str(Path(name) / "told.json")
        setting = Setting(clients, size_bytes, rounds, told, started_s=time.monotonic())
        try:
            figures = MODES[mode](Federation(Path(name), setting))
        finally:
            descendants.end()
    about = {"mode": mode, "version": version("flwr"), "clients": clients, "bytes": size_bytes}
    print(json.dumps({**about, **figures}))  # noqa: T201


if __name__ == "__main__":
    descendants.adopt(timeout_s=float(sys.argv[5]))
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    except FlowerEnded as error:
        sys.exit(str(error))
