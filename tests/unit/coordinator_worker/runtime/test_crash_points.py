"""The coordinator is cut off after any of its effects, again and again; nothing is lost or doubled.

The broker here is a real one in small: a queue that keeps what is not acknowledged and delivers it
again, before or after what is new, and that copies what it is given. The coordinator is the whole
worker.
"""

import contextlib
import json
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator_worker.runtime import worker
from coordinator_worker.runtime.event_loop import CoordinatorLoop
from coordinator_worker.runtime.inbox import Connected, Event, Stop
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint, store
from coordinator_worker.storage.audit_files import read
from coordinator_worker.versions.audit_report import faults, versions
from tests.support.bodies import encode
from warren_shared.amqp.delivery import Delivery
from warren_shared.amqp.publisher import Publication
from warren_shared.errors import Stopped
from warren_shared.naming import COORDINATOR_USER
from warren_shared.protocol.codec import decode
from warren_shared.protocol.messages import ModelManifest, Newest, Probe, UpdateManifest
from warren_shared.protocol.transfer import Outgoing, digest, transfer_fields
from warren_shared.service.lifecycle import StopSignal
from warren_shared.tensors.layout import Array, Weights
from warren_shared.tensors.model_change import ModelChange, move

RUN, UPDATES, QUORUM = "ab" * 4, 12, 2
PROBE = encode(Probe())  # comes back to whoever is the active coordinator
LAYOUT = Weights.of([np.zeros(UPDATES)]).layout
SETTINGS = {
    "broker_url": "amqp://coordinator:x@localhost/f",
    "quorum": QUORUM,
    "max_staleness": 100,
    "staleness_exponent": 0.0,
    "metrics_port": 0,
    "server_optimizer": "momentum:beta=0",  # FedAvg, but with moments to be kept
}


class Blown(BaseException):
    """The end of a process, as sudden as kill -9."""


