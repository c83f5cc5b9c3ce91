"""Staging: what was kept comes back, memory is bounded, and the file is used again."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator_worker.rounds.staging import READ_BYTES, Piece, Staging
from tests.support.bodies import staging
from warren_shared.naming import CHUNK_BYTES


def read(place: Staging, *pieces: Piece) -> bytes:
    return b"".join(bytes(data) for _, data in place.chunks(pieces))


@pytest.mark.parametrize("size", [1, READ_BYTES, READ_BYTES + 1, CHUNK_BYTES])
@pytest.mark.parametrize("memory_bytes", [0, CHUNK_BYTES])
def test_what_was_kept_comes_back(size: int, memory_bytes: int) -> None:
    place = staging(memory_bytes)
    data = os.urandom(size)
    piece = place.keep(7 * CHUNK_BYTES, memoryview(data))
    assert (piece.data is None) == (size > memory_bytes)
    assert read(place, piece) == data
    starts = [start for start, _ in place.chunks([piece])]
    assert starts == list(range(7 * CHUNK_BYTES, 7 * CHUNK_BYTES + size, READ_BYTES))[: len(starts)]


@given(st.lists(st.tuples(st.sampled_from(["keep", "release"]), st.integers(0, 50)), max_size=40))
def test_pieces_kept_side_by_side_never_touch_each_other(steps: list[tuple[str, int]]) -> None:
    place = staging(memory_bytes=60)
    there: list[tuple[Piece, bytes]] = []
    for step, number in steps:
        if step == "keep":
            data = bytes([number]) * (number + 1)
            there.append((place.keep(0, memoryview(data)), data))
        elif there:
            piece, _ = there.pop(number % len(there))
            place.release([piece])
        assert all(read(place, piece) == data for piece, data in there)
        held = sum(piece.size for piece, _ in there if piece.data is not None)
        assert held <= 60


def test_the_file_grows_no_larger_than_what_was_there_at_once(tmp_path: Path) -> None:
    place = Staging(tmp_path, memory_bytes=0)
    for _ in range(50):
        pieces = [place.keep(0, memoryview(bytes(CHUNK_BYTES))) for _ in range(3)]
        place.release(pieces)
    assert os.fstat(place._file).st_size == 3 * CHUNK_BYTES
    assert list(tmp_path.iterdir()) == [], "it has no name that a crash could leave behind"


def test_memory_that_was_released_is_used_again() -> None:
    place = staging(memory_bytes=CHUNK_BYTES)
    for _ in range(3):
        piece = place.keep(0, memoryview(bytes(CHUNK_BYTES)))
        assert piece.data is not None
        place.release([piece])


def test_the_last_piece_stays_in_memory_since_it_is_folded_at_once() -> None:
    assert staging(0).keep(0, memoryview(b"x" * 9), last=True).data is not None
