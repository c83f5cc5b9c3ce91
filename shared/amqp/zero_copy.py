"""pika's connection with its two hot paths, bodies in and bodies out, without the copies.

Stock pika copies a body five times on its way in (receive, append to a buffer, cut the frame out,
cut the rest off, join the frames) and three times on its way out, a system call a frame. Here the
kernel's copy is the only one, in both directions (docs/decisions.md); the sockets are
`warren_shared.amqp.transports`'. Everything else, handshake, heartbeats, methods, is pika's own;
these are private methods of pika 1.4, which is why its version is held to that.
"""

import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any, Final, Self

import numpy as np
import pika
from pika import exceptions, frame, spec
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.heartbeat import HeartbeatChecker

from warren_shared.amqp.transports import io_services
from warren_shared.observability.log import Log
from warren_shared.protocol.codec import MAX_SEALED_BYTES, Body, Piece

log = Log(__name__)

# What the broker lets through may be 128 MiB long, and none of it is ours: no message of the
# protocol is longer than a chunk and the longest header, encrypted. Of what is longer the beginning
# is kept, for a look: malloc keeps what it once had (`warren_shared.service.malloc`), and several
# of them at once were the peak of a coordinator's memory.
LONGEST_BYTES: Final = MAX_SEALED_BYTES + 4096
BEGINNING_BYTES: Final = 1 << 16

SIGN_OF_LIFE_S: Final = 10.0

_HEAD: Final = struct.Struct(">BHL")  # type, channel, payload size; a frame ends in FRAME_END
_END: Final = bytes([spec.FRAME_END])


class Connection(pika.SelectConnection):  # type: ignore[misc]
    """A SelectConnection whose deliveries' bodies are memoryviews of memory of their own."""

    _frame_buffer: bytes

    @classmethod
    def connect(cls, parameters: Any, **callbacks: Callable[..., None]) -> Self:
        """Begin to connect with ``parameters``; ``callbacks`` are those of pika's constructor."""
        return cls(parameters, custom_ioloop=io_services(parameters), **callbacks)

    def _proto_connection_made(self, transport: Any) -> None:
        transport.receiver = self
        super()._proto_connection_made(transport)

    def _create_heartbeat_checker(self) -> Any:
        return _Heartbeats(self, self.params.heartbeat) if self.params.heartbeat else None

    def _init_connection_state(self) -> None:
        super()._init_connection_state()
        self._arriving: _Body | None = None
        self._seam = memoryview(bytearray(len(_END) + _HEAD.size))
        self._paused: Any = None  # the timer that runs meanwhile
        self._is_blocked = False  # the broker reads nothing that publishes

    @property
    def is_paused(self) -> bool:
        """Whether nothing is read."""
        return self._paused is not None

    def pause(self) -> None:
        """Read nothing until ``resume``: the socket fills, and the broker waits with the rest."""
        transport = self._transport
        if self._paused is None and transport._sock is not None:
            transport._nbio.remove_reader(transport._sock.fileno())
            self._still_there()

    def resume(self) -> None:
        """Read on."""
        if self._paused is not None:
            self.ioloop.remove_timeout(self._paused)
            self._paused = None
            transport = self._transport
            if transport._sock is not None:
                transport._nbio.set_reader(transport._sock.fileno(), transport._on_socket_readable)
                # What TLS has decrypted already makes no socket readable.
                transport._nbio.add_callback_threadsafe(transport._on_socket_readable)

    def _still_there(self) -> None:
        # Or pika would take it for a dead broker that none of its heartbeats is read.
        self.bytes_received += 1
        self._paused = self.ioloop.call_later(SIGN_OF_LIFE_S, self._still_there)

    def leave(self) -> None:
        """Say goodbye to the broker; the connection's end is reported as after ``close``.

        ``close`` would cancel the consumers first. A queue with a single active consumer then goes
        on with the next one at once, and what is unacknowledged here comes back only after it, when
        the channel ends: the next coordinator would get the end of an update before its beginning.
        """
        if self.is_open:
            self._set_connection_state(self.CONNECTION_CLOSING)
            self._error = exceptions.ConnectionClosedByClient(200, "Normal shutdown")
            self._on_close_ready()

    def let_go(self) -> None:
        """Close the socket of a connection whose loop has stopped, however far it had come.

        pika 1.4 cannot close one that is still opening: its workflow trips over its own abort.
        """
        if self._transport is not None:
            self._transport._close_and_finalize()
        else:
            self._nbio.close_socket()

    # --- out ------------------------------------------------------------------------------------

    @property
    def confirms_come(self) -> bool:
        """Whether both sides read on: the broker says when it does not, and we may have paused."""
        return not self._is_blocked and self._paused is None

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the broker's machine has not acknowledged."""
        transport = self._transport
        if transport is None or transport._sock is None:
            return 0
        unsent = int(transport._tx_buffered_byte_count)
        try:
            in_kernel = fcntl.ioctl(transport._sock.fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, AttributeError):  # this system does not tell
            return unsent
        return unsent + int.from_bytes(in_kernel, "little")

    def publish(self, channel: int, method: Any, properties: Any, body: Body) -> None:
        """Send a message whose body is ``body``'s pieces, which must stay as they are till then."""
        size = sum(map(len, body))
        gap = frame.Method(channel, method).marshal()
        gap += frame.Header(channel, size, properties).marshal()
        pieces: list[Piece] = []
        limit, at = self._body_max_length, 0
        for piece in body:
            view = memoryview(piece)
            while view:
                if at % limit == 0:  # a frame begins
                    gap += _HEAD.pack(spec.FRAME_BODY, channel, min(limit, size - at))
                taken = view[: limit - at % limit]
                pieces += (gap, taken) if gap else (taken,)
                view = view[len(taken) :]
                at += len(taken)
                gap = _END if at % limit == 0 or at == size else b""
        pieces.append(gap)
        self._output_marshaled_frames(pieces)

    # --- in -------------------------------------------------------------------------------------

    def room(self) -> list[memoryview]:
        """Where the next bytes belong if they are a body's: its memory, then the frame's end.

        With the end goes the head of the body's next frame, and nothing that follows the body.
        """
        return self._arriving.room(self._seam) if self._arriving is not None else []

    def came(self, size: int) -> None:
        """``size`` bytes were read into ``room``."""
        if self._arriving is None:
            return
        into_body = self._arriving.advance(size)
        self.bytes_received += into_body
        if size > into_body:
            self._on_data_available(bytes(self._seam[: size - into_body]))

    def _on_data_available(self, data_in: bytes) -> None:
        self.bytes_received += len(data_in)
        data = self._frame_buffer + data_in if self._frame_buffer else data_in
        at, end = 0, len(data)
        while at < end:
            if self._arriving is not None and self._arriving.due:
                at = self._arriving.fill(data, at)
                if self._arriving.whole:
                    self._deliver_body(self._arriving)
                continue
            if end - at < _HEAD.size:
                break
            kind, channel, size = _HEAD.unpack_from(data, at)
            if kind == spec.FRAME_BODY and self._arriving is not None:
                self.frames_received += 1
                self._arriving.expect(size)
                at += _HEAD.size
                continue
            after = at + _HEAD.size + size + 1
            if after > end:
                break
            value = _decoded(data[at:after])
            at = after
            self._process_frame(value)
            if kind == spec.FRAME_HEADER and value.body_size:
                self._arriving = _Body(channel, value.body_size)
        self._frame_buffer = data[at:]

    def _deliver_body(self, body: "_Body") -> None:
        """What pika's channel does with the last body frame, with the body already in one piece."""
        self._arriving = None
        channel = self._channels[body.channel]
        assembler = channel._content_assembler
        method, header = assembler._method_frame, assembler._header_frame
        assembler._reset()
        if isinstance(method.method, spec.Basic.Deliver):
            channel._on_deliver(method, header, body.kept())
        elif isinstance(method.method, spec.Basic.Return):
            channel._on_return(method, header, body.kept())


