"""A federation whose honest rounds close while others do what they like, and what of it grows."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pika

from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests.conftest import CLIENTS, FLEET, Place
from tests.support.bodies import bodies_of
from tests.support.pace import allow
from tests.support.processes import Worker
from warren_shared.naming import CHUNK_BYTES
from warren_shared.protocol.messages import EvaluationEntry, UpdateManifest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.layout import Weights

RUN = "ab" * 4
WEIGHTS = Weights.of([np.zeros(CHUNK_BYTES // 4 * 2 + 9, np.float32)])  # three chunks
ROUND_S = 10.0
HONEST = ("bravo", "delta")
# A fleet may call itself by its own name, too, which is one more for each user.
MEMBERS = frozenset((*CLIENTS, *FLEET.members, FLEET.name))


@dataclass(frozen=True)
class Seen:
    """What could have grown, at ``time`` (monotonic seconds)."""

    time: float
    version: int
    letters: int
    members: frozenset[str]
    names: int
    staged: int
    resident: int
    checkpoint: int
    audit: int
    rejected: frozenset[str]
    model_bytes: int = WEIGHTS.layout.size_bytes


class Scene:
    """One federation in which honest clients' rounds close, whatever the others do."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.folder = place, folder
        checkpoint.save(folder, State(place.name, RUN, 0, WEIGHTS, applied={}))
        self.coordinator = Worker(
            "coordinator-worker", place.urls["coordinator"], "--checkpoint-dir", str(folder),
            "--quorum", "2", "--max-staleness", "5", "--target", "eval_loss<=0.1",
            "--monitor", "eval_loss:min", "--patience", "1000000", "--keep-versions", "0",
        )  # fmt: skip
        self.coordinator.wait_for("model_published")
        self.version = 0
        self.began: Seen | None = None
        self.delta = Weights.empty(WEIGHTS.layout)
        self.delta[0][7] = 1.0
        self.connection = pika.BlockingConnection(pika.URLParameters(place.urls["coordinator"]))
        self.channels = {
            user: pika.BlockingConnection(pika.URLParameters(place.urls[user])).channel()
            for user in HONEST
        }

    def close(self) -> None:
        self.connection.close()
        for channel in self.channels.values():
            channel.connection.close()
        if self.coordinator.process.poll() is None:
            self.coordinator.kill()

    def honest_round(self, limit_s: float = ROUND_S) -> None:
        """Both honest clients contribute, and a version is made of it within ``limit_s``."""
        began = time.monotonic()
        for user, channel in self.channels.items():
            channel.connection.process_data_events()  # heartbeats
            manifest = UpdateManifest(
                federation=self.place.name, run=RUN, client=user, base_version=self.version,
                num_examples=100, layout=WEIGHTS.layout.digest,
                evaluation=EvaluationEntry(num_examples=100, means={"loss": 0.5}),
                metrics={"loss": 0.5}, **transfer_fields(self.delta.buffer),
            )  # fmt: skip
            for made in bodies_of(Outgoing(manifest, self.delta.buffer)):
                told = pika.BasicProperties(user_id=user, delivery_mode=2)
                channel.basic_publish("update", "update", made, told)
        self.version = self._model_of_both(limit_s)
        assert time.monotonic() - began < allow(limit_s)

    def _model_of_both(self, limit_s: float) -> int:
        """The newest version once both updates are accepted and a model was made since."""
        missing, version = set(HONEST), -1
        for record in self.coordinator.records("round of the honest", allow(limit_s + ROUND_S)):
            if record["action"] == "update_accepted" and record["base_version"] == self.version:
                missing.discard(record["client"])
            elif record["action"] == "model_published" and len(missing) < len(HONEST):
                version = record["version"]
            if not missing and version > self.version:
                break
        return version

    def seen(self) -> Seen:
        """What is there now, when the newest round's checkpoint is."""
        state = checkpoint.load(self.folder)
        assert state is not None
        pid = self.coordinator.process.pid
        letters = self.connection.channel().queue_declare("update.rejected", passive=True)
        audit = (self.folder / "audit.jsonl").stat().st_size
        return Seen(
            time.monotonic(),
            state.version,
            letters.method.message_count,
            frozenset(state.roster),
            len(state.history[-1].metrics) if state.history else 0,
            _staged(pid),
            _resident(pid),
            sum(each.stat().st_size for each in self.folder.iterdir() if each.is_file()) - audit,
            audit,
            frozenset(why for r in state.history[-3:] for why in r.rejected),
        )


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


def _staged(pid: int) -> int:
    """How large the unlinked file is in which transfers wait."""
    sizes = [0]
    for number in os.listdir(f"/proc/{pid}/fd"):
        name = f"/proc/{pid}/fd/{number}"
        try:
            if os.readlink(name).endswith("(deleted)"):
                sizes.append(os.stat(name).st_size)
        except OSError:
            continue
    return max(sizes)
