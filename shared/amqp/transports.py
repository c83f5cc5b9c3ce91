"""pika's transports and the I/O services that make them, for our connections alone.

pika makes a transport deep inside its stream connector, by the name of a class. So each of our
connections is given I/O services (`io_services`) whose stream connector makes ours. Nothing of
pika's is changed: a connection that somebody else opens in this process, such as a task that gets
its data over pika, has pika's own classes. These are private methods of pika 1.4, which is why its
version is held to that.
"""

import ssl
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, Protocol

from pika.adapters import select_connection
from pika.adapters.utils.io_services_utils import (
    _AsyncPlaintextTransport,
    _AsyncStreamConnector,
)
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from warren_shared.amqp.proxy import Proxy
from warren_shared.amqp.tls_stream import RECORD_BYTES, TlsStream
from warren_shared.protocol.codec import Piece

BETWEEN_BYTES: Final = 4096  # what is between two bodies is some 200
MAX_CONSUMED_BYTES: Final = 1 << 20  # before others of the loop have their turn
MAX_GATHERED: Final = 64  # pieces a system call; a socket seldom takes more at once
# Where pika's own way of reading remains, it reads 4 KiB at a time.
RECEIVED_BYTES: Final = 131072
ENCRYPTED_BYTES: Final = 131072  # before they are sent


def _receive_into(sock: Any, room: list[memoryview]) -> int:
    """Read into ``room``, all of it at once where the system can."""
    if hasattr(sock, "recvmsg_into"):
        return int(sock.recvmsg_into(room)[0])
    return int(sock.recv_into(room[0]))


def _send(sock: Any, pieces: list[Piece]) -> int:
    """Send of ``pieces`` what the socket takes, of the first alone where the system cannot."""
    return int(sock.sendmsg(pieces) if hasattr(sock, "sendmsg") else sock.send(pieces[0]))


class Receiver(Protocol):
    """A connection that says where the next bytes belong (`warren_shared.amqp.zero_copy`)."""

    @property
    def is_paused(self) -> bool:
        """Whether nothing is to be read."""

    def room(self) -> list[memoryview]:
        """Memory for the next bytes; none if they are no body's."""

    def came(self, size: int) -> None:
        """``size`` bytes were read into ``room``."""


class PlaintextTransport(_AsyncPlaintextTransport):  # type: ignore[misc]
    """pika's, which reads a body to where it will stay, and sends many pieces with one call.

    Without a ``receiver`` it reads as pika does.
    """

    _MAX_RECV_BYTES = RECEIVED_BYTES
    _MAX_CONSUME_BYTES = RECEIVED_BYTES
    receiver: Receiver | None = None

    def _consume(self) -> None:
        """Read a body to where it will stay, and what comes between bodies in small pieces."""
        receiver = self.receiver
        if receiver is None:
            super()._consume()
            return
        taken = 0
        while self._state == self._STATE_ACTIVE and taken < MAX_CONSUMED_BYTES:
            room = receiver.room()
            if room:
                size = _receive_into(self._sock, room)
            else:
                data = self._sock.recv(BETWEEN_BYTES)
                size = len(data)
            if not size:
                raise self.RxEndOfFile
            taken += size
            if room:
                receiver.came(size)
            else:
                self._protocol.data_received(data)

    def _produce(self) -> None:
        """Send the pieces that wait, many with each system call; pika's takes one at a time."""
        waiting = self._tx_buffers
        while waiting:
            sent = _send(self._sock, list(islice(waiting, MAX_GATHERED)))
            self._tx_buffered_byte_count -= sent
            while sent:
                first = waiting.popleft()
                if sent < len(first):
                    waiting.appendleft(memoryview(first)[sent:])
                    break
                sent -= len(first)


