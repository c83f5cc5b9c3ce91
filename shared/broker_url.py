"""The broker's URL, read once for all: passwords may hold any character, and no message quotes one.

``urllib`` takes a ``/``, ``?`` or ``#`` in a password for the end of the host, and its errors then
quote a piece of it.
"""

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from shared.errors import ConfigError

FORM: Final = "amqp://user:password@host:port/vhost"
_PATTERN: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9]*)://(?P<rest>[^\x00-\x20\x7f]+)")


@dataclass(frozen=True)
class BrokerUrl:
    """The parts of a URL, decoded; ``user`` and ``password`` are None where there is none."""

    scheme: str
    user: str | None
    password: str | None = field(repr=False)
    host: str
    port: int | None
    vhost: str
    query: str

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
        try:
            parts = urlsplit(f"//{place}")
            host, port = parts.hostname, parts.port
            vhost, query = unquote(parts.path.removeprefix("/"), errors="strict"), parts.query
        except ValueError:
            raise _wrong(schemes) from None
        if host and "," in host:
            raise ConfigError("the broker URL names several hosts, and only one is supported")
        # urllib would read "host:pass/word" as a host; a port there is a number or nothing.
        if not host or (parts.fragment and not query and not parts.path):
            raise _wrong(schemes)
        return cls(
            matched["scheme"],
            unquote(user) if user else None,
            unquote(password) if colon else None,
            host,
            port,
            vhost or "/",
            query,
        )

    def encoded(self) -> str:
        """The URL again, with all that is not plain in it encoded."""
        login = ""
        if self.user is not None:
            login = f"{quote(self.user, safe='')}:{quote(self.password or '', safe='')}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None else ""
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{login}{host}{port}/{quote(self.vhost, safe='')}{query}"


def _wrong(schemes: tuple[str, ...]) -> ConfigError:
    if "amqp" in schemes:
        return ConfigError(f"the broker URL is not of the form {FORM}")
    return ConfigError("the management URL is not like http://user@host:15672")
