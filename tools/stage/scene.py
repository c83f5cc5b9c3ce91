"""A federation of real processes that has everything worth a picture."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from broker_config.declaration.federation import Federation, Fleet
from broker_config.node import lifecycle
from broker_config.node.record import Node
from broker_config.secrets.bundles import bundle_path
from coordinator_worker.monitoring.federation_view import FederationView
from coordinator_worker.monitoring.follower import fetch_snapshot
from warren_shared.tls import Broker

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NAME = "clinics"
QUICK = ("hospital-a", "hospital-b", "hospital-c", "hospital-d", "hospital-e")
SLOW, AWAY, BROKEN, NEVER = "hospital-f", "hospital-g", "hospital-h", "hospital-i"
FLEET = Fleet("phone", 4)
QUORUM = 6
DEADLINE_S = 120.0
PAUSE_S = 0.25


@dataclass
class Scene:
    """The processes, and the broker's node."""

    home: Path
    node: Node
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def watcher(self) -> Broker:
        """Where the watcher logs in."""
        return Broker.from_bundle(self.bundle("watcher"))

    def bundle(self, user: str) -> Path:
        """The bundle of ``user``."""
        return bundle_path(self.home, user)

    def start(self, name: str, command: str, *words: str, user: str = "") -> None:
        """Start a worker; what it says goes to a file in the home folder."""
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with (self.home / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [BIN / command, "--env-file", self.bundle(user or name), *words],
                env=environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def client(self, name: str, shard: int | None, user: str = "", **arguments: object) -> None:
        """Start a client; a replica's shard is its slot in the fleet."""
        given = arguments if shard is None else {"shard": shard, **arguments}
        words = [w for key, value in given.items() for w in (f"--{key}", str(value))]
        self.start(name, "client-worker", "--task", "tools.stage.task:site", *words, user=user)

    def end(self, name: str) -> None:
        """End a worker as its machine's power cut would."""
        self.processes[name].kill()
        self.processes[name].wait()

    def view(self) -> FederationView:
        """How the federation is now."""
        return fetch_snapshot(self.watcher, "screenshots") or FederationView()

    def until(self, wanted: Callable[[FederationView], bool]) -> FederationView:
        """Wait until the federation is as ``wanted``."""
        deadline = time.monotonic() + DEADLINE_S
        while not wanted(found := self.view()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"it does not come to that: see the logs in {self.home}")
            time.sleep(PAUSE_S)
        return found


@contextmanager
def scene(home: Path, rounds: int | None = None) -> Iterator[Scene]:
    """The federation, with all its clients; gone afterwards."""
    sites = (*QUICK, SLOW, AWAY, BROKEN, NEVER)
    federation = Federation(NAME, clients=sites, fleets=(FLEET,), model_bytes=1 << 20)
    with ExitStack() as stack:
        made = Scene(home, lifecycle.up(home, federation))
        stack.callback(lifecycle.down, home)
        stack.callback(_stop, made)
        for shard, name in enumerate(QUICK):
            made.client(name, shard, examples=300 + 150 * shard, seconds=0.8 + 0.15 * shard)
        made.client(SLOW, 5, examples=1500, seconds=2.8)
        made.client(AWAY, 6, examples=500, seconds=0.9)
        for number in range(FLEET.size - 1):
            made.client(f"phone-{number}", None, user=FLEET.name, seconds=1.8, examples=80)
        words = ["--quorum", str(QUORUM), "--max-staleness", "2", "--monitor", "eval_accuracy:max"]
        words += ["--max-update-norm", "3"]
        if rounds is not None:
            words += ["--rounds", str(rounds)]
        made.start("coordinator", "coordinator-worker", *words, "--checkpoint-dir", str(home / "c"))
        yield made


def _stop(made: Scene) -> None:
    for process in made.processes.values():
        process.terminate()
    for process in made.processes.values():
        process.wait()
