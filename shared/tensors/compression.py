"""Updates in few bits: what a trainable tensor moved by, in blocks of 1,024 parameters.

``1bit`` is DRIVE (Vargaftik et al. 2021), ``2bit`` and ``0.25bit`` are EDEN (Vargaftik et al.
2022), each on a block that a randomized Hadamard transform has made even: its signs s are those of
an AES-CTR stream that the transfer's id keys, so nothing is sent for them, and no two updates share
a rotation, so that their errors cancel in the mean. A block x becomes r = H (s x) H / 32, with x as
a 32 x 32 matrix, and that again where one value dominates; what is sent are small odd integers q in
place of r and one float32 scale, negative where there were two rotations. These codes are unbiased,
so a client keeps no error and sends the same bytes again after a crash.

``int8`` rounds each block to 255 levels of its largest value, without a rotation.

Statistics are values, not differences, and stay as they are.

What is decoded is the same to the last bit wherever it is: H has entries of +-1 and q are integers,
so H q H is exact in float32 in whatever order it is added up; then one product with the scale.

A buffer in one of these encodings is, in this order: the bytes of all runs that are not encoded; a
float32 scale for each block; the codes of each block.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from warren_shared.errors import Rejected
from warren_shared.tensors.layout import TRAINABLE, Buffer, Layout, Run, Weights, bytes_of

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]

RAW: Final = "raw"
BLOCK: Final = 1024  # parameters; 32 x 32, since numpy's product of small matrices is fast
SIDE: Final = 32
TOGETHER: Final = 64  # blocks that are worked on at once: 256 kB stay in the cache
# Beyond it a decoded value's square is no float32: absurd, as in an update that is not encoded.
MAX_SCALE: Final = 1e16
# Standard deviations from which on a value dominates its block: one in 1,700 blocks of normal
# values has such a one. Measured: with one rotation 98 % of the rest is lost beside a value a
# hundred times its deviation; with two nothing that could be seen.
DOMINATES: Final = 5.0
LEVEL: Final = 0.9957  # of 2 bits: standard deviations between two levels (Max 1960, table 2)
KEY: Final = b"warren: signs of an update\0"

_AES_BYTES: Final = 16
_SIGN_BYTES: Final = BLOCK // 8


def _hadamard(side: int) -> Floats:
    found = np.ones((1, 1), np.float32)
    while len(found) < side:
        found = np.block([[found, found], [found, -found]])
    return found


_H: Final = _hadamard(SIDE)
_BITS: Final = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
_SIGN_OF_BYTE: Final = _BITS.astype(np.uint32) << np.uint32(31)  # to flip eight float32 by
_ONES_OF_BYTE: Final = 1 - 2 * _BITS.astype(np.float32)  # eight codes of one bit, as +-1
_POPULATION: Final = _BITS.sum(axis=1).astype(np.int64)


@dataclass(frozen=True)
class Encoding:
    """``code_bytes`` for a block of codes; ``rows``: how many of a block's 32 rows are sent."""

    name: str
    code_bytes: int
    rows: int = SIDE

    @property
    def is_rotated(self) -> bool:
        """Whether blocks are rotated before they are rounded."""
        return self.code_bytes < BLOCK