class _Heartbeats(HeartbeatChecker):  # type: ignore[misc]
    """pika's, which with short heartbeats gives up sooner than 5 s after them.

    The broker sends one each half of ``timeout``. Who asks for 4 s wants to leave a node that
    is halted after 6 to 12 s, not after 9 to 18.
    """

    def _start_check_timer(self) -> None:
        self._check_interval = min(self._timeout + 5, 1.5 * self._timeout)
        super()._start_check_timer()


class TolerantConnection(pika.SelectConnection):  # type: ignore[misc]
    """pika's own connection, for a BlockingConnection that looks at what clients have sent.

    A message whose headers pika cannot decode comes without them, instead of ending it.
    """

    _frame_buffer: bytes

    @classmethod
    def create_connection(
        cls, connection_configs: Any, on_done: Any, custom_ioloop: Any = None, workflow: Any = None
    ) -> Any:
        """Connect; the difference to pika's own is the proxy."""
        services = io_services(connection_configs[0], custom_ioloop)

        def connection(told: Any) -> TolerantConnection:
            return cls(told, custom_ioloop=services, internal_connection_workflow=False)

        return cls._start_connection_workflow(
            connection_configs, connection, services, workflow, on_done
        )

    def _read_frame(self) -> tuple[int, Any]:
        data = self._frame_buffer
        if len(data) < _HEAD.size or data[0] != spec.FRAME_HEADER:
            consumed, value = super()._read_frame()
            return int(consumed), value
        end = _HEAD.size + int(_HEAD.unpack_from(data)[2]) + len(_END)
        return (end, _decoded(data[:end])) if end <= len(data) else (0, None)


def blocking(*hosts: Any) -> Any:
    """A pika.BlockingConnection to the first of ``hosts`` that lets us in.

    They are what `warren_shared.amqp.address.parameters` makes. Raises what the last of them
    raised.
    """
    *others, last = hosts
    for told in others:
        try:
            return _connected(told)
        except (exceptions.AMQPError, OSError):
            continue
    return _connected(last)


