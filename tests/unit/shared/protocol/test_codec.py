"""The decoder: what was encoded comes back, everything else is Rejected and nothing worse."""

import tracemalloc

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.bodies import encode
from warren_shared.errors import Rejected
from warren_shared.naming import CHUNK_BYTES
from warren_shared.protocol.codec import decode, layout_of, tensor_entries
from warren_shared.protocol.messages import (
    PROTOCOL,
    Chunk,
    InitialManifest,
    Join,
    Message,
    ModelManifest,
    Notice,
    TensorEntry,
    UpdateManifest,
)
from warren_shared.tensors.layout import Layout, Weights

ENTRY = TensorEntry(name="kernel", shape=[2, 3], dtype="float32")
ANNOUNCED = {"transfer": "ab" * 8, "size_bytes": 24, "digest": 7}
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
HEADER = MESSAGES[1].header()


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
        ({"protocol": PROTOCOL + 1}, f"it is of protocol {PROTOCOL + 1}, .* upgrade this side"),
        ({"protocol": None}, "protocol"),
        ({"protocol": 0}, "it is of protocol 0, .* upgrade the sender"),
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


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary(max_size=20) | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.text(max_size=4) | st.binary(max_size=4) | st.integers(0, 9), inner, max_size=4
    ),
)  # fmt: skip


@settings(max_examples=50)
@given(anything, st.sampled_from(sorted(HEADER)))
def test_anything_in_the_place_of_a_field_is_rejected_or_is_of_its_type(
    value: object, field: str
) -> None:
    try:
        found, _ = decode(msgpack.packb(HEADER | {field: value}))
    except Rejected:
        return
    if field != "protocol":  # where True and 1.0 are 1
        assert type(getattr(found, field)) is type(HEADER[field])


@given(anything)
def test_any_other_msgpack_object_is_rejected(value: object) -> None:
    with pytest.raises(Rejected):
        decode(msgpack.packb(value))


@pytest.mark.parametrize(
    "body",
    [
        msgpack.packb(HEADER | {"metrics": {1: 0.5}}),
        msgpack.packb({**HEADER, 7: 7}),
        msgpack.packb({**HEADER, b"": 7}),
        msgpack.packb(HEADER | {"run": msgpack.Timestamp(1)}),
        msgpack.packb(HEADER)[:-1] + b"\x91" * 100_000 + b"\xc0",
        b"\x81\xa1a" * 100_000 + b"\xc0",
        b"\x94" * 5000,
    ],
    ids=["number key", "mixed", "bytes key", "timestamp", "deep tail", "deep map", "deep list"],
)  # fmt: skip
def test_what_msgpack_can_say_beyond_plain_headers_is_rejected(body: bytes) -> None:
    with pytest.raises(Rejected, match=r"malformed|protocol"):
        decode(body)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_metric_that_would_spoil_everybodys_mean_is_rejected(value: float) -> None:
    with pytest.raises(Rejected, match="finite"):
        decode(msgpack.packb(HEADER | {"metrics": {"loss": value}}))


def test_arrays_that_are_announced_and_do_not_come_take_no_memory() -> None:
    tracemalloc.start()
    with pytest.raises(Rejected):
        decode(b"\xdd\x00\xff\xff\xff" * 100)  # 16 million elements, a hundred times nested
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_padding_is_skipped_only_as_far_as_it_can_align() -> None:
    header = encode(MESSAGES[4])
    assert len(decode(header + b"\xc0" * 16)[1]) == 0
    with pytest.raises(Rejected, match="not a bin"):
        decode(header + b"\xc0" * 17)


def test_a_header_of_many_looks_is_read_whole() -> None:
    names = [f"tensor-{number}" for number in range(5000)]
    entries = [TensorEntry(name=name, shape=[1], dtype="float64") for name in names]
    announced = {"transfer": "ab" * 8, "size_bytes": 40_000, "digest": 0}
    sent = InitialManifest(federation="f", client="alfa", tensors=entries, **announced)
    found, data = decode(encode(sent, b"x" * 100))
    assert found == sent
    assert data == b"x" * 100


def test_an_empty_tensor_that_numpy_cannot_make_is_rejected() -> None:
    """It adds no bytes, so only the product of its other sizes tells: numpy refuses that too."""
    few = TensorEntry(name="a", shape=[4], dtype="float32")
    with pytest.raises(Rejected, match="tensor b is too large"):
        layout_of([few, TensorEntry(name="b", shape=[0, 2**40, 2**40], dtype="float32")], 16)


dimensions = st.lists(st.sampled_from([0, 1, 2, 3, 2**20, 2**40]), max_size=6)


entries = st.builds(
    TensorEntry,
    name=st.just("t"),
    shape=dimensions,
    dtype=st.sampled_from(["float32", "float64"]),
)


@given(st.lists(entries, min_size=1, max_size=4))
def test_a_layout_that_is_let_in_can_be_made(entries: list[TensorEntry]) -> None:
    sizes = [int(np.prod([int(d) for d in e.shape], dtype=object)) for e in entries]
    total = sum(
        -(-size * (4 if e.dtype == "float32" else 8) // 8) * 8
        for size, e in zip(sizes, entries, strict=True)
    )
    try:
        layout = layout_of(entries, min(total, 2**40))
    except Rejected:
        return
    if total < 2**16:
        assert [array.shape for array in Weights.empty(layout)] == [tuple(e.shape) for e in entries]


@pytest.mark.parametrize("code", ["x" * 33, "abc\x1b[2J", "über", "A", "a b", "<b>", 7, None])
def test_a_version_of_code_of_another_form_is_rejected(code: object) -> None:
    update = UpdateManifest(
        federation="f", run="0badcafe", client="alfa", base_version=2, num_examples=5,
        layout="feedbeef", code="ab", transfer="0123456789abcdef", size_bytes=24, digest=7,
    )  # fmt: skip
    with pytest.raises(Rejected, match="malformed"):
        decode(msgpack.packb({**update.header(), "code": code}) + bytes(24))
