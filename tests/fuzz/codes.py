"""The bytes of an encoded update: refused, or finite numbers whose norm was known before.

Those of a model's change too: refused, or the old model and what was decoded, added once.
"""

from typing import Final

import numpy as np

from tests.fuzz.instructions import Instructions
from warren_shared.errors import Rejected
from warren_shared.tensors.compression import ENCODINGS, Decoder, size_bytes
from warren_shared.tensors.layout import STATISTIC, TRAINABLE, Layout, Tensor, Weights
from warren_shared.tensors.model_change import ModelChange, move

NAMES: Final = tuple(ENCODINGS)
SIZES: Final = (1, 7, 1023, 1024, 1025, 2049)


def run(data: bytes) -> None:
    """Decode what ``data`` says, in a layout that it says too; raises nothing."""
    told = Instructions(data)
    encoding = NAMES[told.below(len(NAMES))]
    layout = Layout(
        tuple(
            Tensor(
                str(number),
                (SIZES[told.below(len(SIZES))],),
                ("float32", "float64")[told.below(2)],
                (TRAINABLE, TRAINABLE, STATISTIC)[told.below(3)],
            )
            for number in range(1 + told.below(3))
        )
    )
    transfer = told.bytes(8).ljust(8, b"0").hex()
    encoded = np.zeros(size_bytes(layout, encoding), np.uint8)
    given = np.frombuffer(told.rest(), np.uint8)[: encoded.size]
    encoded[: given.size] = given

    def read(start: int, into: memoryview) -> None:
        assert 0 <= start <= start + len(into) <= encoded.size, "beyond what was sent"
        into[:] = memoryview(encoded)[start : start + len(into)]

    decoder = Decoder(layout, encoding, transfer, read)
    try:
        squares = decoder.sum_of_squares()
    except Rejected:
        squares = None
    old, moved = Weights.empty(layout), Weights(layout, np.full(layout.size_bytes, 255, np.uint8))
    for array in old:
        array[...] = 1.0
    try:
        move(old, ModelChange(encoding, transfer, encoded), moved)
    except Rejected:
        assert squares is None
        return
    assert squares is not None
    found = np.full(layout.size_bytes, 255, np.uint8)
    filled = 0
    for start, piece in decoder.chunks():
        found[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
    assert filled == layout.size_bytes
    told = Weights(layout, found.copy())
    told.clear_padding()  # which codes of a block fill, and no model has
    total = 0.0
    for run_ in layout.runs:
        values = found[run_.start : run_.stop].view(run_.dtype).astype(np.float64)
        assert np.isfinite(values).all()
        now = moved.buffer[run_.start : run_.stop].view(run_.dtype)
        before = old.buffer[run_.start : run_.stop].view(run_.dtype)
        given_values = told.buffer[run_.start : run_.stop].view(run_.dtype)
        if run_.role == TRAINABLE:
            total += float(values @ values)
            np.testing.assert_array_equal(now, before + given_values)
        else:
            np.testing.assert_array_equal(now, given_values)
    assert abs(total - squares) <= 1e-5 * max(total, squares) + 1e-30, (total, squares)
    again = np.empty_like(found)
    middle = layout.size_bytes // 3
    decoder.read(middle, memoryview(again)[middle:])
    decoder.read(0, memoryview(again)[:middle])
    np.testing.assert_array_equal(again, found)
