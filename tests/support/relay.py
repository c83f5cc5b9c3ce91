"""A wire between a worker and the broker that can be held, slowed and cut."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

_FRAME = struct.Struct(">BHL")
METHOD, BASIC_ACK = 1, bytes([0, 60, 0, 80])


class Relay:
    """Passes bytes on to the broker at ``url`` and back, for whoever connects to ``self.url``."""

    def __init__(self, url: str, port: int = 0) -> None:
        parts = urlsplit(url)
        self._broker = (parts.hostname or "", parts.port or 0)
        self._server = socket.create_server(("127.0.0.1", port))
        user, _, _ = parts.netloc.rpartition("@")
        port = self._server.getsockname()[1]
        self.url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}"))
        self._flows = threading.Event()
        self._flows.set()
        self._is_gone = False
        self._pause_s = 0.0
        self._fuse: int | None = None
        self._swallows = False
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """What the worker says reaches nobody from now on."""
        self._flows.clear()

    def vanish(self) -> None:
        """The worker's machine is gone without a word: neither bytes nor ends pass any more."""
        self._is_gone = True
        self._flows.clear()

    def release(self) -> None:
        """All flows again, as fast as it can."""
        self._pause_s = 0.0
        self._fuse = None
        self._flows.set()

    def slow(self, pause_s: float) -> None:
        """Pause after every 64 KiB from the worker."""
        self._pause_s = pause_s

    def swallow_confirms(self, swallows: bool = True) -> None:
        """From now on connections that begin hear of no publication that the broker has it."""
        self._swallows = swallows

    def cut_after(self, size: int) -> None:
        """Cut when the worker has sent ``size`` bytes more."""
        self._fuse = size

    def half_close(self) -> None:
        """Tell the broker that the worker has nothing more to say."""
        for end in self._sockets[1::2]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End every connection, with all that was held back."""
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()
        self.release()

    def close(self) -> None:
        """Cut, and accept nobody any more."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                worker, _address = self._server.accept()
                try:
                    broker = socket.create_connection(self._broker)
                except OSError:
                    worker.close()
                    continue
                self._sockets += [worker, broker]
                for ends in ((worker, broker, True), (broker, worker, False)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, from_worker: bool) -> None:
        confirms = _Confirms() if self._swallows and not from_worker else None
        with suppress(OSError), source:
            while data := source.recv(1 << 16):
                if confirms is not None:
                    data = confirms.taken_out(data)
                if from_worker:
                    self._flows.wait()
                    if self._pause_s:
                        threading.Event().wait(self._pause_s)
                    if self._fuse is not None and self._burn(target, data):
                        return
                if not self._is_gone:
                    target.sendall(data)
        if not self._is_gone:
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)

    def _burn(self, target: socket.socket, data: bytes) -> bool:
        left = self._fuse or 0
        if len(data) < left:
            self._fuse = left - len(data)
            return False
        target.sendall(data[:left])
        self.cut()
        return True


class _Confirms:
    """Takes the frames of Basic.Ack out of what a broker says."""

    def __init__(self) -> None:
        self._rest = b""

    def taken_out(self, data: bytes) -> bytes:
        data, kept = self._rest + data, b""
        while len(data) >= _FRAME.size:
            kind, _channel, size = _FRAME.unpack_from(data)
            frame, data = data[: _FRAME.size + size + 1], data[_FRAME.size + size + 1 :]
            if len(frame) < _FRAME.size + size + 1:
                data = frame
                break
            if kind != METHOD or frame[_FRAME.size : _FRAME.size + 4] != BASIC_ACK:
                kept += frame
        self._rest = data
        return kept


@contextmanager
def relay(url: str) -> Iterator[Relay]:
    """A relay to the broker at ``url``."""
    between = Relay(url)
    try:
        yield between
    finally:
        between.close()
