"""TLS over a socket that does not block, by way of memory.

An ``ssl.SSLSocket`` makes two system calls for each record (16 KiB at most) that it reads: 0.63 s
of a processor for each GB, measured over loopback with OpenSSL 3. Here the socket is read 128 KiB
at a time and OpenSSL decrypts from there to where the bytes will stay: 0.35 s.
"""

import socket
import ssl
from contextlib import suppress
from typing import Final

from warren_shared.protocol.codec import Piece

RECEIVED_BYTES: Final = 131072  # at a time; what is in the processor's cache is decrypted fastest
RECORD_BYTES: Final = 16384  # of plain text in a record, at most


class TlsStream:
    """The client's side of TLS with ``host``, over ``sock``, which is connected.

    What cannot go on now raises BlockingIOError and can be called again: when the socket can be
    read, or if ``has_unsent``, when it can be written.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str | None) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._received = memoryview(bytearray(RECEIVED_BYTES))
        self._unsent = memoryview(b"")

    def handshake(self) -> None:
        """Return when it is done, but for what is unsent; raises what `ssl` does if it fails."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self._receive()
            except ssl.SSLError:
                self._try_to_flush()  # the alert that tells the other side why
                raise
            else:
                self._try_to_flush()
                return

    @property
    def has_unsent(self) -> bool:
        """Whether there is something for ``flush``."""
        return bool(self._unsent) or bool(self._outgoing.pending)

    def flush(self) -> None:
        """Send all that is encrypted; raises BlockingIOError if the socket does not take it all."""
        while self.has_unsent:
            if not self._unsent:
                self._unsent = memoryview(self._outgoing.read())
            self._unsent = self._unsent[self._sock.send(self._unsent) :]

    def write(self, piece: Piece) -> int:
        """Encrypt the beginning of ``piece``, a record at most, for ``flush``; return its size.

        Raises:
            ssl.SSLWantReadError: the other side wants new keys (TLS 1.2). It is to be called again
                with the same bytes, which may be more, when something was read.
        """
        return self._tls.write(piece)

    def read_into(self, place: memoryview) -> int:
        """Decrypt into ``place``, all that is here; return how many bytes, 0 at the stream's end.

        What this has to answer (new keys) is unsent then.
        """
        done = 0
        while done < len(place):
            try:
                size: int = self._tls.read(len(place) - done, place[done:])  # type: ignore[assignment]
            except ssl.SSLWantReadError:
                if done:
                    break
                self._receive()
            else:
                if not size:
                    break
                done += size
        return done

    def _receive(self) -> None:
        size = self._sock.recv_into(self._received)
        if size:
            self._incoming.write(self._received[:size])
        else:
            self._incoming.write_eof()

    def _try_to_flush(self) -> None:
        with suppress(OSError):
            self.flush()
