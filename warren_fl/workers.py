"""Workers of a federation: processes of their own, or clients on threads of this one."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Protocol

from client_worker.runtime.worker import ClientWorker
from client_worker.settings import ClientSettings
from client_worker.tasks.task import TaskSource
from warren_fl.brokers import Broker
from warren_fl.settings import Site, task_words
from warren_shared.config.settings import made
from warren_shared.config.settings_model import in_bundle
from warren_shared.errors import WarrenError
from warren_shared.naming import user_of
from warren_shared.service.watchdog import Supervisor

STOP_S: Final = 4.0  # for what is under way; then a process is killed
KILL_S: Final = 5.0
THREAD_S: Final = 20.0  # a thread cannot be killed: its training has to end


class Client(Protocol):
    """A client of ours."""

    name: str

    def begin(self, broker: Broker) -> None:
        """Take part, since the broker is there."""
        ...

    def failure(self) -> str | None:
        """Why it has ended; None while it works."""
        ...

    def ask_to_stop(self) -> None:
        """Ask it to end, without waiting for that."""
        ...

    def stop(self) -> None:
        """Return when it has ended."""
        ...


class Process:
    """A worker in a process of its own, whose log is a file."""

    def __init__(self, program: str, log: Path, modules: Sequence[str], threads: int) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "warren_fl.child", program, *modules],
                env=environment(threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if program == "coordinator-worker" else subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,  # Ctrl-C is ours to pass on, once
            )

    @property
    def events(self) -> IO[bytes]:
        """What it says of events."""
        if self._process.stdout is None:
            raise RuntimeError("only a coordinator says something")
        return self._process.stdout

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def begin(self, words: Sequence[str]) -> None:
        """Give it its command line."""
        with suppress(BrokenPipeError):  # it has ended; its log says why
            _stdin(self._process).write(json.dumps(list(words)).encode() + b"\n")
            _stdin(self._process).flush()

    def exit_code(self, within_s: float | None = None) -> int | None:
        """How it ended, if it does so ``within_s``; None while it runs."""
        if within_s is None:
            return self._process.poll()
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None

    def last_words(self) -> str:
        """Why it ended: the last line of its log."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        code = self._process.poll() or 0
        if code < 0:
            ended = f"it was ended by {signal.Signals(-code).name}"
            return f"{ended}, having said: {lines[-1].strip()}" if lines else ended
        if not lines:
            return f"it ended with exit code {code}"
        program, colon, words = lines[-1].partition("-worker: ")
        return words if colon and " " not in program else lines[-1].strip()

    def ask_to_stop(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def discard(self) -> None:
        """End one that was never begun."""
        self.stop(0)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def stop(self, within_s: float = STOP_S) -> None:
        """End it, at last by force."""
        try:
            self.ask_to_stop()
            if self.exit_code(within_s) is None:
                self._process.kill()
                self._process.wait(KILL_S)
        finally:
            if self._process.poll() is None:
                self._process.kill()
            if self._process.stdin is not None:  # whoever reads its events closes the other one
                _close(self._process.stdin)


class ProcessClient:
    """A client in a process of its own: it imports its task while the broker starts."""

    def __init__(self, site: Site, logs: Path, threads: int) -> None:
        self.name, self._site = site.name, site
        self._task = str(site.task)  # `settings.in_processes` has refused all else
        module = self._task.partition(":")[0]
        log = logs / f"{site.name}.log"
        self._process = Process("client-worker", log, [module] if module else [], threads)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def begin(self, broker: Broker) -> None:
        """Connect."""
        user = user_of(self.name)
        place = [f"--fleet={user}"] if self._site.place is not None else []
        self._process.begin(
            [
                *broker.login(user), *place, f"--client={self.name}", f"--task={self._task}",
                "--stay", *task_words(self._site.arguments),
            ]
        )  # fmt: skip

    def failure(self) -> str | None:
        """The last line of its log, once it has ended."""
        return None if self._process.exit_code() is None else self._process.last_words()

    def ask_to_stop(self) -> None:
        """Ask it to end."""
        self._process.ask_to_stop()

    def stop(self) -> None:
        """End it."""
        self._process.stop()


class ThreadClient:
    """A client on a thread of this process: its task may be any callable, and be debugged."""

    def __init__(self, site: Site) -> None:
        self.name, self._site = site.name, site
        self._failure: str | None = None
        self._worker: ClientWorker | None = None
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def begin(self, broker: Broker) -> None:
        """Connect."""
        user = user_of(self.name)
        fleet = {"fleet": user} if self._site.place is not None else {}
        task = self._site.task
        named = task if isinstance(task, str) else "here:task"
        given = in_bundle(ClientSettings, broker.bundle(user)) | fleet
        told = {"client": self.name, "task": named, "stay": True, "metrics_port": 0}
        settings = made(ClientSettings, given | told)
        self._thread = threading.Thread(
            target=self._run, args=(settings,), name=self.name, daemon=True
        )
        self._thread.start()

    def source(self) -> TaskSource:
        """The task and what it is made with."""
        task, arguments = self._site.task, self._site.arguments
        if isinstance(task, str):
            return TaskSource(task, task_words(arguments))
        return TaskSource.of(task, arguments)

    def _run(self, settings: ClientSettings) -> None:
        try:
            supervisor = Supervisor(None, may_speak=False)
            worker = ClientWorker(settings, self.source(), supervisor=supervisor)
            self._worker = worker
            if self._is_stopping:
                worker.stop()
            worker.run(heed_signals=False)
            self._failure = "it has ended"
        except WarrenError as error:
            self._failure = str(error)
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
            if not self._is_stopping:
                raise  # a bug: threading prints the traceback

    def failure(self) -> str | None:
        """What it raised."""
        return self._failure

    def ask_to_stop(self) -> None:
        """Ask it to end after the training that is under way."""
        self._is_stopping = True
        if self._worker is not None:
            self._worker.stop()

    def stop(self) -> None:
        """Wait for its end, though not for a training that does not end."""
        if self._thread is not None:
            self._thread.join(THREAD_S)


def begin_all(clients: Sequence[Client], broker: Broker) -> None:
    """Have all take part."""
    for client in clients:
        client.begin(broker)


def stop_all(clients: Sequence[Client]) -> None:
    """End all of them, at the same time."""
    for client in clients:
        client.ask_to_stop()
    for client in clients:
        client.stop()


def threads_each(processes: int) -> int:
    """How many threads of arithmetic each process gets."""
    return max(1, (os.cpu_count() or 1) // max(1, processes))


def environment(threads: int) -> Mapping[str, str]:
    """Ours, without settings that are meant for other workers; and arithmetic on few threads.

    Several TensorFlows that each take all cores only get in each other's way.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
    few = {
        name: str(threads)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    }
    few |= {"TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    path = os.pathsep.join(each for each in sys.path if each)
    return {**few, **kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdin is None:
        raise RuntimeError("it was started with a pipe")
    return process.stdin


def _close(stream: IO[bytes]) -> None:
    with suppress(BrokenPipeError):
        stream.close()
