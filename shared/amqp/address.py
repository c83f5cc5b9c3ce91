"""Where a broker is, and what it means when it does not let us in."""

import re
import ssl
from pathlib import Path
from typing import Any, Final

import pika
from pika import exceptions

from warren_shared.amqp.broker_url import FORM, BrokerUrl
from warren_shared.amqp.proxy import Proxy, ProxyFailed, proxy_for
from warren_shared.amqp.token import TokenFile
from warren_shared.errors import (
    BrokerRefused,
    BrokerUnavailable,
    ConfigError,
    NotThere,
    WarrenError,
)
from warren_shared.tls import Broker, explain
from warren_shared.version import release

# RabbitMQ looks once in a heartbeat whether anything has come, and ends the connection when twice
# in a row nothing had: a machine that goes without a word holds its place for 40 to 60 seconds.
# Less would take a virtual machine that is being moved for a dead one.
HEARTBEAT_S: Final = 20
CONNECT_TIMEOUT_S: Final = 10
THROUGH: Final = " through "  # before the proxy, where it is said where the broker is


class _Parameters(pika.URLParameters):  # type: ignore[misc]
    """pika's, and which proxy leads there."""

    proxy: Proxy | None = None


class TokenCredentials(pika.credentials.PlainCredentials):  # type: ignore[misc]
    """Credentials: the token that is in a file at the time of login."""

    def __init__(self, user: str, file: TokenFile) -> None:
        super().__init__(user, "")
        self.file = file

    def response_for(self, start: Any) -> Any:
        """What pika answers the broker with."""
        self.password = self.file.token
        return super().response_for(start)


def has_token(told: Any) -> bool:
    """Whether a login with these parameters uses a token."""
    return isinstance(told.credentials, TokenCredentials)


def has_ended(told: Any) -> bool:
    """Whether the token of the last login with these parameters has expired."""
    return has_token(told) and told.credentials.file.has_ended


def parameters(broker: str | Broker, name: str) -> list[Any]:
    """Pika parameters for each host of ``broker``, in the order of its URL.

    The management UI will call the connection ``name``. Their ``proxy`` is the one that leads
    there, or None. Raises ConfigError if a URL is none, or what TLS needs cannot be read.
    """
    broker = Broker(broker) if isinstance(broker, str) else broker
    parts = BrokerUrl.parse(broker.url)
    context = broker.context() if parts.scheme == "amqps" else None
    found = [_parameters(broker, host, context, name) for host in parts.each()]
    if broker.token_file:
        if parts.user is None:
            raise ConfigError("--token-file needs the user in the broker URL: amqps://user@host")
        if parts.password is not None:
            raise ConfigError(
                "there is a password in the broker URL beside --token-file (WARREN_TOKEN_FILE), and"
                " only one logs in: take the password out of WARREN_BROKER_URL, or leave out that"
            )
        token = TokenFile.read(Path(broker.token_file))
        for told in found:
            told.credentials = TokenCredentials(parts.user, token)
    return found


def _parameters(broker: Broker, parts: BrokerUrl, context: ssl.SSLContext | None, name: str) -> Any:
    try:
        found = _Parameters(parts.encoded())
    except Exception:  # noqa: BLE001  pika raises whatever its parts raise, password included
        raise ConfigError(f"the broker URL is not of the form {FORM}") from None
    if context is not None:
        found.ssl_options = pika.SSLOptions(context, found.host)
        if broker.tls_certificate and parts.password is None:
            found.credentials = pika.credentials.ExternalCredentials()
            found.credentials.username = parts.user
    found.proxy = proxy_for(broker.proxy, parts)
    found.client_properties = {"connection_name": name, "product": "Warren", "version": release()}
    if found.heartbeat is None:  # the URL may ask for another with ?heartbeat=SECONDS
        found.heartbeat = HEARTBEAT_S
    found.socket_timeout = found.stack_timeout = CONNECT_TIMEOUT_S
    found.connection_attempts = 1
    return found


def location(*hosts: Any) -> str:
    """Where those who have these parameters connect to, in words, without a password."""
    places = " or ".join(f"{host.host}:{host.port}" for host in hosts)
    proxy = hosts[0].proxy
    places += f"{THROUGH}{proxy}" if proxy else ""
    user = hosts[0].credentials.username
    return f"the broker at {places}, vhost {hosts[0].virtual_host!r}, as {user!r}"


