"""The bytes of the socket, as a broker passes on what a client published: frames of a delivery.

The broker lets a client choose the properties of its message, their headers, and the body; it has
checked the user. Of all that the coordinator sees what its connection makes of it, so hostile input
begins here and not behind it.
"""

from typing import Any, Final

import pika
from pika import frame, spec
from pika.channel import Channel

from tests.fuzz.instructions import Instructions
from warren_shared.amqp.delivery import Delivery
from warren_shared.amqp.properties import delivery
from warren_shared.amqp.zero_copy import Connection

MAX_BODY: Final = 131072 - 8
_CONSUMER: Final = "coordinator"
_USER_ID_BIT: Final = 1 << 4
_HEADERS_BIT: Final = 1 << 13


class Wire:
    """Our end of a connection whose socket we are; ``deliver`` says what comes out of it."""

    def __init__(self) -> None:
        self._connection = Connection(on_open_callback=print, internal_connection_workflow=False)
        self._connection.params.frame_max = MAX_BODY + 8
        self._came: list[tuple[Any, Any, memoryview]] = []
        self._channel = Channel(self._connection, 1, print)
        self._channel._consumers[_CONSUMER] = lambda _channel, *told: self._came.append(told)
        self._connection._channels[1] = self._channel
        self._channel._set_state(Channel.OPEN)

    def deliver(
        self, body: bytes, tag: int, properties: bytes, cut: int = 0, *, redelivered: bool = False
    ) -> Delivery:
        """One message with ``properties`` as they travel, in two reads cut at ``cut``."""
        method = spec.Basic.Deliver(_CONSUMER, tag, redelivered, "update", "update")
        header = (60).to_bytes(2, "big") + bytes(2) + len(body).to_bytes(8, "big") + properties
        data = frame.Method(1, method).marshal() + _framed(spec.FRAME_HEADER, header)
        for start in range(0, len(body), MAX_BODY):
            data += _framed(spec.FRAME_BODY, body[start : start + MAX_BODY])
        cut %= len(data)
        for part in (data[:cut], data[cut:]):
            if part:
                self._connection._on_data_available(part)
        ((method, said, kept),) = self._came
        self._came.clear()
        return delivery(1, method, said, memoryview(kept))


def _framed(kind: int, payload: bytes) -> bytes:
    head = bytes([kind]) + (1).to_bytes(2, "big") + len(payload).to_bytes(4, "big")
    return head + payload + bytes([spec.FRAME_END])


def honest(user: str | None) -> bytes:
    """Properties of a client that says no more than whose it is."""
    said = pika.BasicProperties(user_id=user, headers={"protocol": 3})
    return b"".join(said.encode())


def hostile(told: Instructions, user: str | None) -> bytes:
    """Properties of which everything but ``user`` is the sender's to choose."""
    owner = user.encode() if user is not None else b""
    named = bytes([len(owner)]) + owner if user is not None else b""
    flags = _USER_ID_BIT if user is not None else 0
    match told.below(4):
        case 0:  # a table of headers, of any bytes
            table = told.bytes(told.below(60))
            return _flags(flags | _HEADERS_BIT) + len(table).to_bytes(4, "big") + table + named
        case 1:  # tables in tables
            table = b""
            for _ in range(told.below(256) * (1 + 8 * told.below(2))):
                table = b"\x01aF" + len(table).to_bytes(4, "big") + table
            return _flags(flags | _HEADERS_BIT) + len(table).to_bytes(4, "big") + table + named
        case 2:  # a time that is none
            moment = told.bytes(8).ljust(8, b"\xff")
            return _flags(flags | 1 << 6) + moment + named
        case _:
            return _any(told, flags, named)


def _any(told: Instructions, flags: int, named: bytes) -> bytes:
    """Short texts, each of any bytes, in their places."""
    found = b""
    for bit in (15, 14, 10, 9, 8, 7, 5, 4, 3):
        if bit == 4:
            found += named
        elif told.below(3) == 0:
            text = told.bytes(told.below(20))
            found += bytes([len(text)]) + text
            flags |= 1 << bit
    return _flags(flags) + found


def _flags(flags: int) -> bytes:
    return flags.to_bytes(2, "big")
