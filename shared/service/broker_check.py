"""A broker looked at by a worker that wants to know why it cannot work, and changes nothing.

What a user may do is asked with requests that the broker refuses either way: it looks at the
permission first, and its answer tells whether that was what it refused.
"""

import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pika
from pika import exceptions

from warren_shared.amqp.address import CONNECT_TIMEOUT_S, diagnose, has_token, parameters
from warren_shared.amqp.zero_copy import blocking
from warren_shared.errors import BrokerRefused
from warren_shared.protocol.messages import PROTOCOL
from warren_shared.service.health_check import Finding, fail, ok, warn
from warren_shared.tls import Broker, explain

OLDEST: Final = (3, 10)  # RabbitMQ versions that the tests run on
NEWEST: Final = (4, 3)
# To ask whether a queue is there wants the right to make it, which no worker has; the releases
# after these are content with any right.
ASK_IN_VAIN: Final = ((4, 2, 6), (4, 3, 0))
NOT_FOUND: Final = 404
LOCKED: Final = 405
REFUSED: Final = 403


class Inspection:
    """One connection to ``broker``, which ``reach`` opens; to be closed in any case."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._hosts = parameters(broker, name)
        self._told = self._hosts[0]  # of the host that is looked at
        self._connection: Any = None

    @property
    def reached(self) -> bool:
        """Whether we are in."""
        return self._connection is not None

    def close(self) -> None:
        """Leave."""
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    # --- the way in -----------------------------------------------------------------------------

    def reach(self) -> Iterator[Finding]:
        """Name, port, TLS of each host, login, vhost, version; ends at the first that fails.

        Of several hosts one is enough.
        """
        good = []
        for host in self._hosts:
            self._told = host
            found = list(self._way())
            if found[-1].status != "FAIL":
                good.append(host)
            elif len(self._hosts) > 1:
                found[-1] = warn(found[-1].about, found[-1].message)
            yield from found
        if not good:
            if len(self._hosts) > 1:
                yield fail("hosts", f"none of the {len(self._hosts)} hosts answers")
            return
        if len(self._hosts) > 1:
            yield ok("hosts", f"{len(good)} of {len(self._hosts)} answer")
        self._told = good[0]
        finding = self._login()
        yield finding
        if finding.status == "FAIL":
            return
        yield ok("vhost", f"{self._told.virtual_host!r} is there and lets us in")
        yield self._version()

    def _way(self) -> Iterator[Finding]:
        """How a connection gets to one of the hosts; the last finding is the first that fails."""
        for step in (self._name, self._port, self._tls):
            finding = step()
            yield finding
            if finding.status == "FAIL":
                return

    def _name(self) -> Finding:
        # The proxy looks up the broker.
        at = self._told.proxy or self._told
        host = at.host
        try:
            found = {entry[4][0] for entry in socket.getaddrinfo(host, at.port)}
        except OSError as error:
            hint = "check WARREN_PROXY" if self._told.proxy else "check the broker URL"
            return fail("name", f"{host} has no address ({error.strerror}): {hint}")
        return ok("name", f"{host} is {', '.join(sorted(map(str, found)))}")

    def _port(self) -> Finding:
        host, port = self._told.host, self._told.port
        proxy = self._told.proxy
        try:
            self._connect().close()
        except OSError as error:
            why = error.strerror or error
            way = f"{host}:{port}"
            hint = "is the broker up, and does a firewall let this machine out?"
            if proxy is not None:
                way += f" through {proxy}"
                hint = "WARREN_PROXY names the proxy, WARREN_PROXY=none goes without"
            return fail("port", f"{way} cannot be reached ({why}): {hint}")
        return ok("port", f"{host}:{port} answers{f' through {proxy}' if proxy else ''}")

    def _connect(self) -> socket.socket:
        host, port, proxy = self._told.host, self._told.port, self._told.proxy
        if proxy is not None:
            return proxy.connect(host, port, CONNECT_TIMEOUT_S)  # type: ignore[no-any-return]
        return socket.create_connection((host, port), CONNECT_TIMEOUT_S)

    def _tls(self) -> Finding:
        options, host, port = self._told.ssl_options, self._told.host, self._told.port
        if options is None:
            if _is_this_machine(host):
                return ok("TLS", "none, and none is needed on this machine")
            return warn("TLS", "none: others on the network can read the password; use amqps://")
        try:
            with (
                self._connect() as plain,
                options.context.wrap_socket(
                    plain, server_hostname=options.server_hostname or host
                ) as wrapped,
            ):
                return ok("TLS", f"{wrapped.version()}, and the certificate is believed")
        except ssl.SSLError as error:
            return fail("TLS", f"the broker at {host}:{port}: {explain(str(error))[0]}")
        except OSError as error:
            why = error.strerror or error
            return fail("TLS", f"{host}:{port} speaks none ({why}): is this its amqps port?")

    def _login(self) -> Finding:
        user = self._told.credentials.username
        where = f"the broker at {self._told.host}:{self._told.port}"
        try:
            self._connection = blocking(self._told)
        except (exceptions.AMQPError, OSError) as error:
            refused = str(diagnose(error, where, by_token=has_token(self._told))[0])
            return fail("vhost" if "vhost" in refused else "login", f"as {user!r}: {refused}")
        return ok("login", f"as {user!r}")

    def _version(self) -> Finding:
        properties = self._connection._impl.server_properties  # BlockingConnection hides them
        text = _text(properties.get("version", "0"))
        broker = f"{_text(properties.get('product', 'a broker'))} {text}"
        numbers = tuple(int(word) for word in text.split(".")[:3] if word.isdecimal())
        said = f"{broker}; this worker speaks protocol {PROTOCOL}"
        if numbers in ASK_IN_VAIN:
            return fail("version", f"{said}: this release refuses to tell whether a queue is there;"
                        " upgrade it to the next one")  # fmt: skip
        if numbers < OLDEST:
            return fail("version", f"{said}: RabbitMQ 3.10 or newer is needed")
        if numbers[:2] > NEWEST:
            return warn("version", f"{said}: newer than what was tested")
        return ok("version", said)

    # --- what is there --------------------------------------------------------------------------

    def queue(self, name: str) -> tuple[int, int] | None:
        """Messages that wait in a queue, and its consumers; None if there is no such queue.

        Raises BrokerRefused if this user has no right to it at all, which RabbitMQ before 4.2.6 did
        not ask for.
        """
        closed, found = self._try(lambda channel: channel.queue_declare(name, passive=True))
        if closed is not None and closed.reply_code == REFUSED:
            raise BrokerRefused(f"the broker refused to look at {name}: {closed.reply_text}")
        return (found.method.message_count, found.method.consumer_count) if not closed else None

    def has_exchange(self, name: str) -> bool:
        """Whether there is such an exchange, or one that this user may not even look at."""
        closed = self._try(lambda channel: channel.exchange_declare(name, passive=True))[0]
        return closed is None or closed.reply_code == REFUSED

    def is_log(self, queue: str) -> bool | None:
        """Whether a queue is a quorum queue with a single active consumer; None if unreadable.

        That one gives nothing to who only asks for a message; another might, and has it back.
        """
        closed, _ = self._try(_get_and_give_back(queue))
        if closed is not None and closed.reply_code == REFUSED:
            return None
        return closed is not None

    # --- what we may ----------------------------------------------------------------------------

    def may_read(self, queue: str) -> bool:
        """Whether this user may read a queue; what waits there is where it was."""
        closed, _ = self._try(_get_and_give_back(queue))
        return closed is None or closed.reply_code != REFUSED

    def may_publish(self, exchange: str) -> bool:
        """Whether this user may publish to an exchange, by a message that never arrives."""

        def publish(channel: Any) -> None:
            channel.confirm_delivery()
            never = pika.BasicProperties(expiration="check")  # no number, and refused as such
            channel.basic_publish(exchange, "", b"", never)

        closed, _ = self._try(publish)
        return closed is not None and closed.reply_code == 406

    def may_declare(self, name: str) -> bool:
        """Whether this user may make a queue; none is left."""
        closed, _ = self._try(
            lambda channel: channel.queue_declare(name, exclusive=True, auto_delete=True)
        )
        return closed is None

    def _try(self, ask: Any) -> tuple[Any, Any]:
        """The error with which the broker closed the channel, or the answer."""
        channel = self._connection.channel()
        try:
            found = ask(channel)
        except exceptions.ChannelClosedByBroker as error:
            return error, None
        channel.close()
        return None, found


def _get_and_give_back(queue: str) -> Any:
    def ask(channel: Any) -> None:
        method, _, _ = channel.basic_get(queue)
        if method is not None:
            channel.basic_nack(method.delivery_tag, requeue=True)

    return ask


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def without_consumer(
    broker: Broker, name: str, queues: Mapping[str, Sequence[str]]
) -> list[str] | None:
    """Clients none of whose ``queues`` is consumed; None if the broker does not tell.

    Over a new connection, called ``name``, which is closed again.
    """
    try:
        connection = blocking(*parameters(broker, name))
        try:
            return [
                client for client, theirs in queues.items() if not _has_consumer(connection, theirs)
            ]
        finally:
            connection.close()
    except (exceptions.AMQPError, OSError):
        return None  # it is away, or this user may not ask


def _has_consumer(connection: Any, queues: Sequence[str]) -> bool:
    """Whether one of ``queues`` is consumed; raises if none of them can be asked."""
    error: exceptions.ChannelClosedByBroker | None = None
    asked = 0
    for queue in queues:
        channel = connection.channel()
        try:
            consumers = channel.queue_declare(queue, passive=True).method.consumer_count
        except exceptions.ChannelClosedByBroker as closed:
            error = closed  # perhaps its node is down, and the other's is not
            continue
        channel.close()
        if consumers:
            return True
        asked += 1
    if not asked and error is not None:
        raise error
    return False


def first_missing(
    broker: Broker, name: str, queue: Callable[[int], str], claimed: int, most: int
) -> int | None:
    """The first number from 0 to ``most`` whose ``queue`` the broker has not got.

    Queues of a row exist from 0 on without a gap, so it is found by halving; one whose node is away
    exists. If the queue of ``claimed`` exists, those before it are taken to exist. None if the
    broker does not tell. Over a new connection, called ``name``, which is closed again.
    """
    try:
        connection = blocking(*parameters(broker, name))
        try:
            below, missing = (
                (claimed + 1, most) if _exists(connection, queue(claimed)) else (0, claimed)
            )
            while below < missing:
                middle = (below + missing) // 2
                if _exists(connection, queue(middle)):
                    below = middle + 1
                else:
                    missing = middle
        finally:
            connection.close()
    except (exceptions.AMQPError, OSError):
        return None  # it is away, or this user may not ask
    return below


def _exists(connection: Any, queue: str) -> bool:
    channel = connection.channel()
    try:
        channel.queue_declare(queue, passive=True)
    except exceptions.ChannelClosedByBroker as error:
        if error.reply_code == NOT_FOUND and "no queue" in error.reply_text:
            return False
        if error.reply_code not in (NOT_FOUND, LOCKED):  # of a node that is away, or exclusive
            raise
        return True
    channel.close()
    return True
