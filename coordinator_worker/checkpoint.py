"""The checkpoint: one file, replaced atomically, that holds the whole State.

A line of magic, length and XXH3 of a msgpack header, the header, then the weights as they lie in
memory. Written to a temporary file, flushed to the disk, renamed over the old one, and the
rename flushed too: a crash at any point leaves the old or the new checkpoint, never half of one.
"""

import os
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
from xxhash import xxh3_64

from coordinator_worker.state import State
from shared.chunks import digest
from shared.errors import ConfigError
from shared.layout import Layout, Tensor, Weights, bytes_of

MAGIC: Final = b"warren checkpoint 2\n"
NAME: Final = "current.checkpoint"


def save(folder: Path, state: State) -> None:
    """Replace the checkpoint in ``folder``; when this returns it survives a power cut."""
    header = msgpack.packb(
        {
            "federation": state.federation,
            "run": state.run,
            "version": state.version,
            "tensors": [[t.name, list(t.shape), t.dtype] for t in state.weights.layout.tensors],
            "applied": {client: sorted(bases) for client, bases in state.applied.items()},
            "history": list(state.history),
            "digest": digest(state.weights.buffer),
        }
    )
    temporary = folder / f"{NAME}.tmp"
    with temporary.open("wb") as file:
        file.write(MAGIC + len(header).to_bytes(8, "big") + xxh3_64(header).digest())
        file.write(header)
        file.write(bytes_of(state.weights.buffer))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load(folder: Path) -> State | None:
    """The state in ``folder``, or None if it holds no checkpoint.

    Raises ConfigError if the file is not a whole checkpoint of this format.
    """
    path = folder / NAME
    try:
        content = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        return None
    try:
        return _parse(content)
    except (ValueError, KeyError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise ConfigError(
            f"{path} is not a whole checkpoint ({error}): restore it, or move it away to begin anew"
        ) from None


def _parse(content: Any) -> State:
    start = len(MAGIC) + 16
    if bytes(content[: len(MAGIC)]) != MAGIC:
        raise ValueError("unknown format")
    end = start + int.from_bytes(bytes(content[len(MAGIC) : start - 8]), "big")
    packed = bytes(content[start:end])
    if xxh3_64(packed).digest() != bytes(content[start - 8 : start]):
        raise ValueError("its header is cut short or damaged")
    header = msgpack.unpackb(packed)
    tensors = tuple(Tensor(name, tuple(shape), dtype) for name, shape, dtype in header["tensors"])
    layout = Layout(tensors)
    buffer = content[end:].copy()  # a fresh allocation, so that every tensor is aligned
    if buffer.nbytes != layout.size_bytes or digest(buffer) != header["digest"]:
        raise ValueError("its weights are cut short or damaged")
    return State(
        federation=header["federation"],
        run=header["run"],
        version=header["version"],
        weights=Weights(layout, buffer),
        applied={client: frozenset(bases) for client, bases in header["applied"].items()},
        history=tuple(header["history"]),
    )
