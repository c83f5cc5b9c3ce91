"""The workers under test: started again whenever they end, as a supervisor would."""

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.processes import BIN, ROOT

EXPECTED = {0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM}
TEND_S = 0.02


@dataclass(frozen=True)
class Post:
    """What one worker runs as; ``arguments`` may change between two starts."""

    name: str
    command: str
    arguments: list[str]
    environment: Mapping[str, str]


@dataclass
class Crew:
    """All workers. What they say goes into a file for each, which no kill can take back."""

    folder: Path
    inside: Sequence[str] = ()  # what each worker is started with, such as nsenter
    ends: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    version: int = 0  # newest that a coordinator has published
    last_news: float = 0.0  # when that was said last, by the monotonic clock

    def __post_init__(self) -> None:
        self._posts: dict[str, Post] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._copies: list[threading.Thread] = []  # of all lives
        self._copying: dict[str, threading.Thread] = {}  # of those of now
        self._lock = threading.Lock()
        self._over = threading.Event()
        threading.Thread(target=self._tend, daemon=True).start()

    def add(self, post: Post) -> None:
        """Start a worker, and again whenever it ends."""
        with self._lock:
            self._posts[post.name] = post
            self._start(post)

    def remove(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a worker for good."""
        with self._lock:
            del self._posts[name]
            process = self._processes.pop(name)
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(30.0)
        except subprocess.TimeoutExpired:
            self.unexpected.append(f"{name} did not end within 30 s of {number.name}")
            process.kill()
            process.wait()

    def close(self) -> None:
        """End all."""
        for name in list(self._posts):
            self.remove(name, signal.SIGKILL)
        self._over.set()
        for copy in self._copies:
            copy.join()

    def names(self, kind: str) -> list[str]:
        """Workers whose names begin with ``kind``."""
        return [name for name in self._posts if name.startswith(kind)]

    def pid(self, name: str) -> int:
        """The process that a worker is just now."""
        return self._processes[name].pid

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal, to whichever process the worker is just now."""
        with self._lock:
            self._processes[name].send_signal(number)

    def records(self, name: str) -> Iterator[dict[str, Any]]:
        """All that a worker logged, in all its lives."""
        if not self._log(name).exists():
            return  # it was never started
        with self._log(name).open() as file:
            for line in file:
                if line.startswith("{") and line.endswith("}\n"):
                    yield json.loads(line)

    def tracebacks(self) -> list[str]:
        """Workers in whose logs there is a traceback."""
        logs = sorted(self.folder.glob("*.log"))
        return [path.stem for path in logs if "Traceback" in path.read_text(errors="replace")]

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _start(self, post: Post) -> None:
        program = os.environ.get(f"TEST_{post.command.upper().replace('-', '_')}")
        process = subprocess.Popen(
            [
                *self.inside, program or str(BIN / post.command),
                "--log-format", "json", *post.arguments,
            ],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **post.environment},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self._processes[post.name] = process
        copy = threading.Thread(target=self._copy, args=(process, self._log(post.name)))
        copy.start()
        self._copies.append(copy)
        self._copying[post.name] = copy

    def _copy(self, process: subprocess.Popen[bytes], log: Path) -> None:
        assert process.stderr is not None
        with process.stderr, log.open("ab") as file:
            for line in process.stderr:
                file.write(line)
                file.flush()
                if b'"model_published"' in line:
                    self.version = max(self.version, json.loads(line)["version"])
                    self.last_news = time.monotonic()

    def _tend(self) -> None:
        while not self._over.wait(TEND_S):
            with self._lock:
                for name, post in self._posts.items():
                    code = self._processes[name].poll()
                    if code is not None:
                        self.ends[f"{name}: {code}"] += 1
                        if code not in EXPECTED and not self._had_no_mailbox(name):
                            self.unexpected.append(f"{name} ended with {code}")
                        self._start(post)

    def _had_no_mailbox(self, name: str) -> bool:
        """Whether ``name`` was refused since it began just when the mailbox was deleted."""
        self._copying[name].join()  # its process has ended
        told = self._log(name).read_bytes().splitlines()
        return bool(told) and f"NOT_FOUND - no queue 'model.{name}'".encode() in told[-1]
