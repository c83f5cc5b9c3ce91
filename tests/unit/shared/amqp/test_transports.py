"""Our transports: what they send and read, and that pika keeps its own."""

import inspect
import socket
from collections import deque
from types import SimpleNamespace

import pika
import pytest
from pika.adapters.utils import io_services_utils, selector_ioloop_adapter

from warren_shared.amqp import transports as ours


def test_gathered_pieces_go_out_whole_and_in_order_through_a_narrow_socket() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    pieces = [bytes([n % 251]) * (n * 37 % 5000 + 1) for n in range(500)]
    waiting = deque(pieces)
    total = sum(map(len, pieces))
    transport = SimpleNamespace(_tx_buffers=waiting, _sock=near, _tx_buffered_byte_count=total)
    came = bytearray()
    while waiting:
        try:
            ours.PlaintextTransport._produce(transport)
        except BlockingIOError:
            came += far.recv(1 << 20)
    assert transport._tx_buffered_byte_count == 0
    far.setblocking(False)
    while len(came) < total:
        came += far.recv(1 << 20)
    near.close()
    far.close()
    assert bytes(came) == b"".join(pieces)


def test_tls_reads_no_further_while_reading_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []

    def stock(transport: object) -> None:
        read.append(transport)

    monkeypatch.setattr(io_services_utils._AsyncPlaintextTransport, "_on_socket_readable", stock)
    transport = object.__new__(ours.TlsTransport)
    transport.receiver = SimpleNamespace(is_paused=False)
    transport._on_socket_readable()
    assert read == [transport]
    transport.receiver.is_paused = True
    transport._on_socket_readable()
    assert read == [transport]


def test_nothing_of_pikas_is_changed() -> None:
    """A task that uses pika itself gets what pika's authors wrote."""
    modules = (io_services_utils, selector_ioloop_adapter, pika.connection)
    classes = [
        kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)
    ]
    found = {
        f"{kind.__qualname__}.{name} of {member.__module__}"
        for kind in (*classes, pika.SelectConnection, pika.BlockingConnection)
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and "warren" in member.__module__
    }
    assert not found
    assert io_services_utils._AsyncTransportBase._MAX_RECV_BYTES == 4096
    assert io_services_utils._AsyncTransportBase._MAX_CONSUME_BYTES == 100 << 10
