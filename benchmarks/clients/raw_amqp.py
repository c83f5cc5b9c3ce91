"""A minimal AMQP 0-9-1 client on bare sockets: what the broker gives to the fastest Python.

Bodies go out by gathering writes from where they lie and come in by scattering reads to where they
are wanted: no byte of them is copied by us. It knows only what the benchmarks need, and trusts its
broker: it is a measuring device, not a client to build upon.
"""

import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from benchmarks.clients.raw_frames import (
    END,
    FRAME_MAX,
    HEAD,
    IDLE_METHODS,
    Piece,
    consume_frame,
    field_table,
    frame_sizes,
    long_text,
    method_frame,
    short_text,
)
from benchmarks.clients.raw_tls import RawTls

OnBody = Callable[[int, memoryview], None]  # delivery tag, body (valid until it returns)

GATHERED: Final = 1000  # pieces a system call: Linux takes 1024
MAX_FRAMES: Final = 128  # of one body, read at once
SEAM: Final = len(END) + HEAD.size
CHANNEL: Final = 1
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_START, _TUNE, _OPEN_OK = (10, 10), (10, 30), (10, 41)
_CHANNEL_OPEN_OK, _SELECT_OK, _QOS_OK, _CONSUME_OK = (20, 11), (85, 11), (60, 11), (60, 21)
_DELIVER, _ACK = (60, 60), (60, 80)


class RawFailed(RuntimeError):
    """The broker closed the connection or said something that a benchmark has no use for."""


