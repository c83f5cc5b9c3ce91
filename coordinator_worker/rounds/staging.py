"""Where the pieces of unfinished updates wait for their rest: bounded memory, then a file."""

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from warren_shared.naming import CHUNK_BYTES
from warren_shared.tensors.layout import bytes_of

READ_BYTES: Final = 512 << 10  # what was read is still in the cache when it is folded


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """``size`` bytes of an update from byte ``start``: here, or in a slot of the file."""

    start: int
    size: int
    data: memoryview | None
    slot: int = -1


class Staging:
    """Keeps pieces of at most CHUNK_BYTES each until they are released.

    Up to ``memory_bytes`` stay as they came off the wire, not copied; more goes into an unlinked
    file in ``folder``, which the system removes however this process ends. So memory does not grow
    with the number of updates that arrive at once. The file is written and read, not mapped:
    mapped pages are part of a process's memory, and each costs a fault. Its slots are used again,
    the last released first, so they are pages that the system has at hand: 10 GB/s, 4 in new ones.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self._folder = folder
        self._held_bytes = 0
        self._free: list[int] = []
        self._slots = 0
        self._file = -1
        self._window = np.empty(READ_BYTES, np.uint8)

    def keep(self, start: int, data: memoryview, *, last: bool = False) -> Piece:
        """Keep ``data``; the ``last`` piece of an update stays in memory, it is folded at once."""
        size = len(data)
        if last or self._held_bytes + size <= self.memory_bytes:
            self._held_bytes += size
            return Piece(start, size, data)
        if self._file < 0:
            self._open()
        if not self._free:
            self._free.append(self._slots)
            self._slots += 1
        slot = self._free.pop()
        written = 0
        while written < size:
            at = slot * CHUNK_BYTES + written
            written += os.pwrite(self._file, data[written:], at)
        return Piece(start, size, None, slot)

    def chunks(self, pieces: Iterable[Piece]) -> Iterator[tuple[int, memoryview]]:
        """What ``pieces`` hold, as (byte offset, bytes); each is good until the next is asked."""
        for piece in pieces:
            if piece.data is not None:
                yield piece.start, piece.data
                continue
            for begin in range(0, piece.size, READ_BYTES):
                window = bytes_of(self._window)[: min(READ_BYTES, piece.size - begin)]
                at = piece.slot * CHUNK_BYTES + begin
                found = os.preadv(self._file, [window], at)
                if found != len(window):
                    raise OSError(f"the staging file gave {found} bytes of {len(window)}")
                yield piece.start + begin, window

    def read(self, pieces: Sequence[Piece], start: int, into: memoryview) -> None:
        """Copy an update's bytes from ``start`` on until ``into`` is full."""
        filled = 0
        while filled < len(into):
            piece = pieces[(start + filled) // CHUNK_BYTES]
            begin = start + filled - piece.start
            part = into[filled : filled + piece.size - begin]
            if piece.data is not None:
                part[:] = piece.data[begin : begin + len(part)]
            elif os.preadv(self._file, [part], piece.slot * CHUNK_BYTES + begin) != len(part):
                raise OSError("the staging file is shorter than what was written into it")
            filled += len(part)

    def _open(self) -> None:
        with tempfile.TemporaryFile(dir=self._folder) as unlinked:
            self._file = os.dup(unlinked.fileno())
        weakref.finalize(self, os.close, self._file)

    def release(self, pieces: Iterable[Piece]) -> None:
        """Forget ``pieces``."""
        for piece in pieces:
            if piece.data is None:
                self._free.append(piece.slot)
            else:
                self._held_bytes -= piece.size
