"""A proxy of a site's: HTTP's CONNECT and SOCKS5, with a login, and nothing else goes through it.

``python -m tests.support.proxy --port 443 --kind connect --login site:secret`` runs one, which
tells each goal that it was asked for on a line of its own.
"""

import argparse
import base64
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

KINDS = ("connect", "socks5")


class Proxy:
    """Passes on what it is asked to; ``goals`` are the hosts and ports so far, as they were said.

    ``login`` is ``name:password``, or "" for anybody. ``answer`` is what CONNECT is answered
    instead of a tunnel.
    """

    def __init__(
        self,
        kind: str,
        login: str = "",
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        answer: bytes = b"",
        told: Callable[[str], None] = lambda _stopping: None,
    ) -> None:
        self.goals: list[str] = []
        self._kind, self._login, self._answer, self._told = kind, login, answer, told
        self._server = socket.create_server((address, port))
        scheme = "http" if kind == "connect" else "socks5"
        self.port = self._server.getsockname()[1]
        self.place = f"{address}:{self.port}"
        self.url = f"{scheme}://{f'{login}@' if login else ''}{self.place}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every tunnel."""
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no more, and end what there is."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def serve(self) -> None:
        """Wait for ever."""
        threading.Event().wait()

    def _accept(self) -> None:
        while True:
            try:
                near = self._server.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        self._open.append(near)
        with suppress(OSError, EOFError), near:
            far = (self._connect if self._kind == "connect" else self._socks)(near)
            if far is None:
                return
            self._open.append(far)
            with far:
                back = threading.Thread(target=_pass_on, args=(far, near), daemon=True)
                back.start()
                _pass_on(near, far)
                back.join()

    def _to(self, host: str, port: int) -> socket.socket:
        self.goals.append(f"{host}:{port}")
        self._told(self.goals[-1])
        return socket.create_connection((host, port), 10)

    def _connect(self, near: socket.socket) -> socket.socket | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += _exactly(near, 1)
        if self._answer:
            near.sendall(self._answer)
            return None
        wanted = b"Proxy-Authorization: Basic " + base64.b64encode(self._login.encode()) + b"\r\n"
        if self._login and wanted not in head:
            near.sendall(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b'Proxy-Authenticate: Basic realm="site"\r\n\r\n'
            )
            return None
        host, _, port = head.split()[1].decode().rpartition(":")
        try:
            far = self._to(host.strip("[]"), int(port))
        except OSError:
            near.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return None
        # Who reads on to the next line takes the broker's first bytes for it.
        near.sendall(b"HTTP/1.1 200 Connection established\r\nVia: site\r\n\r\n")
        return far

    def _socks(self, near: socket.socket) -> socket.socket | None:
        methods = _exactly(near, _exactly(near, 2)[1])
        method = 2 if self._login else 0
        if method not in methods:
            near.sendall(b"\x05\xff")
            return None
        near.sendall(bytes([5, method]))
        if self._login:
            name = _exactly(near, _exactly(near, 2)[1]).decode()
            password = _exactly(near, _exactly(near, 1)[0]).decode()
            right = f"{name}:{password}" == self._login
            near.sendall(b"\x01\x00" if right else b"\x01\x01")
            if not right:
                return None
        kind = _exactly(near, 4)[3]
        if kind == 3:
            host = _exactly(near, _exactly(near, 1)[0]).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, _exactly(near, size))
        port = int.from_bytes(_exactly(near, 2), "big")
        try:
            far = self._to(host, port)
        except OSError:
            near.sendall(b"\x05\x05\x00\x01" + bytes(6))
            return None
        near.sendall(b"\x05\x00\x00\x03\x04site\x00\x00")
        return far


def _exactly(source: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = source.recv(size - len(found))
        if not more:
            raise EOFError
        found += more
    return found


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(kind: str, login: str = "", *, answer: bytes = b"") -> Iterator[Proxy]:
    """A proxy on this machine, which ends with the block."""
    made = Proxy(kind, login, answer=answer)
    try:
        yield made
    finally:
        made.close()


def main() -> None:
    """Run one until it is killed."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--kind", choices=KINDS, required=True)
    flags.add_argument("--address", default="0.0.0.0")  # noqa: S104  of a namespace
    flags.add_argument("--port", type=int, required=True)
    flags.add_argument("--login", default="")
    told = flags.parse_args()

    def say(goal: str) -> None:
        sys.stdout.write(f"{goal}\n")
        sys.stdout.flush()

    made = Proxy(told.kind, told.login, address=told.address, port=told.port, told=say)
    say("ready")
    made.serve()


if __name__ == "__main__":
    main()
