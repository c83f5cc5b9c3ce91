"""A wire between a worker and the broker that can be held and cut."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit


class Relay:
    """Passes bytes on; ``hold`` stops those towards the broker, ``cut`` ends all connections."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._broker = (parts.hostname or "", parts.port or 0)
        self._server = socket.create_server(("127.0.0.1", 0))
        user, _, _ = parts.netloc.rpartition("@")
        port = self._server.getsockname()[1]
        self.url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}"))
        self._flows = threading.Event()
        self._flows.set()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """What the worker says reaches nobody from now on."""
        self._flows.clear()

    def cut(self) -> None:
        """End every connection, with all that was held back."""
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()
        self._flows.set()

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
                broker = socket.create_connection(self._broker)
                self._sockets += [worker, broker]
                for ends in ((worker, broker, True), (broker, worker, False)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, held: bool) -> None:
        with suppress(OSError), source:
            while data := source.recv(1 << 16):
                if held:
                    self._flows.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def relay(url: str) -> Iterator[Relay]:
    """A relay to the broker at ``url``."""
    between = Relay(url)
    try:
        yield between
    finally:
        between.close()
