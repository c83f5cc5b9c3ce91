"""TLS by way of memory, against Python's own server side, over sockets that take little at once."""

import socket
import ssl
import struct
import subprocess
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from broker_config.secrets.certificates import Authority
from tests.support.pace import DEADLINE_S
from tests.support.ports import free_port
from warren_shared.amqp import transports
from warren_shared.amqp.tls_stream import RECORD_BYTES, TlsStream
from warren_shared.tls import Broker

_RECORD = struct.Struct(">BHH")  # type, version, size
APPLICATION_DATA = 23


class Server:
    """The other end: TLS in memory; what goes through ``wire`` is counted by records."""

    def __init__(self, wire: socket.socket, folder: Path) -> None:
        self.authority = Authority(folder)
        made = self.authority.server()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.certificate, made.key)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.wire = wire
        self.raw = bytearray()  # all that came

    def move(self) -> None:
        """Take what has come, and send what there is to send."""
        try:
            data = self.wire.recv(1 << 20)
        except BlockingIOError:
            data = b""
        self.raw += data
        self.incoming.write(data)
        if self.outgoing.pending:
            self.wire.sendall(self.outgoing.read())

    def records(self) -> list[int]:
        """Sizes of the encrypted records of application data that came."""
        found, at = [], 0
        while at + _RECORD.size <= len(self.raw):
            kind, _, size = _RECORD.unpack_from(self.raw, at)
            if kind == APPLICATION_DATA:
                found.append(size)
            at += _RECORD.size + size
        return found


@pytest.fixture
def ends(tmp_path: Path) -> tuple[TlsStream, Server, socket.socket]:
    """Both ends, connected, after the handshake."""
    near, far = socket.socketpair()
    for end in (near, far):
        end.setblocking(False)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = Server(far, tmp_path)
    context = Broker("amqps://a:b@127.0.0.1/f", server.authority.for_bundle()).context()
    stream = TlsStream(near, context, "127.0.0.1")
    until(stream.handshake, server, server.tls.do_handshake)
    until(server.tls.do_handshake, server)
    yield stream, server, near
    near.close()
    far.close()


def until(
    step: Callable[[], object], server: Server, also: Callable[[], object] | None = None
) -> object:
    """What ``step`` returns once it does not have to wait any more."""
    for _ in range(10_000):
        try:
            return step()
        except (BlockingIOError, ssl.SSLWantReadError):
            server.move()
            if also is not None:
                with suppress(ssl.SSLWantReadError):
                    also()
            server.move()
    raise AssertionError("it waits for ever")


