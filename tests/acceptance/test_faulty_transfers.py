"""Updates that are not what they say, from a client that the broker lets in."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests.conftest import Place
from tests.support.bodies import bodies_of
from tests.support.processes import Worker, workers
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.naming import CHUNK_BYTES
from warren_shared.protocol.messages import UpdateManifest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.layout import Weights

RUN = "ab" * 4
WEIGHTS = Weights.of([np.zeros(CHUNK_BYTES // 4 * 2 + 9, np.float32)])  # three chunks


class Site:
    """A client that publishes whatever it likes."""

    def __init__(self, place: Place, user: str, index: int) -> None:
        self.place, self.user = place, user
        self.session = Session.for_broker(place.urls[user], f"test {user}")
        self.session.start(10)
        self.delta = Weights.empty(WEIGHTS.layout)
        self.delta[0][index] = 1.0

    def bodies(self, **claims: Any) -> list[bytes]:
        told = {
            "federation": self.place.name,
            "run": RUN,
            "client": self.user,
            "base_version": 0,
            "num_examples": 1,
            "layout": WEIGHTS.layout.digest,
            **transfer_fields(self.delta.buffer),
        }
        manifest = UpdateManifest(**{**told, **claims})
        return bodies_of(Outgoing(manifest, self.delta.buffer), 3)

    def publish(self, *bodies: bytes) -> None:
        messages = [
            Publication("update", "update", (body,), "update", persistent=True) for body in bodies
        ]
        self.session.publish(messages)


@contextmanager
def federation(place: Place, folder: Path, *arguments: str) -> Iterator[tuple[Worker, Site, Site]]:
    """A coordinator with quorum 2 at version 0, an odd client and a good one."""
    checkpoint.save(folder, State(place.name, RUN, 0, WEIGHTS, applied={}))
    with workers() as started:
        coordinator = Worker(
            "coordinator-worker", place.urls["coordinator"], "--checkpoint-dir", str(folder),
            "--quorum", "2", "--rounds", "1", *arguments,
        )  # fmt: skip
        started.append(coordinator)
        coordinator.wait_for("model_published")
        sites = Site(place, "alfa", 0), Site(place, "bravo", 1)
        try:
            yield coordinator, *sites
        finally:
            for site in sites:
                site.session.close()


def peak_bytes(worker: Worker) -> int:
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def round_closes(coordinator: Worker, folder: Path, odd: Site, good: Site) -> None:
    """The odd client behaves after all, and each counts once."""
    odd.publish(*odd.bodies())
    good.publish(*good.bodies())
    assert coordinator.end() == 0
    state = checkpoint.load(folder)
    assert state is not None
    np.testing.assert_array_equal(state.weights[0][:3], [0.5, 0.5, 0.0])
    assert not state.weights[0][3:].any()


def with_size(bodies: list[bytes], size_bytes: int) -> bytes:
    """The first of ``bodies``, announcing ``size_bytes``, which our own classes would refuse."""
    unpacker = msgpack.Unpacker(max_buffer_size=0)
    unpacker.feed(bodies[0])
    header = unpacker.unpack()
    return msgpack.packb({**header, "size_bytes": size_bytes}) + bodies[0][unpacker.tell() :]


def faulty(case: str, site: Site) -> list[bytes]:
    first, second, third = site.bodies()
    cut = second[: len(second) - 8]
    return {
        "out of order": [first, third, second],
        "twice": [first, second, second, third],
        "missing": [first, third],
        "too short": [first, cut, third],
        "wrong digest": site.bodies(digest=7),
        "announces 2^60 bytes": [with_size([first], 1 << 60), second, third],
        "announces another size": [with_size([first], WEIGHTS.layout.size_bytes * 2)],
        "not of this protocol": [bytes(16 << 20)],  # the longest that the broker takes
    }[case]


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("out of order", "chunk"),
        ("twice", "chunk"),
        ("missing", "chunk"),
        ("too short", "malformed"),
        ("wrong digest", "digest"),
        ("announces 2^60 bytes", "malformed"),
        ("announces another size", "layout"),
        ("not of this protocol", "malformed"),
    ],
)
def test_a_faulty_transfer_is_rejected_with_its_reason_and_the_round_goes_on(
    place: Place, tmp_path: Path, case: str, reason: str
) -> None:
    with federation(place, tmp_path) as (coordinator, odd, good):
        before = peak_bytes(coordinator)
        odd.publish(*faulty(case, odd))
        said = coordinator.wait_for("update_rejected", client="alfa")
        assert said["reason"] == reason
        assert peak_bytes(coordinator) - before < 40 << 20
        round_closes(coordinator, tmp_path, odd, good)


def test_two_updates_of_one_client_interleaved_count_as_the_one_that_is_whole(
    place: Place, tmp_path: Path
) -> None:
    with federation(place, tmp_path) as (coordinator, odd, good):
        old, new = odd.bodies(), odd.bodies()
        odd.publish(old[0], new[0], old[1], new[1], old[2], new[2])
        coordinator.wait_for("update_accepted", client="alfa")
        round_closes(coordinator, tmp_path, odd, good)
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert state.history[-1].incomplete == 1


def test_a_client_that_dies_half_way_leaves_nothing_in_the_sum(
    place: Place, tmp_path: Path
) -> None:
    with federation(place, tmp_path) as (coordinator, odd, good):
        odd.publish(*islice(odd.bodies(), 2))
        good.publish(*good.bodies())
        coordinator.wait_for("update_accepted", client="bravo")
        third = Site(place, "charlie", 2)
        third.publish(*third.bodies())
        third.session.close()
        assert coordinator.end() == 0
    state = checkpoint.load(tmp_path)
    assert state is not None
    np.testing.assert_array_equal(state.weights[0][:3], [0.0, 0.5, 0.5])
