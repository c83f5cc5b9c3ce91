"""Bytes that an enrolled client may send and that no library of ours would make."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pika import data as fields


class Raw(bytes):
    """A header's value, encoded already."""


TIMESTAMP: Final = Raw(b"T" + struct.pack(">Q", 2**63))  # out of range


def nested(depth: int) -> Raw:
    """Tables in tables."""
    value = b""
    for _ in range(depth):
        value = b"\x01aF" + struct.pack(">I", len(value)) + value
    return Raw(b"F" + struct.pack(">I", len(value)) + value)


def deep(depth: int) -> object:
    """Lists in lists."""
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


@contextmanager
def raw_headers() -> Iterator[None]:
    """Meanwhile pika sends each Raw as it is; within another such block nothing changes."""
    encode = fields.encode_value
    if getattr(encode, "sends_raw", False):
        yield
        return

    def raw(pieces: list[bytes], value: object) -> int:
        if isinstance(value, Raw):
            pieces.append(bytes(value))
            return len(value)
        return int(encode(pieces, value))

    raw.sends_raw = True  # type: ignore[attr-defined]
    fields.encode_value = raw
    try:
        yield
    finally:
        fields.encode_value = encode
