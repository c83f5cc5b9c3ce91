"""The way to the broker where only a proxy is let out: HTTP's CONNECT, or SOCKS5 (RFC 1928, 1929).

The proxy is asked for the broker by name, which a site need not be able to look up. What goes
through the tunnel is what goes over any connection: with ``amqps`` the proxy sees TLS, and the
certificate has to be the broker's. A tunnel is asked for on the connection's own thread, which has
nothing else to do until it stands.
"""

import base64
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from warren_shared.amqp.broker_url import BrokerUrl
from warren_shared.errors import ConfigError

NONE: Final = "none"  # the setting that goes straight, whatever the environment has
FORM: Final = "http://user:password@host:port or socks5://user:password@host:port"
ANSWER_S: Final = 8.0  # for all of the proxy's answers; less than pika gives a connection
MAX_BYTES: Final = 16384  # of an answer to CONNECT
PORTS: Final = {"http": 3128, "socks5": 1080, "socks5h": 1080}

_SOCKS_REFUSALS: Final = {
    1: "it failed",
    2: "its rules forbid it",
    3: "its network is unreachable",
    4: "it does not reach that host",
    5: "the broker's machine refused the connection",
    6: "the broker's machine did not answer",
    8: "it takes no names of hosts",
}


class ProxyFailed(OSError):
    """The proxy made no tunnel. ``final``: it will not make one the next time either."""

    def __init__(self, said: str, *, final: bool = False) -> None:
        super().__init__(said)
        self.final = final


@dataclass(frozen=True)
class Proxy:
    """A proxy, and how to log in there."""

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> "Proxy":
        """Read ``url``, as in ``https_proxy``; one without a scheme is an HTTP proxy's.

        Raises ConfigError, without a piece of it.
        """
        url = url.strip()
        if url.startswith("https://"):
            raise ConfigError("a proxy that wants TLS itself (https://) is not supported: use http")
        try:
            parts = BrokerUrl.parse(url if "://" in url else f"http://{url}", tuple(PORTS))
        except ConfigError:
            raise ConfigError(f"the proxy's URL is not of the form {FORM}") from None
        port = parts.port or PORTS[parts.scheme]
        return cls(parts.scheme, parts.host, port, parts.user, parts.password)

    def __str__(self) -> str:
        """Where it is, and no secret."""
        return f"the proxy at {self.host}:{self.port}"

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """A socket whose other end is ``host``; OSError if there is none to be had."""
        found = socket.create_connection((self.host, self.port), timeout_s)
        try:
            self.open(found, host, port)
            found.settimeout(timeout_s)
        except BaseException:
            found.close()
            raise
        return found

    def open(self, connected: socket.socket, host: str, port: int) -> None:
        """Have the proxy that ``connected`` leads to pass all that follows on to ``host``.

        Raises:
            ProxyFailed: it does not, or not within ``ANSWER_S`` seconds.
        """
        lines = _Lines(connected, time.monotonic() + ANSWER_S)
        try:
            (self._connect if self.scheme == "http" else self._socks)(lines, host, port)
        except ProxyFailed as error:
            raise ProxyFailed(f"{self}: {error}", final=error.final) from None
        except TimeoutError:
            raise ProxyFailed(f"{self} did not answer within {ANSWER_S:g} s") from None
        except OSError as error:
            raise ProxyFailed(f"{self}: {error.strerror or error}") from None

    def _connect(self, lines: "_Lines", host: str, port: int) -> None:
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        asked = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n"
        if self.user is not None:
            login = f"{self.user}:{self.password or ''}".encode()
            asked += f"Proxy-Authorization: Basic {base64.b64encode(login).decode('ascii')}\r\n"
        lines.send(f"{asked}\r\n".encode())
        head = lines.until(b"\r\n\r\n")
        version, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        status = rest[:3]
        if not version.startswith("HTTP/1.") or not status.isdecimal():
            raise ProxyFailed("no HTTP proxy answers there; is it socks5://?", final=True)
        if status[0] != "2":
            _refuse_connect(int(status), head.lower(), place, known=self.user is not None)

    def _socks(self, lines: "_Lines", host: str, port: int) -> None:
        logs_in = self.user is not None
        lines.send(b"\x05\x02\x00\x02" if logs_in else b"\x05\x01\x00")
        version, method = lines.exactly(2)
        if version != 5:
            raise ProxyFailed("no SOCKS5 proxy answers there; is it http://?", final=True)
        if method == 2 and logs_in:
            login = [(text or "").encode() for text in (self.user, self.password)]
            if max(map(len, login)) > 255:
                raise ProxyFailed("its name or password is longer than SOCKS5 can say", final=True)
            lines.send(b"\x01" + b"".join(bytes([len(text)]) + text for text in login))
            if lines.exactly(2)[1] != 0:
                raise ProxyFailed("it refuses the name or password in WARREN_PROXY", final=True)
        elif method != 0:
            raise _wants_login(known=logs_in)
        lines.send(b"\x05\x01\x00" + _socks_address(host) + struct.pack(">H", port))
        _, reply, _, kind = lines.exactly(4)
        if reply != 0:
            why = _SOCKS_REFUSALS.get(reply, f"reply {reply}")
            raise ProxyFailed(f"no way to {host}:{port}: {why}", final=reply == 2)
        length = {1: 4, 4: 16}.get(kind) or lines.exactly(1)[0]
        lines.exactly(length + 2)  # from where it goes on


