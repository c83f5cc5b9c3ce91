"""Updates in few bits: how far off they are, and that they are the same everywhere."""

import os
import subprocess
import sys
from itertools import pairwise
from math import pi, sqrt

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from warren_shared.errors import Rejected
from warren_shared.tensors.compression import (
    ENCODINGS,
    RAW,
    Decoder,
    Plan,
    decode,
    encode,
    size_bytes,
)
from warren_shared.tensors.layout import Buffer, Layout, Weights

TRANSFER = "ab" * 8
EACH = pytest.mark.parametrize("encoding", ENCODINGS)
# Of the 64 blocks that `golden` makes, decoded: BLAKE3, on any machine.
GOLDEN = {
    "int8": "08865b7511c5358fda0092278185d4713974a12e73e5c1251253ca3e5a0e13c7",
    "2bit": "a5db58aa19691f08696f2cfe64501415311bbf8e0c60fca38bc246064ef938a4",
    "1bit": "b9b7345d05aff56682d1117cb72ddbfb6fdfbfe5dd875a75b9a862d50f7cc2ce",
    "0.25bit": "66be0d53015534a28f195e11802705afcad5600c068f989593f9f5c5acf6e660",
}
ON_ANOTHER_KERNEL = """
from tests.unit.shared.tensors.test_compression import ENCODINGS, golden
print(*(golden(encoding) for encoding in ENCODINGS))
"""


def weights(*arrays: np.ndarray, statistics: int = 0) -> Weights:
    roles = ["trainable"] * (len(arrays) - statistics) + ["statistic"] * statistics
    packed = Weights.of(arrays)
    return Weights(Layout.of(packed, roles=roles), packed.buffer)


def decoder(encoded: Buffer, layout: Layout, encoding: str, transfer: str = TRANSFER) -> Decoder:
    def read(start: int, into: memoryview) -> None:
        into[:] = memoryview(encoded)[start : start + len(into)]

    return Decoder(layout, encoding, transfer, read)


