"""A new global model as the change from the one before it, in few bits.

Trainable tensors move by what `warren_shared.tensors.compression` decodes; statistics are replaced.
Whoever has the old model and the code has the new one, the same to the last bit: what is added is
decoded exactly, and each value is added once.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from blake3 import blake3

from warren_shared.errors import Rejected
from warren_shared.tensors.compression import ENCODINGS, Decoder, encode
from warren_shared.tensors.layout import TRAINABLE, Buffer, Weights, bytes_of

# What an encoding of the downlink loses is sent with the next version, so it must lose less than
# all: of 0.25bit the error is five times the change itself.
DOWNLINKS: Final = tuple(name for name in ENCODINGS if name != "0.25bit")


@dataclass(frozen=True, eq=False)
class ModelChange:
    """``code`` in ``encoding``: what a model moved by; ``transfer`` keys its rotation."""

    encoding: str
    transfer: str
    code: Buffer

    def store(self, start: int, data: memoryview) -> None:
        """Put a piece of the code in its place."""
        self.code[start : start + len(data)] = data


def change_id(run: str, version: int) -> str:
    """The transfer's id of the change that leads to ``version`` of ``run``.

    It is no random one, so that a round that is computed again gives the same model.
    """
    return blake3(f"warren: change to {run} {version}".encode()).hexdigest(length=8)


def encoded_change(
    old: Weights, new: Weights, encoding: str, transfer: str, into: Weights | None = None
) -> tuple[ModelChange, Weights]:
    """The change from ``old`` to ``new`` in ``encoding``, and the model that it leads to.

    Args:
        old: The model that everybody has.
        new: What it should become; it has the same layout.
        encoding: One of DOWNLINKS.
        transfer: An id that no other change has.
        into: Memory for the result, which may be anything else's that is no longer needed.

    Returns:
        The change, and ``old`` moved by it: near ``new``, and equal to it in the statistics.

    Raises:
        Rejected: ``not-finite``, if the change is too large for the encoding.
    """
    made = into if into is not None else Weights.uninitialized(old.layout)
    for run in old.layout.runs:
        before, after, change = (
            weights.buffer[run.start : run.stop].view(run.dtype) for weights in (old, new, made)
        )
        if run.role == TRAINABLE:
            with np.errstate(over="ignore", invalid="ignore"):
                np.subtract(after, before, out=change)
        else:
            np.copyto(change, after)
    found = ModelChange(encoding, transfer, encode(made, encoding, transfer))
    move(old, found, made)
    return found, made


def move(old: Weights, change: ModelChange, into: Weights) -> None:
    """Write ``old`` moved by ``change`` to ``into``, whatever that holds.

    Raises:
        Rejected: ``not-finite``, for scales or statistics that are no numbers, or absurd.
    """

    def read(start: int, into: memoryview) -> None:
        into[:] = bytes_of(change.code)[start : start + len(into)]

    decoder = Decoder(old.layout, change.encoding, change.transfer, read)
    if not np.isfinite(decoder.sum_of_squares()):
        raise Rejected("not-finite", "the change of the model is not finite")
    into.buffer[:] = old.buffer
    runs = old.layout.runs
    number = 0
    for start, data in decoder.chunks():
        piece = np.frombuffer(data, np.uint8)
        # Pieces of one run follow each other, but those of statistics come first.
        if not runs[number].start <= start < runs[number].stop:
            number = next(n for n, run in enumerate(runs) if run.start <= start < run.stop)
        run = runs[number]
        target = into.buffer[start : start + len(piece)].view(run.dtype)
        if run.role == TRAINABLE:
            np.add(target, piece.view(run.dtype), out=target)
        else:
            np.copyto(target, piece.view(run.dtype))
    into.clear_padding()  # codes of a block fill it, and no file of the model would have it
