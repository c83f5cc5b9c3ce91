"""Chunks: a buffer goes out and comes back whole, or not at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bodies import bodies_of
from warren_shared.errors import Rejected
from warren_shared.naming import CHUNK_BYTES
from warren_shared.protocol.codec import decode
from warren_shared.protocol.messages import Chunk, UpdateManifest
from warren_shared.protocol.transfer import Incoming, Outgoing, transfer_fields


def outgoing(size_bytes: int) -> Outgoing:
    buffer = np.random.default_rng(0).integers(0, 256, size_bytes, np.uint8)
    manifest = UpdateManifest(
        federation="f", run="ab" * 4, client="alfa", base_version=0, num_examples=1,
        layout="cd" * 8, **transfer_fields(buffer),
    )  # fmt: skip
    return Outgoing(manifest, buffer)


class Receiver:
    def __init__(self, transfer: Outgoing) -> None:
        self.pieces: dict[int, bytes] = {}
        self.incoming = Incoming(transfer.manifest, self._store)

    def _store(self, start: int, data: memoryview) -> None:
        self.pieces[start] = bytes(data)

    def take(self, body: bytes) -> bool:
        header, data = decode(body)
        return self.incoming.add(header.index if isinstance(header, Chunk) else 0, data)


@pytest.mark.parametrize("chunks", [1, 2, 3])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_buffer_of_any_size_comes_back(chunks: int, more: int) -> None:
    transfer = outgoing(chunks * CHUNK_BYTES + more)
    receiver = Receiver(transfer)
    whole = [receiver.take(body) for body in bodies_of(transfer)]
    assert len(whole) == len(transfer) == chunks + (more > 0)
    assert whole == [False] * (len(whole) - 1) + [True]
    assert b"".join(receiver.pieces.values()) == transfer.buffer.tobytes()
    assert list(transfer) == list(transfer), "it must be possible to send it again"


@pytest.mark.parametrize("order", [[0, 2], [0, 0], [0, 1, 1], [1]])
def test_a_chunk_that_is_not_the_next_rejects_the_transfer(order: list[int]) -> None:
    transfer = outgoing(3 * CHUNK_BYTES)
    bodies, receiver = bodies_of(transfer), Receiver(transfer)
    for index in order[:-1]:
        receiver.take(bodies[index])
    with pytest.raises(Rejected, match="chunk"):
        receiver.take(bodies[order[-1]])


@pytest.mark.parametrize("change", [-1, 1])
def test_a_chunk_of_the_wrong_size_rejects_the_transfer(change: int) -> None:
    transfer = outgoing(100)
    with pytest.raises(Rejected, match="holds"):
        Receiver(transfer).incoming.add(0, memoryview(bytes(100 + change)))


def test_bytes_that_do_not_have_the_announced_digest_reject_the_transfer() -> None:
    transfer = outgoing(2 * CHUNK_BYTES)
    receiver = Receiver(transfer)
    bodies = bodies_of(transfer)
    receiver.take(bodies[0])
    damaged = bytearray(bodies[1])
    damaged[-1] ^= 1
    with pytest.raises(Rejected, match="digest"):
        receiver.take(bytes(damaged))


def test_the_smallest_buffer_is_one_message() -> None:
    transfer = outgoing(1)
    assert [Receiver(transfer).take(body) for body in bodies_of(transfer)] == [True]


@pytest.mark.parametrize("size_bytes", [100, CHUNK_BYTES, 2 * CHUNK_BYTES])
def test_nothing_may_follow_the_last_chunk(size_bytes: int) -> None:
    transfer = outgoing(size_bytes)
    receiver = Receiver(transfer)
    assert [receiver.take(body) for body in bodies_of(transfer)][-1]
    for data in (b"", b"x"):
        with pytest.raises(Rejected, match="chunk"):
            receiver.incoming.add(len(transfer), memoryview(data))


def test_every_transfer_has_an_id_of_its_own() -> None:
    buffer = np.zeros(8, np.uint8)
    assert transfer_fields(buffer)["transfer"] != transfer_fields(buffer)["transfer"]


THREE = outgoing(2 * CHUNK_BYTES + 5)
BODIES = bodies_of(THREE)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), max_size=8))
def test_it_is_whole_exactly_when_every_chunk_came_in_order(order: list[int]) -> None:
    receiver = Receiver(THREE)
    taken: list[int] = []
    for index in order:
        try:
            whole = receiver.take(BODIES[index])
        except Rejected:
            continue
        taken.append(index)
        assert whole == (taken == [0, 1, 2])
    assert taken == [0, 1, 2][: len(taken)]