def refusal(error: Any, where: str, what: str = "") -> WarrenError:
    """What the broker said when it closed a channel or connection, over ``what`` if known."""
    kind = NotThere if error.reply_code == 404 else BrokerRefused
    refused = f"the broker refused {what}" if what else f"{where} refused"
    return kind(f"{refused}: {error.reply_text}")


def is_final(error: Any) -> bool:
    """Whether the broker closed a channel over what it will refuse again."""
    # 406 has many reasons; one is a delivery that stayed unacknowledged for too long.
    final = any(words in error.reply_text for words in ("user_id", "message size"))
    return final or (error.reply_code in (403, 404) and not is_away(error.reply_text))


def is_away(reply: str) -> bool:
    """Whether the broker means that the node of a queue is down, and not that there is none."""
    return "down or inaccessible" in reply


def queue_in(reply: str) -> str | None:
    """The queue that the broker speaks of when it closes a channel."""
    found = re.search(r"queue '([^']+)' in vhost", reply)
    return found[1] if found else None


def diagnose(error: Exception, where: str, *, by_token: bool = False) -> tuple[WarrenError, bool]:
    """What a failed connection means for the user, and whether waiting cannot help.

    ``by_token``: the password was a token.
    """
    if _cut_off(error):
        return BrokerUnavailable(f"{where} ended while it let us in: it may be restarting"), False
    if isinstance(error, exceptions.ConnectionClosedByBroker):
        return refusal(error, where), error.reply_code in (403, 530)
    for kind, words, hint, final in (*(_OF_A_TOKEN if by_token else ()), *_REFUSALS):
        if isinstance(error, kind) and words in str(error):
            return BrokerRefused(f"{where} refused{hint}"), final
    root = _root(error)
    if isinstance(root, ProxyFailed):
        kind = BrokerRefused if root.final else BrokerUnavailable
        return kind(f"cannot reach {where}: {root}"), root.final
    if isinstance(root, ssl.SSLError) or "[SSL" in str(root):  # pika may have only its text
        said, final = explain(str(root))
        return (BrokerRefused if final else BrokerUnavailable)(f"{where}: {said}"), final
    hint = "start one with `broker-config up`, or check WARREN_BROKER_URL"
    if THROUGH in where:
        hint = "does the proxy run, and let this through? (WARREN_PROXY; none: without it)"
    if isinstance(root, exceptions.IncompatibleProtocolError):
        hint = "if it speaks TLS there, begin WARREN_BROKER_URL with amqps://"
    said = str(root) or type(root).__name__
    return BrokerUnavailable(f"cannot reach {where} ({said}): {hint}"), False


_OF_A_TOKEN: Final = (
    (
        exceptions.ProbableAuthenticationError,
        "",
        " the token (--token-file): it has ended, is not this user's, or not for this broker; have"
        " it renewed",
        True,
    ),
)
_REFUSALS: Final = (
    (
        exceptions.ProbableAccessDeniedError,
        "connection limit",
        ": too many connections of this user; is another worker running with this bundle?",
        False,  # those of a line that broke are given up in a minute or two
    ),
    (
        exceptions.ProbableAuthenticationError,
        "",
        " the password: use the bundle that `broker-config enrol` wrote",
        True,
    ),
    (exceptions.AuthenticationError, "", " the login: it knows users by other means", True),
    (exceptions.ProbableAccessDeniedError, "", ": no such vhost, or no permission in it", True),
)


def _cut_off(error: Exception) -> bool:
    """Whether the broker was booting or killed in mid-handshake: pika guesses at a refusal."""
    guesses = (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)
    said = str(error.args[0]) if error.args else ""
    # 541: the virtual host is there, but has not started yet.
    return isinstance(error, guesses) and said.startswith(
        ("StreamLostError", "ConnectionClosedByBroker: (541)")
    )


def _root(error: BaseException) -> BaseException:
    """The last cause: pika wraps the socket's error several times."""
    while True:
        inner = getattr(error, "exceptions", None) or getattr(error, "exception", None)
        inner = inner or (error.args[0] if error.args else None)
        if isinstance(inner, list | tuple) and inner:
            inner = inner[-1]
        if not isinstance(inner, BaseException):
            return error
        error = inner
