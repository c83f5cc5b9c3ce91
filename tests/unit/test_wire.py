"""The decoder: what was encoded comes back, everything else is Rejected and nothing worse."""

import tracemalloc

import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker_config.names import CHUNK_BYTES
from shared.errors import Rejected
from shared.layout import Layout
from shared.messages import (
    Chunk,
    InitialManifest,
    Join,
    Message,
    ModelManifest,
    Notice,
    TensorEntry,
    UpdateManifest,
)
from shared.wire import decode, encode, layout_of, tensor_entries

ENTRY = TensorEntry(name="kernel", shape=[2, 3], dtype="float32")
ANNOUNCED = {"transfer": "ab" * 8, "size_bytes": 24, "crc32": 7}
MESSAGES: list[Message] = [
    ModelManifest(
        federation="f", run="ab" * 4, version=3, tensors=[ENTRY], config={"seed": 1, "x": "y"},
        final=True, **ANNOUNCED,
    ),
    UpdateManifest(
        federation="f", run="ab" * 4, client="alfa", base_version=2, num_examples=5,
        layout="cd" * 8, metrics={"loss": 0.5}, **ANNOUNCED,
    ),
    InitialManifest(federation="f", client="phone.7", tensors=[ENTRY], **ANNOUNCED),
    Chunk(transfer="ab" * 8, index=4),
    Join(federation="f", client="alfa"),
    Notice(notice="rejected", reason="stale", detail="too old", base_version=1),
]  # fmt: skip
HEADER = MESSAGES[1].model_dump()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.kind)
@given(data=st.binary(max_size=300))
def test_what_was_encoded_comes_back(message: Message, data: bytes) -> None:
    found, came = decode(encode(message, data))
    assert found == message
    assert came == data


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.kind)
def test_data_lies_where_numpy_can_add_it_without_moving_it(message: Message) -> None:
    _, data = decode(encode(message, b"x" * 64))
    assert np.frombuffer(data, np.uint8).ctypes.data % 16 == 0


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
@example(b"\x81\xc0\xc0")
@example(b"\x91" * 5000)
@example(b"\xdf\xff\xff\xff\xff")
@example(msgpack.packb({"a": msgpack.ExtType(5, b"x")}))
def test_arbitrary_bytes_are_rejected_and_nothing_worse(body: bytes) -> None:
    with pytest.raises(Rejected):
        decode(body)


@given(st.sampled_from(MESSAGES), st.integers(0, 400), st.integers(0, 255), st.binary(max_size=40))
def test_a_damaged_body_is_rejected_or_still_a_message(
    message: Message, place: int, value: int, data: bytes
) -> None:
    body = bytearray(encode(message, data))
    body[place % len(body)] = value
    try:
        found, _ = decode(bytes(body))
    except Rejected:
        return
    assert isinstance(found, Message)


@given(st.sampled_from(MESSAGES), st.data())
def test_a_body_cut_short_is_rejected_unless_the_cut_leaves_a_whole_header(
    message: Message, draw: st.DataObject
) -> None:
    header, body = len(encode(message)), encode(message, b"some data")
    cut = draw.draw(st.integers(0, header - 1) | st.integers(len(body) - 9, len(body) - 1))
    with pytest.raises(Rejected, match="malformed"):
        decode(body[:cut])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"protocol": 2}, "protocol: speaks protocol 2"),
        ({"protocol": None}, "protocol"),
        ({"kind": "order"}, "malformed"),
        ({"surprise": 1}, "surprise"),
        ({"num_examples": 0}, "num_examples"),
        ({"num_examples": 2**41}, "num_examples"),
        ({"num_examples": 5.0}, "num_examples"),
        ({"num_examples": True}, "num_examples"),
        ({"base_version": -1}, "base_version"),
        ({"client": "Alfa"}, "client"),
        ({"client": "alfa.1.2"}, "client"),
        ({"size_bytes": 2**60}, "size_bytes"),
        ({"size_bytes": 0}, "size_bytes"),
        ({"metrics": {"loss": "low"}}, "metrics"),
        ({"metrics": {f"m{n}": 0.0 for n in range(65)}}, "metrics"),
    ],
)
def test_a_header_that_claims_nonsense_is_rejected(change: dict, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        decode(msgpack.packb(HEADER | change))


def test_a_huge_announcement_takes_no_memory() -> None:
    entries = [TensorEntry(name="x", shape=[2**40, 2**40], dtype="float64")]
    tracemalloc.start()
    for body in (
        msgpack.packb(HEADER | {"size_bytes": 2**60}),
        encode(MESSAGES[3]) + b"\xc6\xff\xff\xff\xff" + b"x" * 10,
        b"\xdd\xff\xff\xff\xff" + b"\xc0" * 100,
    ):
        with pytest.raises(Rejected):
            decode(body)
    with pytest.raises(Rejected, match="layout"):
        layout_of(entries, 2**40)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_a_bin_larger_than_a_chunk_is_rejected() -> None:
    with pytest.raises(Rejected, match="malformed"):
        decode(encode(MESSAGES[3], bytes(CHUNK_BYTES + 1)))


def test_a_layout_travels_in_a_manifest() -> None:
    layout = Layout.of([np.zeros((2, 3), np.float32), np.zeros(())], ["kernel", "bias"])
    assert layout_of(tensor_entries(layout), layout.size_bytes) == layout
