"""AMQP 0-9-1 frames as bytes: only those that `raw_amqp` sends."""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

Piece = bytes | memoryview

FRAME_MAX: Final = 131072  # what the broker offers; larger ones make consuming slower (FACTS)
MAX_PAYLOAD: Final = FRAME_MAX - 8
HEAD: Final = struct.Struct(">BHI")  # type, channel, payload size; a frame ends in END
END: Final = b"\xce"

# Answers to what was asked, and what may come unasked without anything to do about it
# (connection.blocked and unblocked).
IDLE_METHODS: Final = frozenset(
    {(10, 10), (10, 30), (10, 41), (10, 60), (10, 61), (20, 11), (60, 11), (60, 21), (85, 11)}
)


def short_text(text: str) -> bytes:
    """A string of at most 255 bytes."""
    raw = text.encode()
    return bytes([len(raw)]) + raw


def long_text(raw: bytes) -> bytes:
    """A string of any length."""
    return len(raw).to_bytes(4, "big") + raw


def field_table(fields: dict[str, str]) -> bytes:
    """A table of strings."""
    return long_text(
        b"".join(short_text(name) + b"S" + long_text(v.encode()) for name, v in fields.items())
    )


def method_frame(channel: int, group: int, number: int, arguments: bytes) -> bytes:
    """The frame of method ``number`` of class ``group``."""
    payload = struct.pack(">HH", group, number) + arguments
    return HEAD.pack(1, channel, len(payload)) + payload + END


def consume_frame(channel: int, queue: str, *, ack: bool, exclusive: bool) -> bytes:
    """basic.consume of ``queue``."""
    bits = (0 if ack else 2) | (4 if exclusive else 0)
    text = short_text(queue) + short_text(queue)
    return method_frame(channel, 60, 20, b"\x00\x00" + text + bytes([bits]) + field_table({}))


def properties(*, persistent: bool, kind: str = "", user: str = "") -> bytes:
    """Flags and values of a message's properties: delivery mode, type and user id."""
    flags = 1 << 12 | (1 << 5 if kind else 0) | (1 << 4 if user else 0)
    values = b"\x02" if persistent else b"\x01"
    values += short_text(kind) if kind else b""
    values += short_text(user) if user else b""
    return flags.to_bytes(2, "big") + values


def message(
    channel: int, exchange: str, routing_key: str, told: bytes, body: Sequence[Piece]
) -> Iterator[Piece]:
    """All of basic.publish: method, header with the properties ``told``, and ``body``'s frames.

    The pieces of ``body`` are not copied, and must stay as they are until they are sent.
    """
    size = sum(map(len, body))
    target = b"\x00\x00" + short_text(exchange) + short_text(routing_key) + b"\x00"
    gap = method_frame(channel, 60, 40, target)
    header = struct.pack(">HHQ", 60, 0, size) + told
    gap += HEAD.pack(2, channel, len(header)) + header + END
    at = 0
    for piece in body:
        view = memoryview(piece)
        while view:
            if at % MAX_PAYLOAD == 0:
                gap += HEAD.pack(3, channel, min(MAX_PAYLOAD, size - at))
            taken = view[: MAX_PAYLOAD - at % MAX_PAYLOAD]
            if gap:
                yield gap
            yield taken
            view = view[len(taken) :]
            at += len(taken)
            gap = END if at % MAX_PAYLOAD == 0 or at == size else b""
    yield gap


def frame_sizes(size: int) -> Iterator[int]:
    """How ``size`` bytes of a body are cut into frames."""
    while size > 0:
        yield min(size, MAX_PAYLOAD)
        size -= MAX_PAYLOAD