class _Lines:
    """What the proxy says, and not a byte more: the next is the broker's."""

    def __init__(self, connected: socket.socket, until: float) -> None:
        self._socket, self._until = connected, until

    def send(self, data: bytes) -> None:
        self._socket.settimeout(self._left())
        self._socket.sendall(data)

    def exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            self._socket.settimeout(self._left())
            more = self._socket.recv(size - len(found))
            if not more:
                raise ProxyFailed("it closed the connection")
            found += more
        return found

    def until(self, end: bytes) -> bytes:
        found = b""
        while not found.endswith(end):
            if len(found) >= MAX_BYTES:
                raise ProxyFailed("its answer has no end; is it an HTTP proxy?")
            found += self.exactly(1)
        return found

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _refuse_connect(status: int, head: bytes, place: str, *, known: bool) -> NoReturn:
    if status == 407:
        if b"proxy-authenticate:" in head and b"basic" not in head:
            raise ProxyFailed("it wants a login by other means than a password", final=True)
        raise _wants_login(known=known)
    if status in (403, 405):
        raise ProxyFailed(f"it forbids CONNECT to {place}: have it allowed there", final=True)
    raise ProxyFailed(f"no way to {place}: it answers {status}")


def _wants_login(*, known: bool) -> ProxyFailed:
    if known:
        return ProxyFailed("it refuses the name or password in WARREN_PROXY", final=True)
    return ProxyFailed("it wants a name and password: put them into WARREN_PROXY", final=True)


def _socks_address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna")
        return bytes([3, len(name)]) + name
    return bytes([1 if address.version == 4 else 4]) + address.packed


def proxy_for(
    setting: str, broker: BrokerUrl, environment: Mapping[str, str] = os.environ
) -> Proxy | None:
    """The proxy that leads to ``broker``: the ``setting``'s, else the environment's; None is none.

    The environment's is ``https_proxy`` for amqps, then ``all_proxy``, in either case, but for
    hosts in ``no_proxy`` and this machine itself. Raises ConfigError if it is no URL.
    """
    if setting:
        return None if setting.strip().lower() == NONE else Proxy.parse(setting)
    names = ("https_proxy", "all_proxy") if broker.scheme == "amqps" else ("all_proxy",)
    found = next(filter(None, (_either(environment, name) for name in names)), "")
    if not found or _goes_straight(broker.host, _either(environment, "no_proxy")):
        return None
    try:
        return Proxy.parse(found)
    except ConfigError as error:
        raise ConfigError(
            f"{error} (from {' or '.join(names)}; WARREN_PROXY={NONE} goes without)"
        ) from None


def _either(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""


def _goes_straight(host: str, exceptions: str) -> bool:
    """Whether ``host`` is this machine, or ``exceptions`` name it, its domain, or its network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for word in exceptions.replace(",", " ").lower().split():
        if address is not None and "/" in word:
            try:
                if address in ipaddress.ip_network(word, strict=False):
                    return True
            except ValueError:
                continue
        name = word.lstrip("*").lstrip(".")
        if word == "*" or (name and (host.lower() == name or host.lower().endswith(f".{name}"))):
            return True
    return False