def normal(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def golden(encoding: str) -> str:
    """Of codes and scales that are drawn: to encode is not the same everywhere."""
    layout = Layout.of([np.empty(64 * 1024 - 7, np.float32), np.empty(1025, np.float64)])
    plan, draw = Plan(layout, encoding), np.random.Generator(np.random.PCG64(7))
    encoded = np.frombuffer(bytearray(draw.bytes(plan.size_bytes)), np.uint8)
    scales = np.exp2(draw.integers(-20, 3, plan.blocks)) * (1 + draw.random(plan.blocks))
    if plan.encoding.is_rotated:
        scales *= np.where(draw.random(plan.blocks) < 0.1, -1, 1)  # rotated twice
    encoded[plan.scales : plan.codes].view(np.float32)[:] = scales
    return blake3(memoryview(decode(layout, encoding, TRANSFER, encoded).buffer)).hexdigest()


@pytest.mark.parametrize(
    ("encoding", "error", "within"),
    [("1bit", pi / 2 - 1, 1e-3), ("2bit", 0.134, 1e-3), ("0.25bit", 4 * pi / 2 - 1, 0.1),
     ("int8", 0.0, 1e-4)],
)  # fmt: skip
def test_the_error_is_what_theory_says(encoding: str, error: float, within: float) -> None:
    """In squares of the update's norm, for values as a rotation makes them."""
    sent = weights(normal(1 << 22))
    found = decode(sent.layout, encoding, TRANSFER, encode(sent, encoding, TRANSFER))
    off = np.square(found[0] - sent[0], dtype=np.float64).sum()
    assert abs(off / np.square(sent[0], dtype=np.float64).sum() - error) < within


def giant() -> np.ndarray:
    values = normal(1024) / 100
    values[5] = 1
    return values


UPDATES = {
    "normal": normal(1024),
    "uneven": normal(1024) * np.exp(normal(1024, 1)),
    "dominated": giant(),
    "sparse": np.where(np.arange(1024) % 400 == 5, normal(1024), 0),
}


@pytest.mark.parametrize("kind", UPDATES)
@EACH
def test_the_mean_of_many_is_the_update_itself(encoding: str, kind: str) -> None:
    """Each under an id of its own: what one is off, others make up for."""
    values = UPDATES[kind].astype(np.float32)
    sent, times = weights(values), 1000
    total = np.zeros(1024)
    squares = np.zeros(1024)
    for number in range(times):
        transfer = f"{number:016x}"
        found = decode(sent.layout, encoding, transfer, encode(sent, encoding, transfer))[0]
        total += found
        squares += np.square(found, dtype=np.float64)
    mean = total / times
    if encoding == "int8":  # rounded, and always alike
        assert np.abs(mean - values).max() <= np.abs(values).max() / 254 * 1.0001
        return
    deviation = np.sqrt((squares / times - mean**2) / times)
    # Of a thousand and twenty-four values four and a half deviations are rare for one.
    assert np.abs((mean - values) / deviation).max() < 4.5
    along = (mean @ values) / (values @ values)
    assert abs(along - 1) < 1e-5, "each is unbiased along the update"


@EACH
def test_what_is_decoded_is_the_same_on_every_kernel(encoding: str) -> None:
    assert golden(encoding) == GOLDEN[encoding]


@pytest.mark.parametrize("kernel", ["Nehalem", "Haswell", "SkylakeX"])
def test_another_kernel_of_the_linear_algebra_decodes_the_same(kernel: str) -> None:
    environment = os.environ | {"OPENBLAS_CORETYPE": kernel}
    told = subprocess.check_output([sys.executable, "-c", ON_ANOTHER_KERNEL], env=environment)
    assert told.decode().split() == list(GOLDEN.values())


ARRAYS = st.lists(
    st.tuples(st.integers(0, 3000), st.sampled_from(["float32", "float64"]), st.booleans()),
    min_size=1, max_size=5,
)  # fmt: skip


@EACH
@given(tensors=ARRAYS, seed=st.integers(0, 99))
def test_any_layout_goes_there_and_back(
    encoding: str, tensors: list[tuple[int, str, bool]], seed: int
) -> None:
    arrays = [normal(size, seed).astype(dtype) for size, dtype, _ in tensors]
    packed = Weights.of(arrays)
    roles = ["statistic" if is_statistic else "trainable" for _, _, is_statistic in tensors]
    sent = Weights(Layout.of(packed, roles=roles), packed.buffer)
    encoded = encode(sent, encoding, TRANSFER)
    assert encoded.nbytes == size_bytes(sent.layout, encoding)
    found = decode(sent.layout, encoding, TRANSFER, encoded)
    squares = 0.0
    for role, ours, theirs in zip(roles, sent, found, strict=True):
        if role == "statistic":
            np.testing.assert_array_equal(ours, theirs)
        else:
            squares += float(np.square(theirs, dtype=np.float64).sum())
    told = decoder(encoded, sent.layout, encoding).sum_of_squares()
    # Padding between tensors is encoded with them, and may have come out as something else.
    assert told >= squares * (1 - 1e-6)
    trainable = sum(a.nbytes for a, role in zip(arrays, roles, strict=True) if role == "trainable")
    if trainable == sum(
        run.stop - run.start for run in sent.layout.runs if run.role != "statistic"
    ):
        assert told == pytest.approx(squares, rel=1e-6)


@EACH
def test_it_is_read_in_any_pieces(encoding: str) -> None:
    sent = weights(normal(70_000), normal(513).astype(np.float64), normal(6), statistics=1)
    encoded = encode(sent, encoding, TRANSFER)
    whole = decode(sent.layout, encoding, TRANSFER, encoded).buffer
    found, reader = np.empty_like(whole), decoder(encoded, sent.layout, encoding)
    ends = [0, 1, 4095, 4096, 262_145, 280_003, len(whole) - 5, len(whole)]
    for start, stop in reversed([*pairwise(ends)]):
        reader.read(start, memoryview(found)[start:stop])
    np.testing.assert_array_equal(found, whole)


@EACH
def test_nothing_becomes_nothing(encoding: str) -> None:
    sent = weights(np.zeros(1500, np.float32))
    assert not decode(sent.layout, encoding, TRANSFER, encode(sent, encoding, TRANSFER))[0].any()


@EACH
def test_its_bytes_are_as_few_as_its_name_says(encoding: str) -> None:
    layout = Layout.of([np.empty(1 << 20, np.float32)])
    bits = {"int8": 8, "2bit": 2, "1bit": 1, "0.25bit": 0.25}[encoding]
    assert 8 * size_bytes(layout, encoding) / (1 << 20) == bits + 32 / 1024
    assert size_bytes(layout, RAW) == layout.size_bytes


@EACH
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, 1e30, -1e30])
def test_a_scale_that_is_none_is_refused(encoding: str, scale: float) -> None:
    sent = weights(normal(70_000))
    encoded, plan = encode(sent, encoding, TRANSFER), Plan(sent.layout, encoding)
    encoded[plan.scales : plan.codes].view(np.float32)[-1] = scale
    with pytest.raises(Rejected, match="scale") as refused:
        decoder(encoded, sent.layout, encoding).sum_of_squares()
    assert refused.value.reason == "not-finite"


@EACH
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e25])
def test_an_update_that_is_no_number_is_refused_by_whoever_reads_it(
    encoding: str, value: float
) -> None:
    values = normal(3000)
    values[2000] = value
    sent = weights(values)
    with pytest.raises(Rejected):
        decoder(encode(sent, encoding, TRANSFER), sent.layout, encoding).sum_of_squares()


@EACH
def test_statistics_that_are_no_numbers_are_refused(encoding: str) -> None:
    sent = weights(normal(10), np.array([1, np.nan], np.float32), statistics=1)
    with pytest.raises(Rejected, match="statistics"):
        decoder(encode(sent, encoding, TRANSFER), sent.layout, encoding).sum_of_squares()


def test_updates_that_are_alike_do_not_share_their_errors() -> None:
    """Their mean is nearer than one of them by as much as there are."""
    sent, times = weights(normal(1 << 16)), 16
    total = np.zeros(1 << 16)
    for number in range(times):
        transfer = f"{number:016x}"
        total += decode(sent.layout, "1bit", transfer, encode(sent, "1bit", transfer))[0]
    off = np.linalg.norm(total / times - sent[0]) / np.linalg.norm(sent[0])
    assert off == pytest.approx(sqrt((pi / 2 - 1) / times), rel=0.05)