def read(server: Server, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        found += until(lambda: server.tls.read(1 << 20), server)  # type: ignore[arg-type]
    return bytes(found)


def test_pieces_go_out_whole_in_order_and_in_as_few_records_as_they_need(
    ends: tuple[TlsStream, Server, socket.socket],
) -> None:
    """Frames as they are: a few bytes, then a body's 128 KiB, through a narrow socket."""
    stream, server, _ = ends
    pieces = [bytes([n % 251]) * (8 if n % 2 else 131064 - n) for n in range(40)]
    total = sum(map(len, pieces))
    transport = object.__new__(transports.TlsTransport)
    vars(transport).update(
        _tx_buffers=deque(pieces), _tx_buffered_byte_count=total, _stream=stream, _encrypted=0
    )
    before = len(server.records())
    came = bytearray()
    while transport._tx_buffered_byte_count:
        try:
            transport._produce()
        except BlockingIOError:
            server.move()
        while True:
            try:
                came += server.tls.read(1 << 20)
            except ssl.SSLWantReadError:
                break
    came += read(server, total - len(came))
    assert bytes(came) == b"".join(pieces)
    assert len(server.records()) - before <= total // RECORD_BYTES + 2
    assert transport._tx_buffered_byte_count == 0


def test_what_is_not_sent_yet_counts_as_unsent(
    ends: tuple[TlsStream, Server, socket.socket],
) -> None:
    stream, _, _ = ends
    transport = object.__new__(transports.TlsTransport)
    vars(transport).update(
        _tx_buffers=deque([bytes(1 << 20)]), _tx_buffered_byte_count=1 << 20, _stream=stream,
        _encrypted=0,
    )  # fmt: skip
    with pytest.raises(BlockingIOError):
        transport._produce()
    assert stream.has_unsent
    assert transport._tx_buffered_byte_count >= (1 << 20) - transports.ENCRYPTED_BYTES


@pytest.mark.parametrize("cut", [1, 5, 17, 16_000, 1 << 20])
def test_however_the_bytes_arrive_they_are_decrypted_to_their_place(
    ends: tuple[TlsStream, Server, socket.socket], cut: int
) -> None:
    stream, server, _ = ends
    said = bytes(range(256)) * 200
    server.tls.write(said[:16384])
    server.tls.write(said[16384:32768])
    server.tls.write(said[32768:49152])
    server.tls.write(said[49152:])
    encrypted = server.outgoing.read()
    place, at = memoryview(bytearray(len(said))), 0
    for start in range(0, len(encrypted), cut):
        server.wire.sendall(encrypted[start : start + cut])
        while at < len(said):
            try:
                at += stream.read_into(place[at : at + 20_000])
            except BlockingIOError:
                break
    assert bytes(place) == said


def test_an_end_that_was_said_is_an_end_and_one_that_was_not_is_an_error(
    ends: tuple[TlsStream, Server, socket.socket],
) -> None:
    stream, server, _ = ends
    server.tls.write(b"the last")
    with pytest.raises(ssl.SSLWantReadError):
        server.tls.unwrap()
    server.move()
    place = memoryview(bytearray(100))
    assert stream.read_into(place) == 8
    assert stream.read_into(place) == 0


def test_a_connection_that_breaks_off_in_a_record_is_an_error(
    ends: tuple[TlsStream, Server, socket.socket],
) -> None:
    stream, server, _ = ends
    server.tls.write(bytes(10_000))
    server.wire.sendall(server.outgoing.read()[:-1])
    server.wire.shutdown(socket.SHUT_WR)
    with pytest.raises(ssl.SSLError):
        stream.read_into(memoryview(bytearray(10_000)))


def test_what_was_changed_on_its_way_is_an_error(
    ends: tuple[TlsStream, Server, socket.socket],
) -> None:
    stream, server, _ = ends
    server.tls.write(bytes(10_000))
    encrypted = bytearray(server.outgoing.read())
    encrypted[5_000] ^= 1
    server.wire.sendall(encrypted)
    with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|DECRYPTION_FAILED"):
        stream.read_into(memoryview(bytearray(10_000)))


def test_new_keys_of_tls_1_3_are_answered(tmp_path: Path) -> None:
    """Python's server cannot ask for them; OpenSSL's does on a line with a K."""
    authority = Authority(tmp_path)
    made = authority.server()
    port = free_port()
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_3"]
    command += ["-cert", str(made.certificate), "-key", str(made.key)]
    context = Broker("amqps://a:b@127.0.0.1/f", authority.for_bundle()).context()
    place = memoryview(bytearray(100))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as server:
        try:
            assert server.stdout is not None
            while b"ACCEPT" not in (line := server.stdout.readline()):
                assert line, "it has ended"
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as near:
                stream = TlsStream(near, context, "127.0.0.1")
                stream.handshake()
                type_in(server, b"first\n")
                assert stream.read_into(place) == 6
                type_in(server, b"K\n")
                near.settimeout(0.1)
                size = 0
                while not size:  # it passes over what comes with the K
                    type_in(server, b"with new keys\n")
                    with suppress(TimeoutError):
                        size = stream.read_into(place)
                assert bytes(place[:14]) == b"with new keys\n"
                assert stream.write(b"read with the new keys\n") == 23
                stream.flush()
                said = b""
                while b"read with the new keys" not in said:
                    said += (line := server.stdout.readline())
                    assert line, "it has ended"
        finally:
            server.kill()
    assert b"SSL_do_handshake -> 1" in said


def type_in(server: "subprocess.Popen[bytes]", line: bytes) -> None:
    assert server.stdin is not None
    server.stdin.write(line)
    server.stdin.flush()


def test_the_gathered_record_leaves_the_rest_of_a_piece_in_place() -> None:
    waiting = deque([b"ab", memoryview(b"x" * RECORD_BYTES), b"c"])
    assert transports._first_record(waiting) == b"ab" + b"x" * (RECORD_BYTES - 2)
    assert list(map(bytes, waiting)) == [b"xx", b"c"]