class TlsTransport(_AsyncPlaintextTransport):  # type: ignore[misc]
    """pika's transport for a plain socket, with TLS in between.

    It reads a body to where it will stay, and makes whole records of small pieces. pika's own for
    TLS works on an ``ssl.SSLSocket`` and waits for what that waits for; to a `TlsStream` reading
    and writing are as separate as without TLS.
    """

    receiver: Receiver | None = None

    def __init__(self, sock: Any, protocol: Any, nbio: Any, stream: TlsStream) -> None:
        super().__init__(sock, protocol, nbio)
        self._stream = stream
        self._encrypted = 0  # bytes that `_tx_buffers` has no more, and the socket has not yet
        self._between = memoryview(bytearray(BETWEEN_BYTES))
        self._read_on()  # what came with the end of the handshake makes no socket readable
        if stream.has_unsent:
            self._wait_to_write()

    def _on_socket_readable(self) -> None:
        """A pause stops this too, since it calls itself for what has been read already."""
        if self.receiver is None or not self.receiver.is_paused:
            super()._on_socket_readable()

    def _consume(self) -> None:
        """Decrypt a body to where it will stay, and what comes between bodies in small pieces."""
        receiver, taken = self.receiver, 0
        try:
            while self._state == self._STATE_ACTIVE and taken < MAX_CONSUMED_BYTES:
                if receiver is not None and receiver.is_paused:
                    return
                room = receiver.room() if receiver is not None else []
                size = self._stream.read_into(room[0] if room else self._between)
                if not size:
                    raise self.RxEndOfFile
                taken += size
                if room and receiver is not None:
                    receiver.came(size)
                else:
                    self._protocol.data_received(bytes(self._between[:size]))
            if self._state == self._STATE_ACTIVE:
                self._read_on()  # what is decrypted, or could be, makes no socket readable
        finally:
            # New keys: there is an answer to send, or a write that had to wait for them.
            if self._state == self._STATE_ACTIVE and (self._stream.has_unsent or self._tx_buffers):
                self._wait_to_write()

    def _read_on(self) -> None:
        self._nbio.add_callback_threadsafe(self._on_socket_readable)

    def _wait_to_write(self) -> None:
        self._nbio.set_writer(self._sock.fileno(), self._on_socket_writable)

    def _on_socket_writable(self) -> None:
        """Send; be called again until all is sent."""
        if self._state != self._STATE_ACTIVE:
            return
        try:
            self._produce()
        except BlockingIOError:
            return
        except ssl.SSLWantReadError:
            pass  # `_consume` comes back to it
        except Exception as error:  # noqa: BLE001  it ends the connection, as in pika's own
            self._initiate_abort(error)
            return
        self._nbio.remove_writer(self._sock.fileno())

    def _produce(self) -> None:
        """Encrypt the pieces that wait, many at a time, and send them."""
        while True:
            self._stream.flush()
            self._tx_buffered_byte_count -= self._encrypted
            self._encrypted = 0
            if not self._tx_buffers:
                return
            while self._tx_buffers and self._encrypted < ENCRYPTED_BYTES:
                self._encrypted += self._encrypt()

    def _encrypt(self) -> int:
        """Encrypt one record; a piece stays the first until it is done, as OpenSSL wants it."""
        waiting = self._tx_buffers
        if len(waiting[0]) < RECORD_BYTES and len(waiting) > 1:
            waiting.appendleft(_first_record(waiting))
        size = self._stream.write(waiting[0])
        first = waiting.popleft()
        if size < len(first):
            waiting.appendleft(memoryview(first)[size:])
        return size


def _first_record(waiting: deque[Piece]) -> bytes:
    """Take from the beginning of ``waiting`` what fills a record."""
    pieces: list[Piece] = []
    free = RECORD_BYTES
    while waiting and free:
        piece = memoryview(waiting.popleft())
        if len(piece) > free:
            waiting.appendleft(piece[free:])
            piece = piece[:free]
        pieces.append(piece)
        free -= len(piece)
    return b"".join(pieces)