class Broker:
    """The queue ``update``, and which models were published."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.unacknowledged: dict[int, bytes] = {}
        self.models: dict[int, set[int]] = {0: set()}  # clients may have it from an earlier life
        self.published = 0  # updates confirmed to clients so far
        self.tag = 0
        self.newest: list[Newest] = []  # as the queue of that name has them
        self.dead: set[int] = set()  # tags of deliveries that came again over the same channel
        self.client: tuple[int, Weights] | None = None  # version and model of one who hears all
        self.held = 0  # models of a private run that were begun and had to wait
        self.begun: dict[int, set[int]] = {0: set()}  # as ``models``, whole or not

    def hear(self, manifest: ModelManifest, data: memoryview) -> None:
        """A client takes a model, whole or as the change to the one that it has."""
        found = np.frombuffer(data, np.uint8)
        made = Weights(LAYOUT, np.empty(LAYOUT.size_bytes, np.uint8))
        if manifest.base is None:
            made.buffer[:] = found
        else:
            assert self.client is not None
            assert self.client[0] in {manifest.base, manifest.version}
            if self.client[0] == manifest.version:
                return
            change = ModelChange(manifest.downlink, manifest.transfer, found)
            move(self.client[1], change, made)
            assert digest(made.buffer) == manifest.weights_digest
        self.client = manifest.version, made
        self.models.setdefault(manifest.version, set()).add(digest(made.buffer))

    def requeue(self, *, first: bool) -> None:
        again = self.unacknowledged.values()
        self.dead |= set(self.unacknowledged)
        self.waiting = [*again, *self.waiting] if first else [*self.waiting, *again]
        self.unacknowledged.clear()

    def publish_next_update(self) -> None:
        """A client trains from the newest model that is out, and its update is confirmed."""
        number, self.published = self.published, self.published + 1
        delta = Weights.empty(LAYOUT)
        delta[0][number] = 1.0
        manifest = UpdateManifest(
            federation="f", run=RUN, client=f"c{number}", base_version=max(self.models),
            num_examples=1, layout=LAYOUT.digest, **transfer_fields(delta.buffer),
        )  # fmt: skip
        (body,) = Outgoing(manifest, delta.buffer)
        self.waiting.append(b"".join(bytes(piece) for piece in body))


class Life:
    """One process's links to the broker, which break after ``effects`` effects.

    After ``sight`` deliveries the queue loses sight of our node, and gives all that is
    unacknowledged again, over the channel that never noticed.
    """

    epoch = 1

    def __init__(self, broker: Broker, effects: int, first: bool, sight: int) -> None:
        self.broker, self.left, self.first, self.sight = broker, effects, first, sight
        self.dead = threading.Event()
        self.sent = threading.Semaphore(0)  # a model, or all of it that may be sent so far
        self.due = 2  # models until the next checkpoint: the first that is sent has one already
        self.is_private = False  # then a model is sent when its checkpoint is on the disk
        self.told: list[Event] = [Connected()]
        self.models = self.updates = self

    def burn(self) -> None:
        self.left -= 1
        if self.left < 0 or self.dead.is_set():
            self.dead.set()
            raise Blown

    # --- as Session ---

    def publish(
        self, messages: Iterable[Publication | None], *, waits_for_queue: bool = False
    ) -> None:
        model, held = None, False
        for message in messages:
            if message is None:
                self.broker.held += self.is_private
                if not held:
                    self.sent.release()
                held = True
                if self.dead.wait(0.0005):
                    raise Blown
                continue
            self.burn()
            said, data = decode(b"".join(bytes(piece) for piece in message.body))
            if isinstance(said, Newest):
                self.broker.newest.append(said)
            elif isinstance(said, ModelManifest):
                model = said, data
                if said.base is None:
                    self.broker.begun.setdefault(said.version, set()).add(said.digest)
        if model is not None:
            self.broker.hear(*model)
        if not held:
            self.sent.release()
        self.burn()

    def post(self, message: Publication) -> None:
        pass

    def resume_publishing(self) -> None:
        pass

    def acknowledge(self, tags: Iterable[int], epoch: int) -> None:
        for tag in tags:
            self.burn()
            if tag not in self.broker.dead:
                del self.broker.unacknowledged[tag]

    # --- as Links ---

    def start(self) -> None:
        self.broker.requeue(first=self.first)

    def close(self) -> None:
        self.dead.set()

    def ask_to_stop(self) -> None:
        pass

    def newest(self) -> tuple[Newest, ...]:
        return tuple(self.broker.newest)

    def give_up(self) -> None:
        pass

    def ask_whether_active(self) -> None:
        self.broker.waiting.append(PROBE)

    def look_who_is_enrolled(self) -> None:
        pass

    def put(self, event: Event) -> None:
        self.told.append(event)

    def remind(self, seconds: float, event: Event) -> None:
        pass  # no time passes here

    def wait_for(self, sending: Future[None]) -> None:
        sending.result()

    def stopped_within(self, seconds: float) -> bool:
        raise Stopped("nothing here is slow")

    def get(self) -> Delivery | Event:
        if self.told:
            return self.told.pop(0)
        broker = self.broker
        self.sight -= 1
        if self.sight == 0:
            broker.requeue(first=True)
        if not broker.waiting:
            if broker.published == UPDATES:
                return Stop()
            for _ in range(QUORUM + 1):  # so that what closes a round is not always all there is
                broker.publish_next_update()
        broker.tag += 1
        body = broker.waiting.pop(0)
        broker.unacknowledged[broker.tag] = body
        user = COORDINATOR_USER if body == PROBE else decode(body)[0].client  # type: ignore[union-attr]
        return Delivery(memoryview(body), broker.tag, self.epoch, user, redelivered=False)


class Fused(checkpoint.Checkpoint):
    """A checkpoint that counts as two effects: not yet on the disk, and on it.

    It is slow: whatever may be published before it is there is published by then.
    """

    life: Life

    def save(self, state: State) -> None:
        while self.life.due:
            self.life.due -= 1
            self.life.sent.acquire(timeout=1.0)
        self.life.due = 0 if self.life.is_private else 1
        self.life.burn()
        super().save(state)
        self.life.burn()


def live(
    folder: Path, broker: Broker, more: dict[str, object], effects: int, first: bool, sight: int
) -> None:
    """A coordinator's process from start to sudden end, or until there is nothing to do."""
    with pytest.MonkeyPatch.context() as patch:
        life = Life(broker, effects, first, sight)
        if "privacy" in more:
            life.due, life.is_private = 1, True
        patch.setattr(Fused, "life", life, raising=False)
        patch.setattr(CoordinatorLoop, "from_settings", lambda _settings: life)
        patch.setattr(worker, "on_stop_signal", lambda _stop: StopSignal())
        patch.setattr(store, "Checkpoint", Fused)
        given = CoordinatorSettings(checkpoint_dir=folder, **{**SETTINGS, **more})  # type: ignore[arg-type]
        process = worker.CoordinatorWorker.from_settings(given)
        with contextlib.suppress(Blown):
            process.run()
        process._store.give_back()  # as the system does


