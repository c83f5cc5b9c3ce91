"""pika's transports and the I/O services that make them, for our connections alone.

pika makes a transport deep inside its stream connector, by the name of a class. So each of our
connections is given I/O services (`io_services`) whose stream connector makes ours. Nothing of
pika's is changed: a connection that somebody else opens in this process, such as a task that gets
its data over pika, has pika's own classes. These are private methods of pika 1.4, which is why its
version is held to that.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, Final, Protocol

from pika.adapters import select_connection
from pika.adapters.utils.io_services_utils import (
    _AsyncPlaintextTransport,
    _AsyncSSLTransport,
    _AsyncStreamConnector,
)
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from warren_shared.amqp.proxy import Proxy

BETWEEN_BYTES: Final = 4096  # what is between two bodies is some 200
MAX_CONSUMED_BYTES: Final = 1 << 20  # before others of the loop have their turn
MAX_GATHERED: Final = 64  # pieces a system call; a socket seldom takes more at once
# Where pika's own way of reading remains it reads 4 KiB at a time; over TLS, 128 KiB doubles what a
# consumer takes in.
RECEIVED_BYTES: Final = 131072


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
                size = self._sock.recvmsg_into(room)[0]
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
            sent = self._sock.sendmsg(list(islice(waiting, MAX_GATHERED)))
            self._tx_buffered_byte_count -= sent
            while sent:
                first = waiting.popleft()
                if sent < len(first):
                    waiting.appendleft(memoryview(first)[sent:])
                    break
                sent -= len(first)


class TlsTransport(_AsyncSSLTransport):  # type: ignore[misc]
    """pika's, which a pause stops. A TLS socket can neither scatter nor gather."""

    _MAX_RECV_BYTES = RECEIVED_BYTES
    _MAX_CONSUME_BYTES = RECEIVED_BYTES
    receiver: Receiver | None = None

    def _on_socket_readable(self) -> None:
        """TLS reads on by itself as long as there is something, so a pause has to stop it here."""
        if self.receiver is None or not self.receiver.is_paused:
            super()._on_socket_readable()


class _StreamConnector(_AsyncStreamConnector):  # type: ignore[misc]
    """pika's, which makes our transports."""

    def _linkup(self) -> None:
        kind = PlaintextTransport if self._ssl_context is None else TlsTransport
        result: Any
        try:
            protocol = self._protocol_factory()
            transport = kind(self._sock, protocol, self._nbio)
            protocol.connection_made(transport)
        except Exception as error:  # noqa: BLE001  it is reported to who connects, as pika's is
            result = error
        else:
            result = (transport, protocol)
        self._report_completion(result)


class _IoServices(SelectorIOServicesAdapter):  # type: ignore[misc]
    """pika's, with our stream connector."""

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
