"""The fast paths against pika's own: the same bytes out, the same messages in."""

import contextlib
import itertools
from types import SimpleNamespace

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec
from pika.channel import Channel

from warren_shared.amqp import zero_copy as ours
from warren_shared.amqp.transports import PlaintextTransport
from warren_shared.amqp.zero_copy import Connection

FRAME = 131072 - 8
PROPERTIES = pika.BasicProperties(user_id="alfa", message_id="7", headers={"reason": "x"})


def unconnected(kind: type[pika.SelectConnection]) -> pika.SelectConnection:
    made = kind(on_open_callback=print, internal_connection_workflow=False)
    made.params.frame_max = 131072
    made._body_max_length = FRAME
    return made


Found = tuple[str, int, str | None, bytes]


def receive(kind: type[pika.SelectConnection], data: bytes, cuts: list[int]) -> list[Found]:
    """What a consumer of ``kind`` is given when ``data`` arrives cut at ``cuts``."""
    found: list[Found] = []
    connection = opened(kind, found)
    ends = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    try:
        for start, stop in itertools.pairwise(ends):
            if start < stop:
                connection._on_data_available(data[start:stop])
    finally:
        connection.ioloop.close()
    return found


def opened(kind: type[pika.SelectConnection], found: list[Found]) -> pika.SelectConnection:
    """A connection with one channel, whose deliveries and returns go to ``found``."""
    connection = unconnected(kind)
    channel = Channel(connection, 1, print)
    channel._consumers["t"] = lambda _channel, method, properties, body: found.append(
        ("deliver", method.delivery_tag, properties.user_id, bytes(body))
    )
    channel.add_on_return_callback(
        lambda _channel, method, properties, body: found.append(
            ("return", method.reply_code, properties.user_id, bytes(body))
        )
    )
    connection._channels[1] = channel
    return connection