ENCODINGS: Final = {
    encoding.name: encoding
    for encoding in (
        Encoding("int8", BLOCK),
        Encoding("2bit", 2 * _SIGN_BYTES),
        Encoding("1bit", _SIGN_BYTES),
        # The same rows in every block. A change of all signs by a row of the Hadamard matrix of
        # 1,024 moves the coordinates of r about, and the signs are random, so which rows are sent
        # makes no difference.
        Encoding("0.25bit", _SIGN_BYTES // 4, rows=SIDE // 4),
    )
}

KNOWN: Final = (RAW, *ENCODINGS)


class _Workspace(threading.local):
    """Memory for TOGETHER blocks, of each thread: a hundred updates are decoded one by one."""

    def __init__(self) -> None:
        self.a = np.empty((TOGETHER, SIDE, SIDE), np.float32)
        self.b = np.empty_like(self.a)
        self.codes = np.empty(TOGETHER * BLOCK, np.uint8)
        self.flips = np.empty((TOGETHER * _SIGN_BYTES, 8), np.uint32)
        self.zeros = bytes(TOGETHER * _SIGN_BYTES)
        self.stream = bytearray(TOGETHER * _SIGN_BYTES + _AES_BYTES)


_memory: Final = _Workspace()


class _Signs:
    """Random signs of each block, the same for everybody who knows the transfer's id."""

    def __init__(self, transfer: str, stage: bytes) -> None:
        self._key = blake3(KEY + stage + transfer.encode()).digest()
        self._next = -1

    def of(self, block: int, count: int) -> Words:
        """To flip the values of ``count`` blocks by, good until the next are asked for.

        Args:
            block: The number of the first.
            count: TOGETHER at most.

        Returns:
            The sign bit of each value, shape (count, BLOCK).
        """
        if block != self._next:
            # Here, since those whose updates are raw do without its 7 MB.
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

            counter = (block * _SIGN_BYTES // _AES_BYTES).to_bytes(_AES_BYTES, "big")
            self._aes = Cipher(algorithms.AES(self._key), modes.CTR(counter)).encryptor()
        size = count * _SIGN_BYTES
        self._aes.update_into(memoryview(_memory.zeros)[:size], _memory.stream)
        self._next = block + count
        bits = np.frombuffer(_memory.stream, np.uint8, size)
        found = _memory.flips[:size]
        np.take(_SIGN_OF_BYTE, bits, axis=0, out=found, mode="clip")
        return found.reshape(count, BLOCK)


class Rotation:
    """H (s x) H of blocks of 32 x 32 values, twice for those that one value dominates.

    One Hadamard transform makes a block of 1,024 alike values even. Of one in which a single value
    is as large as all others together it makes 1,024 values that are all as large as that, and
    their signs say nothing of the others: those would be lost for good. The second transform, with
    signs of its own, makes that even, too.
    """

    def __init__(self, transfer: str) -> None:
        self._first, self._second = _Signs(transfer, b"1"), _Signs(transfer, b"2")

    def forth(self, x: Floats, block: int, twice: Flags, rows: int) -> Floats:
        """The first ``rows`` rows of ``x`` rotated, times 32.

        Args:
            x: Shape (blocks, SIDE, SIDE); overwritten.
            block: The number of the first of them.
            twice: Which blocks are to be rotated twice.
            rows: How many rows are wanted.

        Returns:
            Shape (blocks, rows, SIDE).
        """
        _flip(x, self._first.of(block, len(x)))
        if not twice.any():
            found: Floats = np.matmul(np.matmul(_H[:rows], x), _H)
            return found
        r: Floats = np.matmul(np.matmul(_H, x), _H)
        again = r[twice]
        _flip(again, self._second.of(block, len(x))[twice])
        again /= np.float32(SIDE)
        r[twice] = np.matmul(np.matmul(_H, again), _H)
        return r[:, :rows]

    def back(self, q: Floats, scales: Floats, block: int, twice: Flags, into: Floats) -> None:
        """Write what the codes ``q`` of blocks stand for: ``scales`` times q, rotated back.

        All but the last product is done with integers below 2^24, in float32, hence exact.
        """
        rows = q.shape[1]
        np.matmul(np.matmul(_H[:, :rows], q), _H, out=into)
        factors = scales / np.float32(SIDE)
        if twice.any():
            again = into[twice]
            _flip(again, self._second.of(block, len(q))[twice])
            into[twice] = np.matmul(np.matmul(_H, again), _H)
            factors[twice] /= np.float32(SIDE)
        into *= factors[:, None, None]
        _flip(into, self._first.of(block, len(q)))

    def forth_once(self, x: Floats, block: int) -> Floats:
        """Rotate blocks of shape (count, BLOCK), with their norm kept; ``x`` is overwritten."""
        blocks = x.reshape(-1, SIDE, SIDE)
        _flip(blocks, self._first.of(block, len(blocks)))
        found: Floats = np.matmul(np.matmul(_H, blocks), _H).reshape(x.shape)
        found /= np.float32(SIDE)
        return found

    def back_once(self, r: Floats, block: int) -> Floats:
        """Undo ``forth_once``."""
        blocks = np.matmul(np.matmul(_H, r.reshape(-1, SIDE, SIDE)), _H)
        blocks /= np.float32(SIDE)
        _flip(blocks, self._first.of(block, len(blocks)))
        found: Floats = blocks.reshape(r.shape)
        return found


def _flip(values: Floats, signs: Words) -> None:
    words = values.view(np.uint32).reshape(signs.shape)
    np.bitwise_xor(words, signs, out=words)


@dataclass(frozen=True)
class _Part:
    """A run that is encoded: ``block`` is the number of its first block."""

    run: Run
    block: int

    @property
    def count(self) -> int:
        """How many parameters it has."""
        return (self.run.stop - self.run.start) // np.dtype(self.run.dtype).itemsize

    @property
    def blocks(self) -> int:
        """How many blocks these are, the last of them filled up with zeros."""
        return -(-self.count // BLOCK)

    def groups(self) -> Iterator[tuple[int, int]]:
        """(number within the run, how many) of the blocks that are worked on together."""
        for first in range(0, self.blocks, TOGETHER):
            yield first, min(TOGETHER, self.blocks - first)


class Plan:
    """Where what is in a buffer of ``layout`` in ``encoding``."""

    def __init__(self, layout: Layout, encoding: str) -> None:
        self.layout = layout
        self.encoding = ENCODINGS[encoding]

    @cached_property
    def parts(self) -> tuple[_Part, ...]:
        """The runs that are encoded."""
        found, block = [], 0
        for run in self.layout.runs:
            if run.role == TRAINABLE and run.stop > run.start:
                found.append(_Part(run, block))
                block += found[-1].blocks
        return tuple(found)

    @cached_property
    def raw(self) -> tuple[tuple[Run, int], ...]:
        """The others, and from which byte on they are in the encoded buffer."""
        found, at = [], 0
        for run in self.layout.runs:
            if run.role != TRAINABLE:
                found.append((run, at))
                at += run.stop - run.start
        return tuple(found)

    @cached_property
    def blocks(self) -> int:
        """How many blocks there are."""
        return sum(part.blocks for part in self.parts)

    @cached_property
    def scales(self) -> int:
        """The byte from which on there are scales."""
        return sum(run.stop - run.start for run, _ in self.raw)

    @cached_property
    def codes(self) -> int:
        """The byte from which on there are codes."""
        return self.scales + 4 * self.blocks

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of the encoded buffer."""
        return self.codes + self.encoding.code_bytes * self.blocks


def size_bytes(layout: Layout, encoding: str) -> int:
    """Bytes of an update with ``layout`` in ``encoding``, one of ENCODINGS or RAW."""
    return layout.size_bytes if encoding == RAW else Plan(layout, encoding).size_bytes


def encode(weights: Weights, encoding: str, transfer: str) -> Buffer:
    """``weights``, an update, in ``encoding``; ``transfer`` is the id under which it will go.

    In RAW that is their own buffer.

    Args:
        weights: What the client's tensors moved by; its statistics as they are.
        encoding: A name in KNOWN.
        transfer: It keys the rotation, so it has to be a fresh one.

    Returns:
        ``size_bytes(weights.layout, encoding)`` bytes.
    """
    if encoding == RAW:
        return weights.buffer
    plan = Plan(weights.layout, encoding)
    made = np.empty(plan.size_bytes, np.uint8)
    for run, at in plan.raw:
        made[at : at + run.stop - run.start] = weights.buffer[run.start : run.stop]
    scales = made[plan.scales : plan.codes].view(np.float32)
    codes = made[plan.codes :].reshape(plan.blocks, plan.encoding.code_bytes)
    rotation = Rotation(transfer)
    # What is no number makes a scale that is none, and that is refused by whoever reads it.
    with np.errstate(over="ignore", invalid="ignore"):
        for part in plan.parts:
            values = weights.buffer[part.run.start : part.run.stop].view(part.run.dtype)
            for first, count in part.groups():
                piece = values[first * BLOCK : (first + count) * BLOCK]
                blocks = _memory.a[:count]
                flat = blocks.reshape(-1)
                flat[: piece.size] = piece
                flat[piece.size :] = 0
                block = part.block + first
                here = slice(block, block + count)
                _encode(plan.encoding, blocks, rotation, block, scales[here], codes[here])
    return made


def _encode(
    encoding: Encoding,
    x: Floats,
    rotation: Rotation,
    block: int,
    scales: Floats,
    codes: Buffer,
) -> None:
    count = len(x)
    flat = x.reshape(count, BLOCK)
    largest = np.maximum(flat.max(axis=1), -flat.min(axis=1))
    if not encoding.is_rotated:
        np.divide(largest, np.float32(127), out=scales)
        inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
        rounded = np.multiply(flat, inverse[:, None], out=_memory.b[:count].reshape(count, BLOCK))
        np.rint(rounded, out=rounded)
        np.clip(rounded, -127, 127, out=rounded)  # 1/scale was rounded, too
        np.copyto(codes.view(np.int8), rounded, casting="unsafe")
        return
    squares = np.einsum("ijk,ijk->i", x, x)
    twice = largest * largest > (DOMINATES**2 / BLOCK) * squares
    r = rotation.forth(x, block, twice, encoding.rows).reshape(count, -1)
    codes[:, : r.shape[1] // 8] = np.packbits(np.signbit(r), axis=1)
    r = np.abs(r)
    along = r.sum(axis=1)  # <q, 32 r>
    if encoding.name == "2bit":
        far = r > (LEVEL * np.sqrt(squares))[:, None]  # sqrt(squares) is 32 r's deviation
        codes[:, _SIGN_BYTES:] = np.packbits(far, axis=1)
        along += 2 * np.einsum("ij,ij->i", r, far)
    # So that <scale q, r> = |r|^2, which is |x|^2: unbiased along x.
    np.divide(SIDE * squares, along, out=scales, where=along != 0)
    scales[along == 0] = 0
    np.negative(scales, out=scales, where=twice)


class Decoder:
    """An encoded update as the numbers that it stands for.

    ``read(start, into)`` copies bytes of the encoded buffer, from ``start`` on until ``into`` is
    full. Decoded on any machine, and in any pieces, it is the same to the last bit.
    """

    def __init__(
        self,
        layout: Layout,
        encoding: str,
        transfer: str,
        read: Callable[[int, memoryview], None],
    ) -> None:
        self._plan = Plan(layout, encoding)
        self._read = read
        self._rotation = Rotation(transfer)

    def sum_of_squares(self) -> float:
        """That of the trainable tensors, as they are decoded.

        Raises:
            Rejected: ``not-finite``, for scales or statistics that are no numbers, or absurd.
        """
        for run, _start, piece in self._raw_pieces():
            if not np.isfinite(piece.view(run.dtype)).all():
                raise Rejected("not-finite", "the statistics hold NaN or infinite values")
        total = 0.0
        for part in self._plan.parts:
            for first, count in part.groups():
                scales = self._scales(part.block + first, count)
                if not self._are_scales(scales):
                    raise Rejected("not-finite", "the delta has a scale that is no scale")
                squares = np.square(scales, dtype=np.float64) * self._energy(part, first, count)
                is_last = first + count == part.blocks and part.count % BLOCK != 0
                total += float(squares[: count - is_last].sum())
            if part.count % BLOCK:
                total += self._of_last(part)
        return total

    def _are_scales(self, scales: Floats) -> bool:
        least = -MAX_SCALE if self._plan.encoding.is_rotated else 0.0
        return bool(((scales >= least) & (scales <= MAX_SCALE)).all())

    def _raw_pieces(self) -> Iterator[tuple[Run, int, Buffer]]:
        """(run, first byte in the model, bytes) of what is not encoded."""
        for run, at in self._plan.raw:
            for start in range(run.start, run.stop, TOGETHER * BLOCK):
                piece = np.empty(min(TOGETHER * BLOCK, run.stop - start), np.uint8)
                self._read(at + start - run.start, bytes_of(piece))
                yield run, start, piece

    def _energy(self, part: _Part, first: int, count: int) -> npt.NDArray[np.float64] | float:
        """Sum of the squared codes of each block."""
        encoding = self._plan.encoding
        if encoding.name == "int8":
            q = self._read_codes(part.block + first, count).view(np.int8)
            energy: npt.NDArray[np.float64] = np.einsum("ij,ij->i", q, q, dtype=np.float64)
            return energy
        if encoding.name == "2bit":
            far = self._read_codes(part.block + first, count)[:, _SIGN_BYTES:]
            ones: npt.NDArray[np.int64] = _POPULATION[far].sum(axis=1)
            return (BLOCK + 8 * ones).astype(np.float64)
        return float(SIDE * encoding.rows)

    def _of_last(self, part: _Part) -> float:
        """Squares of the last block without the zeros that it was filled up with."""
        block = self._decode(part, part.blocks - 1, 1)
        values = block.reshape(-1)[: part.count % BLOCK].astype(np.float64)
        return float(values @ values)

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """The update in pieces of (byte offset in the model, bytes), each good until the next."""
        for _run, start, piece in self._raw_pieces():
            yield start, bytes_of(piece)
        for part in self._plan.parts:
            width = np.dtype(part.run.dtype).itemsize
            for first, count in part.groups():
                here = min(count * BLOCK, part.count - first * BLOCK)
                values = self._decode(part, first, count).reshape(-1)[:here]
                if part.run.dtype != "float32":
                    values = values.astype(part.run.dtype)
                yield part.run.start + width * first * BLOCK, bytes_of(values.view(np.uint8))

    def read(self, start: int, into: memoryview) -> None:
        """Copy decoded bytes from byte ``start`` of the model until ``into`` is full."""
        stop = start + len(into)
        for run, at in self._plan.raw:
            low, high = max(start, run.start), min(stop, run.stop)
            if low < high:
                self._read(at + low - run.start, into[low - start : high - start])
        for part in self._plan.parts:
            self._read_part(part, start, stop, into)

    def _read_part(self, part: _Part, start: int, stop: int, into: memoryview) -> None:
        width = np.dtype(part.run.dtype).itemsize
        low, high = max(start, part.run.start), min(stop, part.run.stop)
        at = low
        while at < high:
            first = (at - part.run.start) // (width * BLOCK)
            count = min(TOGETHER, part.blocks - first)
            begin = part.run.start + first * width * BLOCK
            values = self._decode(part, first, count).reshape(-1).astype(part.run.dtype, copy=False)
            end = min(high, begin + count * width * BLOCK)
            found = bytes_of(values.view(np.uint8))[at - begin : end - begin]
            into[at - start : end - start] = found
            at = end

    def _scales(self, block: int, count: int) -> Floats:
        found = np.empty(count, np.float32)
        self._read(self._plan.scales + 4 * block, bytes_of(found.view(np.uint8)))
        return found

    def _read_codes(self, block: int, count: int) -> Buffer:
        width = self._plan.encoding.code_bytes
        found = _memory.codes[: count * width]
        self._read(self._plan.codes + block * width, bytes_of(found))
        return found.reshape(count, width)

    def _decode(self, part: _Part, first: int, count: int) -> Floats:
        """``count`` blocks of ``part`` from its ``first`` on, good until the next are asked for."""
        encoding, block = self._plan.encoding, part.block + first
        scales = self._scales(block, count)
        codes = self._read_codes(block, count)
        found = _memory.a[:count]
        if not encoding.is_rotated:
            flat = found.reshape(count, BLOCK)
            np.multiply(codes.view(np.int8), scales[:, None], out=flat)
            return found
        q = _memory.b[:count, : encoding.rows]
        signs = codes[:, : encoding.rows * SIDE // 8]
        np.take(_ONES_OF_BYTE, signs, axis=0, out=q.reshape(*signs.shape, 8), mode="clip")
        if encoding.name == "2bit":
            far = np.unpackbits(codes[:, _SIGN_BYTES:], axis=1).reshape(q.shape)
            q += 2 * far * q
        self._rotation.back(q, np.abs(scales), block, np.signbit(scales), found)
        return found


def decode(layout: Layout, encoding: str, transfer: str, encoded: Buffer) -> Weights:
    """What ``encoded`` stands for, all of it; of RAW the buffer itself."""
    if encoding == RAW:
        return Weights(layout, encoded)

    def read(start: int, into: memoryview) -> None:
        into[:] = bytes_of(encoded)[start : start + len(into)]

    made = Weights.empty(layout)
    for start, data in Decoder(layout, encoding, transfer, read).chunks():
        made.buffer[start : start + len(data)] = np.frombuffer(data, np.uint8)
    return made
