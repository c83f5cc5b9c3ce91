"""Workers as the processes they are in real life, told apart by what they log."""

import base64
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.support.pace import DEADLINE_S

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# Models are signed, as they are with every bundle.
SIGNING = Ed25519PrivateKey.generate()
DECRYPT = X25519PrivateKey.generate()


def key_text(raw: bytes) -> str:
    """A key as it stands in a bundle."""
    return base64.urlsafe_b64encode(raw).decode()


KEYS = {
    "coordinator-worker": {
        "WARREN_SIGNING_KEYS": key_text(SIGNING.private_bytes_raw()),
        "WARREN_DECRYPT_KEYS": key_text(DECRYPT.private_bytes_raw()),
    },
    "client-worker": {"WARREN_VERIFY_KEYS": key_text(SIGNING.public_key().public_bytes_raw())},
}
ENCRYPT = {"WARREN_ENCRYPT_KEY": key_text(DECRYPT.public_key().public_bytes_raw())}
KEYS["keeper-worker"] = KEYS["client-worker"] | ENCRYPT


def environment_of(tree: Path) -> dict[str, str]:
    """Of a process that shall run the code in ``tree``, and hear nothing of our own settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WARREN_")}
    return kept if tree == ROOT else kept | {"PYTHONPATH": str(tree)}


class Worker:
    """A running worker; ``wait_for`` reads its JSON log until an action occurs.

    ``tree`` has the code that it runs, and the tasks; ``extra`` are environment variables.
    """

    def __init__(
        self, command: str, broker_url: str, *arguments: str, tree: Path = ROOT, **extra: str
    ) -> None:
        environment = environment_of(tree)
        environment |= {"WARREN_BROKER_URL": broker_url, "PYTHONUNBUFFERED": "1"}
        environment |= KEYS.get(command, KEYS["coordinator-worker"]) | extra
        program = str(BIN / command)
        if tree == ROOT:  # an earlier commit finds what it needs in the tests' environment alone
            program = os.environ.get(f"TEST_{command.upper().replace('-', '_')}", program)
        self.process = subprocess.Popen(
            [program, "--log-format", "json", *arguments],
            env=environment,
            cwd=tree,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.lines: list[str] = []
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._queue.put(line)
        self.process.stderr.close()
        self._queue.put(None)

    def wait_for(
        self, action: str, *, within_s: float = DEADLINE_S, **fields: object
    ) -> Mapping[str, Any]:
        """The next log record with ``action`` and ``fields``; fails at the process's end."""
        for record in self.records(action, within_s):
            if record["action"] == action and fields.items() <= record.items():
                return record
        raise AssertionError(action)

    def records(self, wanted: str, within_s: float = DEADLINE_S) -> Iterator[Mapping[str, Any]]:
        """Log records as they come; fails if ``wanted`` is waited for longer than ``within_s``."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                line = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {wanted} came:\n{''.join(self.lines)}") from None
            assert line is not None, f"ended before {wanted}:\n{''.join(self.lines)}"
            self.lines.append(line)
            if line.startswith("{"):
                yield json.loads(line)

    def end(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for the process to end by itself; return its exit code."""
        code = self.process.wait(deadline_s)
        self._reader.join()
        while (line := self._queue.get()) is not None:
            self.lines.append(line)
        return code

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.end()

    @property
    def said(self) -> str:
        """Everything on standard error so far."""
        return "".join(self.lines)


@contextmanager
def workers() -> Iterator[list[Worker]]:
    """A list of workers, all of which are gone afterwards."""
    started: list[Worker] = []
    try:
        yield started
    finally:
        for worker in started:
            if worker.process.poll() is None:
                worker.kill()
