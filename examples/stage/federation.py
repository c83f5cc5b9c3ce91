"""A federation of real processes over a private broker, run once for each seed."""

import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from broker_config.declaration.federation import Federation
from broker_config.node import lifecycle
from broker_config.secrets.bundles import bundle_path
from coordinator_worker.monitoring.follower import Watch
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from coordinator_worker.terminal.view import TerminalView
from warren_examples.stage.processes import BIN, Child, ChildFailed
from warren_examples.stage.study import Study
from warren_examples.stage.view import View
from warren_shared.tls import Broker

CLIENTS_READY_S = 120.0
RUN_S = 300.0
EVENTS_S = 5.0
PAUSE_S = 0.1


@dataclass(frozen=True)
class Run:
    """One seed's training: where it ended, and what it cost."""

    state: State
    board: TerminalView
    coordinator_rss_bytes: int
    seconds_to_consuming: float


class Stage:
    """Broker and clients of a study; a context manager that leaves nothing running."""

    def __init__(
        self, study: Study, out: Path, view: View, *, tls: bool = False, secure: bool = False
    ) -> None:
        self._study, self._names, self._out, self._view = study, study.names, out, view
        self._tls, self._secure = tls, secure
        self._home = out / "broker"
        self._clients: list[Child] = []
        self._exit = ExitStack()
        self.keep_broker = False

    def __enter__(self) -> "Stage":
        self._view.say("getting a broker")
        with ExitStack() as unless_complete:
            unless_complete.callback(self._stop_broker)
            clients = tuple(self._names)
            federation = Federation(
                clients=clients, fleets=(), encrypt_updates=self._tls or self._secure,
                keeper=self._keeper_line() if self._secure else "",
            )  # fmt: skip
            self.node = lifecycle.up(self._home, federation, tls="mutual" if self._tls else "")
            watcher = Broker.from_bundle(bundle_path(self._home, "watcher"))
            self.version = lifecycle.status(self._home).version or "unknown"
            unless_complete.enter_context(Watch(watcher, self._view.apply))
            if self._secure:
                keeper = self._child("keeper", "keeper-worker", *self._keeper_folder())
                unless_complete.callback(keeper.stop)
            for number, name in enumerate(self._names):
                task = ("--task", f"{self._study.module}:clinic", *self._study.arguments(number))
                client = self._child(name, "client-worker", *task, "--stay")
                unless_complete.callback(client.stop)
                self._clients.append(client)
            self._exit = unless_complete.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.process.terminate()  # all at once; then each is waited for
        self._exit.close()

    def _keeper_folder(self) -> tuple[str, ...]:
        return ("--state-dir", str(self._out / "keeper"))

    def _keeper_line(self) -> str:
        """The keeper's public keys; in earnest another organisation makes them."""
        keys = [str(BIN / "keeper-worker"), "keys", *self._keeper_folder()]
        return subprocess.run(keys, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def _stop_broker(self) -> None:
        if not self.keep_broker:
            lifecycle.down(self._home)

    def wait_for_clients(self) -> None:
        """Return when every client is connected: TensorFlow takes seconds to load."""
        self._wait(
            lambda: all(client.seconds_until("connected") for client in self._clients),
            CLIENTS_READY_S,
            "the clients did not connect",
        )

    def run(self, seed: int) -> Run:
        """Train once, from version 0, with a coordinator of its own."""
        board = self._view.begin(f"seed {seed}")
        folder = self._out / "checkpoints" / f"seed-{seed}"
        for name in checkpoint.NAMES:
            (folder / name).unlink(missing_ok=True)
        coordinator = self._child(
            f"coordinator-{seed}",
            "coordinator-worker",
            *("--quorum", str(len(self._names)), "--rounds", str(self._study.rounds)),
            *("--checkpoint-dir", str(folder)),
            *("--config", f"seed={seed}", "--config", f"epochs={self._study.epochs}"),
            *("--config", f"learning_rate={self._study.learning_rate}"),
            *(("--secure", f"clip={self._study.clip:g},examples=1000") if self._secure else ()),
        )
        try:

            def ended() -> bool:
                coordinator.measure()
                return coordinator.process.poll() is not None

            self._wait(ended, RUN_S, "the run did not end", coordinator)
        finally:
            coordinator.stop()
        board.finished.wait(EVENTS_S)  # what it posted last may still be on its way to the board
        state = checkpoint.load(folder)
        if state is None:
            raise ChildFailed(f"{coordinator.name} left no checkpoint (log: {coordinator.log})")
        consuming = coordinator.seconds_until("connected", times=2) or 0.0
        return Run(state, board, coordinator.peak_rss_bytes, consuming)

    def _child(self, name: str, command: str, *arguments: str) -> Child:
        user = name.partition("-")[0] if command != "client-worker" else name
        log = self._out / "logs" / f"{name}.log"
        return Child(name, command, bundle_path(self._home, user), log, *arguments)

    def _wait(
        self,
        done: Callable[[], bool],
        deadline_s: float,
        late: str,
        coordinator: Child | None = None,
    ) -> None:
        deadline = time.monotonic() + deadline_s
        while not done():
            for client in self._clients:
                client.check()
            if time.monotonic() > deadline:
                raise ChildFailed(f"{late} within {deadline_s:.0f} s: see {self._out / 'logs'}")
            time.sleep(PAUSE_S)
        if coordinator is not None:
            coordinator.check(may_end=True)
