"""The broker's URL, read once for all: passwords may hold any character, and no message quotes one.

``urllib`` takes a ``/``, ``?`` or ``#`` in a password for the end of the host, and its errors then
quote a piece of it.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from warren_shared.errors import ConfigError

FORM: Final = "amqp://user:password@host:port/vhost"  # or host1:port,host2:port
_PATTERN: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9]*)://(?P<rest>[^\x00-\x20\x7f]+)")


@dataclass(frozen=True)
class BrokerUrl:
    """The parts of a URL, decoded; ``user`` and ``password`` are None where there is none.

    ``hosts`` are the nodes of one broker, each with its port, None where the URL names none.
    """

    scheme: str
    user: str | None
    password: str | None = field(repr=False)
    hosts: tuple[tuple[str, int | None], ...]
    vhost: str
    query: str

    @property
    def host(self) -> str:
        """The first host."""
        return self.hosts[0][0]

    @property
    def port(self) -> int | None:
        """The first host's port."""
        return self.hosts[0][1]

    @classmethod
    def parse(cls, url: str, schemes: tuple[str, ...] = ("amqp", "amqps")) -> "BrokerUrl":
        """Read ``url``; the login ends at its last ``@``, whatever stands in the password.

        Raises ConfigError, without a piece of it.
        """
        matched = _PATTERN.fullmatch(url.strip())
        if matched is None or matched["scheme"] not in schemes:
            raise _wrong(schemes)
        login, at, place = matched["rest"].rpartition("@")
        if (
            at and "/" in login and (":" not in login or login.startswith("["))
        ):  # no login, and an @ in the vhost
            login, at, place = "", "", matched["rest"]
        user, colon, password = login.partition(":")
        authority, path = _split(place)
        if "://" in path:  # it is said once, before the first host
            raise _wrong(schemes)
        try:
            parts = urlsplit(f"//host{path}")
            hosts = tuple(map(_host, authority.split(",")))
            vhost, query = unquote(parts.path.removeprefix("/"), errors="strict"), parts.query
        except ValueError:
            raise _wrong(schemes) from None
        # urllib would read "host:pass/word" as a host; a port there is a number or nothing.
        if parts.fragment and not query and not parts.path:
            raise _wrong(schemes)
        return cls(
            matched["scheme"],
            unquote(user) if user else None,
            unquote(password) if colon else None,
            hosts,
            vhost or "/",
            query,
        )

    def each(self) -> tuple["BrokerUrl", ...]:
        """One URL for each of the hosts."""
        return tuple(replace(self, hosts=(host,)) for host in self.hosts)

    def encoded(self) -> str:
        """The URL again, with all that is not plain in it encoded."""
        login = ""
        if self.user is not None:
            login = f"{quote(self.user, safe='')}:{quote(self.password or '', safe='')}@"
        query = f"?{self.query}" if self.query else ""
        hosts = ",".join(host_and_port(*host) for host in self.hosts)
        return f"{self.scheme}://{login}{hosts}/{quote(self.vhost, safe='')}{query}"


def host_and_port(host: str, port: int | None = None) -> str:
    """``host:port`` as a URL has it, an IPv6 address in brackets."""
    text = f"[{host}]" if ":" in host else host
    return text if port is None else f"{text}:{port}"


def _split(place: str) -> tuple[str, str]:
    """The hosts, and what follows them."""
    end = re.search(r"[/?#]", place)
    return (place, "") if end is None else (place[: end.start()], place[end.start() :])


def _host(text: str) -> tuple[str, int | None]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or "@" in text:
        raise ValueError("no host")
    return parts.hostname, parts.port


def _wrong(schemes: tuple[str, ...]) -> ConfigError:
    if "amqp" in schemes:
        return ConfigError(
            f"the broker URL is not of the form {FORM} (several nodes: host1:port,host2:port)"
        )
    return ConfigError("the management URL is not like http://user@host:15672")
