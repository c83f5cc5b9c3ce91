"""Compute, checkpoint, publish, acknowledge: killed in between, one version is only one model."""

import queue
import sys
from pathlib import Path

import numpy as np
import pytest

from client_worker.runtime.mailbox import GlobalModel, Mailbox
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests.conftest import Place
from tests.support.pace import DEADLINE_S
from tests.support.processes import Worker, workers
from warren_shared.amqp.delivery import Delivery, Subscription
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.naming import CHUNK_BYTES
from warren_shared.protocol.codec import decode
from warren_shared.protocol.messages import ModelManifest, UpdateManifest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.layout import Weights

RUN = "ab" * 4
WEIGHTS = Weights.of([np.zeros(CHUNK_BYTES // 4 * 2 + 9, np.float32)])  # three chunks

STUCK = """#!{python}
import threading
from coordinator_worker import cli
from coordinator_worker.storage import checkpoint
checkpoint.Checkpoint.save = lambda self, state: threading.Event().wait()
raise SystemExit(cli.main())
"""


class Alfa:
    """A client that reads its mailbox message by message."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.came: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        mailbox = Subscription(("model.alfa",), self.came.put, exclusive=True, manual_ack=False)
        self.session = Session.for_broker(place.urls["alfa"], "test", mailbox)
        self.session.start(10)
        self.mailbox = Mailbox(place.name, lambda: None, lambda: None)
        self.mailbox.expect(WEIGHTS.layout)

    def publish_update(self) -> None:
        delta = Weights.empty(WEIGHTS.layout)
        delta[0][0] = 1.0
        manifest = UpdateManifest(
            federation=self.place.name, run=RUN, client="alfa", base_version=0, num_examples=1,
            layout=delta.layout.digest, **transfer_fields(delta.buffer),
        )  # fmt: skip
        self.session.publish(
            [
                Publication("update", "update", body, "update", persistent=True)
                for body in Outgoing(manifest, delta.buffer)
            ]
        )

    def receive_until(self, version: int) -> None:
        """Take messages up to the manifest of ``version``, that included."""
        while True:
            delivery = self.came.get(timeout=DEADLINE_S)
            self.mailbox.deliver(delivery)
            message, _ = decode(delivery.body)
            if isinstance(message, ModelManifest) and message.version == version:
                return

    def receive(self, timeout_s: float = DEADLINE_S) -> None:
        self.mailbox.deliver(self.came.get(timeout=timeout_s))

    def model(self) -> int | None:
        taken = self.mailbox.take()
        return taken.manifest.version if isinstance(taken, GlobalModel) else None


def test_no_client_has_a_model_before_the_checkpoint_has_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, program = tmp_path / "checkpoint", tmp_path / "stuck-coordinator"
    folder.mkdir()
    program.write_text(STUCK.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("TEST_STUCK_COORDINATOR", str(program))
    checkpoint.save(folder, State(place.name, RUN, 0, WEIGHTS, applied={}))
    url = place.urls["coordinator"]
    arguments = ("--checkpoint-dir", str(folder), "--quorum", "1", "--rounds", "1")
    alfa = Alfa(place)
    try:
        with workers() as started:
            stuck = Worker("stuck-coordinator", url, *arguments)
            started.append(stuck)
            stuck.wait_for("model_published", version=0)
            alfa.receive_until(version=0)
            alfa.publish_update()
            alfa.receive_until(version=1)  # its first chunk is here before the checkpoint is ...
            alfa.receive()
            with pytest.raises(queue.Empty):
                alfa.receive(timeout_s=1.0)  # ... and its last is not
            assert alfa.model() == 0
            stuck.kill()

            again = Worker("coordinator-worker", url, *arguments)
            started.append(again)
            alfa.receive_until(version=1)
            alfa.receive()
            alfa.receive()
            assert alfa.model() == 1
            assert again.end() == 0
    finally:
        alfa.session.close()
    state = checkpoint.load(folder)
    assert state is not None
    assert state.version == 1
    np.testing.assert_array_equal(state.weights[0][:2], [1.0, 0.0])
