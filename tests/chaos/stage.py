"""The federation under test: a private node, eight clients, two coordinators, wires between."""

import os
import random
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from broker_config.broker.management_api import Management
from broker_config.declaration.federation import Federation
from broker_config.node import lifecycle as private_node
from tests.chaos.crew import Crew, Post
from tests.support.pace import allow
from tests.support.relay import Relay
from warren_shared.errors import BrokerConfigError
from warren_shared.tensors.compression import BLOCK

if TYPE_CHECKING:
    from broker_config.node.record import Node

CLIENTS: Final = tuple(f"client-{number}" for number in range(8))
MALLORY: Final = "mallory"
QUORUM: Final = 4
FOREVER: Final = "1000000"
HEARTBEAT_S: Final = 4
# Far beyond how late any client here may be. Without end, one update that is never finished would
# keep the whole log of the queue from being cut.
MAX_STALENESS: Final = "1000"
STUCK_S: Final = 60.0
CLOCK: Final = Path(__file__).parent / "clock"


class Stuck(Exception):
    """No new model came although everything was mended again."""


@dataclass(frozen=True)
class Plan:
    """How long, how large, from which seed, on which server."""

    seconds: float
    seed: int
    slots: int = 8000
    padding: int = 1  # further float64 of the model: without any an update is one message
    training_s: float = 0.05
    downlink: str = "raw"
    server: str | None = None


def downlink_of(seed: int) -> str:
    """Of two seeds in a row the models of both come whole, and of the next two as changes."""
    return "1bit" if seed // 2 % 2 else "raw"


class Stage:
    """All that runs; ``mend_broker`` and ``wait_for_progress`` are what faults end with.

    At the end ``quiet_s`` without a new model mean that the queue is empty.
    """

    quiet_s = 5.0

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.random = random.Random(plan.seed)  # noqa: S311
        self.checkpoints = folder / "checkpoint"
        self.checkpoints.mkdir()
        # Not in the folder of the report: it holds passwords.
        self.home = Path(tempfile.mkdtemp(prefix="warren-chaos-"))
        self.federation = Federation(
            "chaos",
            clients=(*CLIENTS, MALLORY),
            model_bytes=8 * (8 * plan.slots + plan.padding) + 4 * BLOCK,
        )
        self.node: Node = private_node.up(self.home, self.federation, server=plan.server)
        self.crew = Crew(folder)
        self.wires: dict[str, Relay] = {}
        self._clock = folder / "clock"
        self.shift_clock(0.0)

    def open(self) -> None:
        """Start the workers."""
        for name in CLIENTS:
            self._wire(name, name)
            self.crew.add(self._client(name))
        for name in ("coordinator-a", "coordinator-b"):
            self._wire(name, "coordinator")
            self.crew.add(self.coordinator(name))

    def _wire(self, name: str, user: str) -> None:
        url = self.node.broker_url(user)
        self.wires[name] = Relay(f"{url}?heartbeat={HEARTBEAT_S}")

    def _client(self, name: str) -> Post:
        index = int(name.rpartition("-")[2])
        plan = self.plan
        task = ["--slots", str(plan.slots), "--padding", str(plan.padding)]
        task += ["--index", str(index), "--seconds", str(plan.training_s)]
        kept = ["--state-dir", str(self.folder / "kept")] if index % 2 else []
        arguments = ["--task", "tests.chaos.task:ledger", "--wait-broker-s", FOREVER]
        return Post(name, "client-worker", [*arguments, *kept, *task], self._environment(name))

    def coordinator(self, name: str, quorum: int = QUORUM) -> Post:
        """A coordinator; all share one checkpoint folder."""
        arguments = ["--checkpoint-dir", str(self.checkpoints), "--quorum", str(quorum)]
        arguments += ["--max-staleness", MAX_STALENESS, "--staleness-exponent", "0"]
        arguments += ["--wait-broker-s", FOREVER, "--downlink", self.plan.downlink]
        return Post(name, "coordinator-worker", arguments, self._environment(name))

    def _environment(self, name: str) -> dict[str, str]:
        return {
            "WARREN_BROKER_URL": self.wires[name].url,
            "CHAOS_FOLDER": str(self.folder),
            "CHAOS_CLOCK": str(self._clock),
            "PYTHONPATH": os.pathsep.join([str(CLOCK), os.environ.get("PYTHONPATH", "")]),
        }

    def shift_clock(self, seconds: float) -> None:
        """Have every worker's wall clock be so many seconds off."""
        with self._clock.open("r+b" if self._clock.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))

    # --- the broker ---------------------------------------------------------------------------

    def management(self) -> Management:
        """The management API."""
        return Management(self.node.management_url())

    def mend_broker(self) -> None:
        """Have the node run, with everything that belongs on it."""
        self.node = private_node.up(self.home, self.federation, server=self.plan.server)
        private_node.bring_to_state(self.node, self.federation)

    def connections(self) -> list[dict[str, Any]]:
        """Open connections, as the management API knows them."""
        with self.management() as management:
            found = management.get("vhosts", self.federation.name, "connections")
        return list(found or [])

    # --- progress -----------------------------------------------------------------------------

    def wait_for_progress(self, versions: int = 2) -> None:
        """Wait until that many further models are published; raise Stuck if it takes too long."""
        wanted = self.crew.version + versions
        if not self.until(lambda: self.crew.version >= wanted, STUCK_S):
            raise Stuck(f"version {self.crew.version} for {STUCK_S:.0f} s")

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for ``condition``; whether it came to be in time."""
        end = time.monotonic() + allow(seconds)
        while not condition():
            if time.monotonic() > end:
                return False
            self.pause(0.1)
        return True

    def pause(self, seconds: float) -> None:
        """Let things happen for a while."""
        threading.Event().wait(seconds)

    def close(self) -> None:
        """End everything."""
        self.crew.close()
        for wire in self.wires.values():
            wire.close()
        try:
            private_node.down(self.home)
        except BrokerConfigError:
            private_node.down(self.home)
        shutil.rmtree(self.home)
