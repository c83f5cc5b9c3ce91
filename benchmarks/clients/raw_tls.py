"""TLS for `raw_amqp`: the barest way to encrypt in Python, through memory, without a check.

It gives the calls of a socket that `raw_amqp` makes. Whom it talks to it does not ask: a measuring
device, not a client.
"""

import socket
import ssl
from collections.abc import Sequence
from typing import Final

from benchmarks.clients.raw_frames import Piece

RECORD_BYTES: Final = 16384  # of plain text, at most
RECEIVED_BYTES: Final = 131072


class RawTls:
    """The client's end of TLS over ``sock``, which blocks."""

    def __init__(self, sock: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._received = memoryview(bytearray(RECEIVED_BYTES))
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._receive()
        self._flush()

    def sendmsg(self, pieces: Sequence[Piece]) -> int:
        """Send all of ``pieces``; return how many bytes they have."""
        sent, small = 0, bytearray()
        for piece in pieces:
            view = memoryview(piece)
            sent += len(view)
            free = RECORD_BYTES - len(small)
            small += view[:free]
            if len(small) < RECORD_BYTES:
                continue
            self._tls.write(small)
            view, small = view[free:], bytearray()
            while len(view) >= RECORD_BYTES:
                self._tls.write(view[:RECORD_BYTES])
                view = view[RECORD_BYTES:]
            small += view
        if small:
            self._tls.write(small)
        self._flush()
        return sent

    def recv_into(self, place: memoryview) -> int:
        """Read what is there, or wait for it; 0 is the end."""
        done = 0
        while done < len(place):
            try:
                done += self._tls.read(len(place) - done, place[done:])  # type: ignore[operator]
            except ssl.SSLWantReadError:
                if done:
                    break
                if not self._receive():
                    break
        return done

    def recvmsg_into(self, places: Sequence[memoryview]) -> tuple[int]:
        """The same, scattered."""
        done = 0
        for place in places:
            if done and not (self._incoming.pending or self._tls.pending()):
                break
            size = self.recv_into(place)
            done += size
            if size < len(place):
                break
        return (done,)

    def getblocking(self) -> bool:
        """It blocks."""
        return True

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._sock.sendall(self._outgoing.read())

    def _receive(self) -> int:
        size = self._sock.recv_into(self._received)
        self._incoming.write(self._received[:size])
        return size