class RawConnection:
    """One connection with one channel, ready to publish and consume.

    ``url`` is ``amqp://user:password@host:port/vhost``, or ``amqps://``. Every
    call that blocks gives up after ``timeout_s`` seconds. ``read_bytes`` is how much one read may
    take.
    """

    def __init__(self, url: str, *, timeout_s: float = 60.0, read_bytes: int = 1 << 18) -> None:
        at = urlsplit(url)
        self.user = unquote(at.username or "guest")
        self.confirmed = 0  # how many of ours the broker has
        self.on_body: OnBody = lambda _tag, _body: None
        self._unconfirmed: dict[int, None] = {}  # numbers, oldest first
        self._number = 0
        self._waiting: deque[Piece] = deque()
        self._replies: list[tuple[int, int]] = []
        self._in = memoryview(bytearray(max(read_bytes, FRAME_MAX)))
        self._start = self._end = 0
        self._seams = memoryview(bytearray(SEAM * MAX_FRAMES))
        self._body = memoryview(bytearray())
        self._filled = self._size = self._due = self._tag = 0
        plain = socket.create_connection((at.hostname or "", at.port or 5672), timeout_s)
        # Not settimeout(): Python would then poll before every read and write.
        limit = struct.pack("ll", int(timeout_s), 0)
        plain.settimeout(None)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket: Any = RawTls(plain) if at.scheme == "amqps" else plain
        self._open(self.user, unquote(at.password or ""), unquote(at.path[1:]) or "/")

    def _open(self, user: str, password: str, vhost: str) -> None:
        self._waiting.append(b"AMQP\x00\x00\x09\x01")
        self._expect(_START)
        answer = field_table({}) + short_text("PLAIN")
        answer += long_text(f"\0{user}\0{password}".encode()) + short_text("en_US")
        self._call(0, 10, 11, answer, reply=_TUNE)
        self._waiting.append(method_frame(0, 10, 31, struct.pack(">HIH", 8, FRAME_MAX, 0)))
        self._call(0, 10, 40, short_text(vhost) + b"\x00\x00", reply=_OPEN_OK)
        self._call(CHANNEL, 20, 10, b"\x00", reply=_CHANNEL_OPEN_OK)

    def confirm(self) -> None:
        """Have the broker confirm what is published from here on."""
        self._call(CHANNEL, 85, 10, b"\x00", reply=_SELECT_OK)

    def consume(self, queue: str, *, ack: bool, exclusive: bool = False, prefetch: int = 0) -> None:
        """Receive ``queue``; with ``ack``, at most ``prefetch`` unacknowledged (0: any number)."""
        self._call(CHANNEL, 60, 10, struct.pack(">IHB", 0, prefetch, 0), reply=_QOS_OK)
        self._waiting.append(consume_frame(CHANNEL, queue, ack=ack, exclusive=exclusive))
        self._expect(_CONSUME_OK)

    # --- out ------------------------------------------------------------------------------------

    def queue(self, pieces: Iterable[Piece]) -> None:
        """Have a message, laid out by `raw_frames.message`, go out with ``flush``."""
        self._waiting.extend(pieces)
        self._number += 1
        self._unconfirmed[self._number] = None

    def acknowledge(self, tag: int) -> None:
        """Acknowledge all deliveries up to ``tag``; goes out with ``flush``."""
        self._waiting.append(method_frame(CHANNEL, 60, 80, struct.pack(">QB", tag, 1)))

    def flush(self) -> bool:
        """Send what waits; False if the socket does not block and took only a part.

        Raises:
            RawFailed: the socket blocks, and the broker took nothing for too long.
        """
        waiting = self._waiting
        while waiting:
            try:
                sent = self.socket.sendmsg(list(islice(waiting, GATHERED)))
            except BlockingIOError:
                self._check_patience()
                return False
            while sent:
                first = waiting.popleft()
                if sent < len(first):
                    waiting.appendleft(memoryview(first)[sent:])
                    break
                sent -= len(first)
        return True

    # --- in -------------------------------------------------------------------------------------

    def take(self) -> None:
        """Read once and act upon what came; waits for it if the socket blocks.

        Raises:
            RawFailed: the broker closed the connection or channel, refused a message, or was
                silent for too long.
        """
        try:
            if self._due > 1 and self._start == self._end:
                self._read_body()
            else:
                self._read()
        except BlockingIOError:
            self._check_patience()
        self._parse()

    def _check_patience(self) -> None:
        """Where the socket blocks, the kernel gives up with the error that means "not now"."""
        if self.socket.getblocking():
            raise RawFailed("the broker was silent for too long")

    def _read(self) -> None:
        if self._start:  # less than a frame's head or one small frame: cheap to move
            rest = self._end - self._start
            self._in[:rest] = bytes(self._in[self._start : self._end])
            self._start, self._end = 0, rest
        count = self.socket.recv_into(self._in[self._end :])
        if not count:
            raise RawFailed("the broker closed the connection")
        self._end += count

    def _read_body(self) -> None:
        """Read all that may come of this body to its place, what follows it into the buffer.

        How the rest is cut into frames is known, so what lies between two of them (one's end and
        the next one's head) is read aside, and compared with what it must be.
        """
        wanted = [self._due - 1, *frame_sizes(self._size - self._filled - self._due + 1)]
        del wanted[MAX_FRAMES:]
        places: list[memoryview] = []
        at = self._filled
        for number, size in enumerate(wanted):
            places += (self._body[at : at + size], self._seams[number * SEAM : (number + 1) * SEAM])
            at += size
        places[-1] = self._in
        count = self.socket.recvmsg_into(places)[0]
        if not count:
            raise RawFailed("the broker closed the connection")
        self._start = self._end = 0
        for number, size in enumerate(wanted):
            taken = min(count, size)
            self._filled += taken
            self._due -= taken
            count -= taken
            if taken < size or number == len(wanted) - 1:
                break
            seam = self._seams[number * SEAM : number * SEAM + min(SEAM, count)]
            if len(seam) < SEAM:
                self._in[: len(seam)] = seam
                break
            if seam != END + HEAD.pack(_BODY, CHANNEL, wanted[number + 1]):
                raise RawFailed("a body is not cut into frames as expected")
            self._due = wanted[number + 1] + 1
            count -= SEAM
        self._end = count

    def _parse(self) -> None:
        while self._start < self._end:
            if self._due:
                self._copy_body()
                continue
            if self._end - self._start < HEAD.size:
                return
            kind, _channel, size = HEAD.unpack_from(self._in, self._start)
            if kind == _BODY:
                self._start += HEAD.size
                self._due = size + 1
                continue
            after = self._start + HEAD.size + size + 1
            if after > self._end:
                return
            payload = self._in[self._start + HEAD.size : after - 1]
            self._start = after
            if kind == _METHOD:
                self._method(payload)
            elif kind == _HEADER:
                self._begin_body(int.from_bytes(payload[4:12], "big"))

    def _begin_body(self, size: int) -> None:
        self._filled, self._size = 0, size
        if len(self._body) < size:
            self._body = memoryview(bytearray(size))

    def _copy_body(self) -> None:
        taken = min(self._due - 1, self._end - self._start)
        if taken:
            place = self._body[self._filled : self._filled + taken]
            place[:] = self._in[self._start : self._start + taken]
            self._filled += taken
            self._start += taken
            self._due -= taken
        if self._due == 1 and self._start < self._end:  # the frame's end octet
            self._start += 1
            self._due = 0
            if self._filled == self._size:
                self.on_body(self._tag, self._body[: self._size])

    def _method(self, payload: memoryview) -> None:
        name = (int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big"))
        if name == _DELIVER:
            tag_at = 5 + payload[4]
            self._tag = int.from_bytes(payload[tag_at : tag_at + 8], "big")
        elif name == _ACK:
            self._confirm(int.from_bytes(payload[4:12], "big"), multiple=bool(payload[12] & 1))
        elif name in IDLE_METHODS:
            self._replies.append(name)
        else:
            raise RawFailed(f"the broker sent method {name}: {bytes(payload[4:])!r:.300}")

    def _confirm(self, number: int, *, multiple: bool) -> None:
        if not multiple:
            del self._unconfirmed[number]
            self.confirmed += 1
            return
        for each in list(self._unconfirmed):
            if each > number:
                break
            del self._unconfirmed[each]
            self.confirmed += 1

    @property
    def waiting(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._waiting)

    @property
    def unconfirmed(self) -> int:
        """How many messages the broker has not confirmed yet."""
        return len(self._unconfirmed)

    # --- what is asked and answered ---------------------------------------------------------------

    def _call(
        self, channel: int, group: int, number: int, arguments: bytes, *, reply: tuple[int, int]
    ) -> None:
        self._waiting.append(method_frame(channel, group, number, arguments))
        self._expect(reply)

    def _expect(self, reply: tuple[int, int]) -> None:
        self.flush()
        while reply not in self._replies:
            self.take()
        self._replies.remove(reply)

    def close(self) -> None:
        """Hang up; the broker takes that for a close."""
        self.socket.close()