def _connected(told: Any) -> Any:
    """One try; a broker that stops answering in the handshake is an AMQPError, too."""
    try:
        return pika.BlockingConnection(told, _impl_class=TolerantConnection)
    except AMQPConnectorException as error:
        raise exceptions.AMQPConnectionError(str(error)) from error


def _decoded(data: bytes) -> Any:
    """One frame, as pika has it.

    A client may give its message headers that the broker takes and pika cannot decode: a time
    stamp out of range, tables in tables a thousand deep. The exception would end the connection's
    thread, at each delivery of that message. Such a message keeps its sender and its body, and
    is ``unreadable``.
    """
    if data[0] != spec.FRAME_HEADER:
        return frame.decode_frame(data)[1]
    payload = data[_HEAD.size : -1]
    user = _user_id(payload[12:])
    try:
        found = frame.decode_frame(data)[1]
        # pika reads a table to where its last value ends, and more flags where the broker reads
        # none: what follows, the sender's name among it, may be another to each of them.
        if found.properties.user_id == user:
            return found
    except Exception:  # noqa: BLE001, S110  pika's decoder raises whatever its parts do
        pass
    properties = spec.BasicProperties(user_id=user)
    properties.unreadable = True
    channel = int.from_bytes(data[1:3], "big")
    return frame.Header(channel, int.from_bytes(payload[4:12], "big"), properties)


# The properties of a message, in their order: the bit that says that one is there, and how many
# bytes it takes, or how many bytes say that.
_PROPERTIES: Final = (
    *((bit, "short") for bit in (15, 14)),
    (13, "table"),
    *((bit, "octet") for bit in (12, 11)),
    *((bit, "short") for bit in (10, 9, 8, 7)),
    (6, "time"),
    *((bit, "short") for bit in (5, 4)),
)
_USER_ID: Final = 4


def _user_id(encoded: bytes) -> str | None:
    """Whose message it is, which the broker has checked, without a look at the rest."""
    flags, at = int.from_bytes(encoded[:2], "big"), 2
    for bit, kind in _PROPERTIES:
        if not flags >> bit & 1:
            continue
        if kind == "short":
            end = at + 1 + encoded[at]
            if bit == _USER_ID:
                return encoded[at + 1 : end].decode("utf-8", "replace")
            at = end
        elif kind == "table":
            at += 4 + int.from_bytes(encoded[at : at + 4], "big")
        else:
            at += 1 if kind == "octet" else 8
    return None


class _Body:
    """A message body on its way in; ``due`` bytes of the current frame are still to come."""

    def __init__(self, channel: int, size: int) -> None:
        self.channel = channel
        self.due = 0  # with the frame's end octet
        self._to_come = size
        kept = size if size <= LONGEST_BYTES else BEGINNING_BYTES
        self._memory = memoryview(np.empty(kept, np.uint8))  # type: ignore[arg-type]
        self._filled = 0

    def expect(self, size: int) -> None:
        """A body frame of ``size`` bytes begins."""
        if size > self._to_come:
            raise exceptions.BodyTooLongError(size, self._to_come)
        self.due = size + 1

    def room(self, seam: memoryview) -> list[memoryview]:
        """The rest of the current frame in memory, and of ``seam`` what may follow it."""
        if self.due <= len(_END):
            return []
        rest = self._memory[self._filled : self._filled + self.due - 1]
        if len(rest) < self.due - 1:
            return []  # it is more than is kept
        return [rest, seam if self.due - 1 < self._to_come else seam[: len(_END)]]

    def advance(self, size: int) -> int:
        """``size`` bytes are in ``room``; return how many of them were the body's."""
        taken = min(size, self.due - 1)
        self._filled += taken
        self._to_come -= taken
        self.due -= taken
        return taken

    def fill(self, data: bytes, at: int) -> int:
        """Take what belongs to the current frame from ``data[at:]``; return where that ends."""
        taken = min(self.due - 1, len(data) - at)
        room = self._memory[self._filled : self._filled + taken]
        room[:] = memoryview(data)[at : at + len(room)]
        after = at + self.advance(taken)
        if self.due == 1 and after < len(data):
            if data[after] != spec.FRAME_END:
                raise exceptions.InvalidFrameError("a body frame does not end where it should")
            self.due = 0
            after += 1
        return after

    @property
    def whole(self) -> bool:
        """Whether the message is here to its last frame's end."""
        return not self._to_come and not self.due

    def kept(self) -> memoryview:
        """The body, or its beginning if it was longer than ``LONGEST_BYTES``."""
        return self._memory


def say_when_blocked(connection: Connection) -> None:
    """Log when the broker stops reading what ``connection`` publishes, and when it reads again."""

    def blocked(_connection: Connection, _frame: Any) -> None:
        connection._is_blocked = True
        log.warning(
            "connection_blocked", "publishing is blocked: the broker is short of memory or disk"
        )

    def unblocked(_connection: Connection, _frame: Any) -> None:
        connection._is_blocked = False
        log.info("connection_unblocked", "publishing goes on: the broker has room again")

    connection.add_on_connection_blocked_callback(blocked)
    connection.add_on_connection_unblocked_callback(unblocked)
