"""Where a broker is, and what it means when it does not let us in."""

from typing import Any, Final

import pika
from pika import exceptions

from shared.errors import BrokerRefused, BrokerUnavailable, ConfigError, WarrenError

HEARTBEAT_S: Final = 60
CONNECT_TIMEOUT_S: Final = 10


def parameters(url: str, name: str) -> Any:
    """Pika parameters for ``url``; the management UI will call the connection ``name``."""
    try:
        if not url.startswith(("amqp://", "amqps://")):
            raise ValueError(url)
        found = pika.URLParameters(url)
    except Exception:  # noqa: BLE001  pika raises whatever its parts raise, password included
        raise ConfigError(
            "the broker URL is not of the form amqp://user:password@host:port/vhost"
        ) from None
    found.client_properties = {"connection_name": name, "product": "Warren"}
    if found.heartbeat is None:  # the URL may ask for another with ?heartbeat=SECONDS
        found.heartbeat = HEARTBEAT_S
    found.socket_timeout = found.stack_timeout = CONNECT_TIMEOUT_S
    found.connection_attempts = 1
    return found


def refusal(error: Any, where: str) -> WarrenError:
    """What the broker said when it closed a channel or connection."""
    return BrokerRefused(f"{where} refused: {error.reply_text}")


def is_final(error: Any) -> bool:
    """Whether the broker closed a channel over what it will refuse again."""
    # 406 has many reasons; one is a delivery that stayed unacknowledged for too long.
    final = any(words in error.reply_text for words in ("user_id", "message size"))
    return error.reply_code in (403, 404) or final


def diagnose(error: Exception, where: str) -> tuple[WarrenError, bool]:
    """What a failed connection means for the user, and whether waiting cannot mend it."""
    if _cut_off(error):
        return BrokerUnavailable(f"{where} ended while it let us in: it may be restarting"), False
    if "connection limit" in str(error):
        mend = "is another worker running with this bundle?"
        return BrokerRefused(f"{where} refused: too many connections of this user; {mend}"), False
    if isinstance(error, exceptions.ProbableAuthenticationError):
        mend = "use the bundle that `broker-config enrol` wrote"
        return BrokerRefused(f"{where} refused the password: {mend}"), True
    if isinstance(error, exceptions.ProbableAccessDeniedError):
        return BrokerRefused(f"{where} refused: no such vhost, or no permission in it"), True
    if isinstance(error, exceptions.ConnectionClosedByBroker):
        return refusal(error, where), error.reply_code in (403, 530)
    mend = "start one with `broker-config up`, or check WARREN_BROKER_URL"
    return BrokerUnavailable(f"cannot reach {where} ({_root(error)}): {mend}"), False


def _cut_off(error: Exception) -> bool:
    """Whether the broker was booting or killed in mid-handshake: pika guesses at a refusal."""
    guesses = (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)
    said = str(error.args[0]) if error.args else ""
    # 541: the virtual host is there, but has not started yet.
    return isinstance(error, guesses) and said.startswith(
        ("StreamLostError", "ConnectionClosedByBroker: (541)")
    )


def _root(error: BaseException) -> str:
    """The last cause in words: pika wraps the socket's error several times."""
    while True:
        inner = getattr(error, "exceptions", None) or getattr(error, "exception", None)
        inner = inner or (error.args[0] if error.args else None)
        if isinstance(inner, list | tuple) and inner:
            inner = inner[-1]
        if not isinstance(inner, BaseException):
            return str(error) or type(error).__name__
        error = inner