class Segments:
    """A socket from which each read gets what is left of one segment at most."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        ends = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
        self.left = [data[a:b] for a, b in itertools.pairwise(ends) if a < b]

    def recv(self, size: int) -> bytes:
        segment = self.left.pop(0)
        if len(segment) > size:
            self.left.insert(0, segment[size:])
        return segment[:size]

    def recvmsg_into(self, places: list[memoryview]) -> tuple[int]:
        data = self.recv(sum(map(len, places)))
        taken = 0
        for place in places:
            piece = data[taken : taken + len(place)]
            place[: len(piece)] = piece
            taken += len(piece)
        return (taken,)


def receive_in_place(data: bytes, cuts: list[int]) -> list[Found]:
    """What a consumer of ours is given when it reads ``data`` from a socket itself."""
    found: list[Found] = []
    connection = opened(Connection, found)
    transport = SimpleNamespace(
        _state=1, _STATE_ACTIVE=1, _sock=Segments(data, cuts), receiver=connection,
        _protocol=SimpleNamespace(data_received=connection._on_data_available),
    )  # fmt: skip
    try:
        while transport._sock.left:
            with contextlib.suppress(IndexError):  # nothing more to read
                PlaintextTransport._consume(transport)
    finally:
        connection.ioloop.close()
    assert connection.bytes_received == len(data)
    return found


def wire(number: int, size: int, frame_size: int) -> bytes:
    """A delivery (a returned message if ``number`` is even) as a broker sends it."""
    method: object = spec.Basic.Deliver("t", number, False, "update", "k")
    if number % 2 == 0:
        method = spec.Basic.Return(312, "NO_ROUTE", "update", "k")
    body = bytes((number + i) % 251 for i in range(size))
    frames = [frame.Method(1, method), frame.Header(1, size, PROPERTIES)]
    frames += [frame.Body(1, body[i : i + frame_size]) for i in range(0, size, frame_size)]
    between = frame.Heartbeat().marshal()
    return b"".join(piece.marshal() for piece in frames) + between


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 100)), max_size=5),
    st.lists(st.integers(0, 5000), max_size=20),
)
def test_however_the_bytes_arrive_the_messages_are_those_that_pika_finds(
    messages: list[tuple[int, int]], cuts: list[int]
) -> None:
    data = b"".join(wire(n, size, most) for n, (size, most) in enumerate(messages, start=1))
    found = receive(Connection, data, cuts)
    assert found == receive(pika.SelectConnection, data, cuts)
    assert found == receive_in_place(data, cuts)
    assert len(found) == len(messages)


@pytest.mark.parametrize("size", [0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, 3 * FRAME + 5])
@pytest.mark.parametrize("cut", [0, 1, 70, FRAME - 1, FRAME, FRAME + 9])
def test_a_message_in_pieces_is_the_message_that_pika_would_send(size: int, cut: int) -> None:
    body = bytes(i % 251 for i in range(size))
    method = spec.Basic.Publish(exchange="update", routing_key="k", mandatory=True)
    stock, fast = unconnected(pika.SelectConnection), unconnected(Connection)
    sent: dict[object, list[bytes]] = {stock: [], fast: []}
    for connection in (stock, fast):
        connection._adapter_emit_data = sent[connection].append
    stock._send_message(1, method, (PROPERTIES, body))
    fast.publish(1, method, PROPERTIES, (body[:cut], memoryview(body)[cut:]))
    assert b"".join(sent[fast]) == b"".join(sent[stock])
    assert all(sent[fast]), "a transport refuses an empty piece"
    assert fast.bytes_sent == stock.bytes_sent
    for connection in (stock, fast):
        connection.ioloop.close()


def test_of_an_oversized_message_only_the_beginning_takes_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ours, "LONGEST_BYTES", 250)
    monkeypatch.setattr(ours, "BEGINNING_BYTES", 50)
    data = wire(1, 300, 40) + wire(3, 20, 40)
    (_, _, _, cut), (_, _, _, next_one) = receive(Connection, data, [60, 130, 200])
    assert cut == bytes((1 + i) % 251 for i in range(50))
    assert len(next_one) == 20
    assert receive_in_place(data, [60, 130, 200]) == receive(Connection, data, [60, 130, 200])


def test_a_frame_that_does_not_end_where_it_should_is_an_error() -> None:
    data = bytearray(wire(1, 10, 40))
    assert data[-9] == spec.FRAME_END
    data[-9] = 0
    with pytest.raises(pika.exceptions.InvalidFrameError):
        receive(Connection, bytes(data), [])


def header_frame(flags: int, properties: bytes) -> bytes:
    payload = (60).to_bytes(2, "big") + bytes(2) + (4).to_bytes(8, "big")
    payload += flags.to_bytes(2, "big") + properties
    head = bytes([spec.FRAME_HEADER]) + (1).to_bytes(2, "big") + len(payload).to_bytes(4, "big")
    return head + payload + bytes([spec.FRAME_END])


FORGED = {
    # The broker passes over the bit that says that more flags follow; pika reads them.
    "more flags": (0x8000 | 0x10 | 1, b"\x08" + b"\x02\x00\x05bravo" + b"\x04alfa"),
    # pika reads the last value of a table also where the table has ended.
    "a value beyond its table": (0x2000 | 0x10, b"\x00\x00\x00\x03\x00xx" + b"\x04alfa"),
    "a number beyond its table": (
        0x2000 | 0x10,
        b"\x00\x00\x00\x06\x00D\x00\x00D(" + b"\x05bravo",
    ),
}


@pytest.mark.parametrize("case", FORGED)
def test_whose_a_message_is_says_the_broker_and_not_how_the_rest_is_read(case: str) -> None:
    flags, properties = FORGED[case]
    found = ours._decoded(header_frame(flags, properties))
    assert found.properties.user_id == ("bravo" if "number" in case else "alfa")
    assert found.properties.unreadable
    assert found.body_size == 4


def test_an_honest_message_keeps_its_headers() -> None:
    found = ours._decoded(frame.Header(1, 4, PROPERTIES).marshal())
    assert found.properties.headers == {"reason": "x"}
    assert found.properties.user_id == "alfa"
    assert not hasattr(found.properties, "unreadable")