class _StreamConnector(_AsyncStreamConnector):  # type: ignore[misc]
    """pika's, which makes our transports."""

    _stream: TlsStream | None = None

    def _start_async(self) -> None:
        if self._state != self._STATE_ACTIVE or self._ssl_context is None:
            super()._start_async()
            return
        try:
            self._stream = TlsStream(self._sock, self._ssl_context, self._server_hostname)
        except Exception as error:  # noqa: BLE001  it is reported to who connects, as pika's is
            self._report_completion(error)
            return
        self._do_ssl_handshake()

    def _do_ssl_handshake(self) -> None:
        """As far as it goes; be called again when the socket can go on."""
        if self._state != self._STATE_ACTIVE or self._stream is None:
            return
        descriptor = self._sock.fileno()
        try:
            self._stream.handshake()
        except BlockingIOError:
            self._watching_socket = True
            self._nbio.set_reader(descriptor, self._do_ssl_handshake)
            if self._stream.has_unsent:
                self._nbio.set_writer(descriptor, self._do_ssl_handshake)
            else:
                self._nbio.remove_writer(descriptor)
            return
        except Exception as error:  # noqa: BLE001  it is reported to who connects, as pika's is
            self._report_completion(error)
            return
        self._nbio.remove_reader(descriptor)
        self._nbio.remove_writer(descriptor)
        self._watching_socket = False  # from here on the transport watches it
        self._linkup()

    def _linkup(self) -> None:
        result: Any
        try:
            protocol = self._protocol_factory()
            if self._stream is None:
                transport = PlaintextTransport(self._sock, protocol, self._nbio)
            else:
                transport = TlsTransport(self._sock, protocol, self._nbio, self._stream)
            protocol.connection_made(transport)
        except Exception as error:  # noqa: BLE001  it is reported to who connects, as pika's is
            result = error
        else:
            result = (transport, protocol)
        self._report_completion(result)


class _IoServices(SelectorIOServicesAdapter):  # type: ignore[misc]
    """pika's, with our stream connector; it knows the socket that was connected last."""

    _sock: Any = None

    def connect_socket(self, sock: Any, resolved_addr: Any, on_done: Any) -> Any:
        """Connect, and call ``on_done`` with None or an error."""
        self._sock = sock
        return super().connect_socket(sock, resolved_addr, on_done)

    def close_socket(self) -> None:
        """Close the socket, however far its connection has come."""
        if self._sock is not None:
            self._sock.close()

    def create_streaming_connection(
        self,
        protocol_factory: Callable[[], Any],
        sock: Any,
        on_done: Callable[[Any], None],
        ssl_context: Any = None,
        server_hostname: str | None = None,
    ) -> Any:
        """Begin to make a transport of ``sock``, which is closed if that fails."""
        try:
            return _StreamConnector(
                nbio=self,
                protocol_factory=protocol_factory,
                sock=sock,
                ssl_context=ssl_context,
                server_hostname=server_hostname,
                on_done=on_done,
            ).start()
        except Exception:
            sock.close()
            raise


class _Tunnelled(_IoServices):
    """Those of connections that a proxy passes on to ``goal``, a host and its port."""

    def __init__(self, loop: Any, proxy: Proxy, goal: tuple[str, int]) -> None:
        super().__init__(loop)
        self._proxy, self._stopping = proxy, goal

    def getaddrinfo(self, host: str, port: int, on_done: Any, **more: Any) -> Any:  # noqa: ARG002
        """Look the proxy up, for the broker is its affair."""
        return super().getaddrinfo(self._proxy.host, self._proxy.port, on_done, **more)

    def connect_socket(self, sock: Any, resolved_addr: Any, on_done: Any) -> Any:
        """Connect to the proxy, and call ``on_done`` when the broker is at the other end."""

        def connected(error: BaseException | None) -> None:
            if error is None:
                try:
                    self._proxy.open(sock, *self._stopping)
                    sock.setblocking(False)
                except OSError as failed:
                    error = failed
            on_done(error)

        return super().connect_socket(sock, resolved_addr, connected)


def io_services(parameters: Any, loop: Any = None) -> Any:
    """What one of our connections with these pika parameters does its input and output with."""
    loop = loop or select_connection.IOLoop()
    proxy = getattr(parameters, "proxy", None)
    if proxy is None:
        return _IoServices(loop)
    return _Tunnelled(loop, proxy, (parameters.host, parameters.port))