@pytest.mark.slow
@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.integers(0, 12)), max_size=12),
    st.sampled_from(["raw", "1bit"]),
)
def test_cut_off_after_any_effect_every_update_counts_once(
    fuses: list[tuple[int, bool, int]], downlink: str
) -> None:
    broker = Broker()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint.save(folder, State("f", RUN, 0, Weights.empty(LAYOUT), applied={}))
        for effects, first, sight in (*fuses, (1_000_000, False, 0)):
            live(folder, broker, {"downlink": downlink}, effects, first, sight)
        state = checkpoint.load(folder)
        assert state is not None
        counts = state.slots["master"] if downlink != "raw" else state.weights
        check(state, counts[0], broker)
        check_audit(state, counts[0], folder)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.integers(0, 12)), max_size=12))
def test_cut_off_after_any_effect_noise_is_released_once_and_what_is_spent_stays_so(
    fuses: list[tuple[int, bool, int]],
) -> None:
    broker = Broker()
    promise = "correlated:epsilon=8,delta=1e-3,clip=1,contributions=1,distance=1,small=true"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = folder / "start.npz"
        np.savez(start, np.zeros(UPDATES))
        more = {"privacy": promise, "rounds": UPDATES // QUORUM, "initial_model": start}
        first_state = State("f", RUN, 0, Weights.empty(LAYOUT), applied={})
        checkpoint.save(folder, first_state)
        done, secrets = 0, set()
        for effects, first, sight in (*fuses, (1_000_000, False, 0)):
            live(folder, broker, more, effects, first, sight)
            state = checkpoint.load(folder)
            assert state is not None
            if state.privacy is not None:
                assert state.privacy.done >= done
                done = state.privacy.done
                secrets.add(state.privacy.secret)
        assert state is not None
        assert state.privacy is not None
        assert len(secrets) == 1
        assert state.privacy.done == state.version == UPDATES // QUORUM
        taken = state.privacy.participations
        assert {client: one.contributions for client, one in taken.items()} == {
            f"c{number}": 1 for number in range(UPDATES)
        }
        assert not broker.held, "not a byte before the checkpoint is on the disk"
        assert broker.begun == broker.models
        for version, digests in broker.models.items():
            assert len(digests) <= 1, f"version {version} was released with two noises"


def check_audit(state: State, counts: Array, folder: Path) -> None:
    """The log tells of each version whose updates made it, and of nothing that was undone."""
    made = versions(read(folder))
    assert list(made) == [(RUN, version) for version in range(1, state.version + 1)]
    counted = np.zeros(UPDATES)
    accepted = {
        (line["version"], line["transfer"])
        for line in (json.loads(text) for _, text in read(folder))
        if line["event"] == "accepted"
    }
    for version in made.values():
        assert version.published is not None
        for entry in version.line["contributions"]:
            assert (version.version, entry["transfer"]) in accepted
            counted[int(entry["client"][1:])] += 1
    np.testing.assert_array_equal(counted, counts * QUORUM)
    assert list(faults(read(folder))) == []


def check(state: State, counts: Array, broker: Broker) -> None:
    assert broker.published == UPDATES
    waiting = (*broker.waiting, *broker.unacknowledged.values())
    left = {decode(body)[0].transfer for body in waiting if body != PROBE}  # type: ignore[union-attr]
    effects = counts * QUORUM
    assert set(effects) <= {0.0, 1.0}, "an update counts once or, while it waits, not yet"
    assert effects.sum() == UPDATES - len(left) == state.version * QUORUM
    for version, digests in broker.models.items():
        assert len(digests) <= 1, f"version {version} was more than one model"
    assert broker.client is not None
    assert broker.client[0] == state.version
    assert broker.client[1].buffer.tobytes() == state.weights.buffer.tobytes()
