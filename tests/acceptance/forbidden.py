"""What an enrolled client must not be able to do, and what the broker answers whoever tries.

The acts are tried with a client's own credentials through plain pika and plain HTTP: what our own
client would never do says nothing about what the broker allows. ``docs/security.md`` has them as a
table, which ``test_documents`` compares with `markdown`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import pika
import urllib3
from pika import exceptions
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import Place

MIB: Final = 1 << 20
QUORUM: Final = {"x-queue-type": "quorum", "x-single-active-consumer": False}


class Attacker:
    """Whoever holds the credentials of ``user``."""

    def __init__(self, place: Place, user: str) -> None:
        self.place, self._user = place, user

    @contextmanager
    def channel(self, **change: Any) -> Iterator[BlockingChannel]:
        """A channel; ``change`` replaces what the connection is asked for."""
        parameters = pika.URLParameters(self.place.urls[self._user])
        parameters.socket_timeout = parameters.blocked_connection_timeout = 20.0
        for name, value in change.items():
            setattr(parameters, name, value)
        connection = pika.BlockingConnection(parameters)
        try:
            yield connection.channel()
        finally:
            if connection.is_open:
                connection.close()

    def password(self) -> str:
        """The user's own."""
        return str(pika.URLParameters(self.place.urls[self._user]).credentials.password)

    def management(self, method: str, path: str, **body: Any) -> urllib3.BaseHTTPResponse:
        """A request to the management API; ``{vhost}`` in the path is the federation's."""
        url = f"{self.place.management.address}/api/{path.format(vhost=self.place.name)}"
        login = urllib3.make_headers(basic_auth=f"{self._user}:{self.password()}")
        return urllib3.request(method, url, headers=login, json=body or None, timeout=20.0)


@dataclass(frozen=True)
class Act:
    """``does`` is refused with ``answer``: AMQP reply code and text, or an HTTP status."""

    name: str
    answer: str
    does: Callable[[Attacker], object]
    user: str = "alfa"
    # Releases of RabbitMQ that answer something else, and what.
    elsewhere: tuple[str, str] | None = None


def _amqp(does: Callable[[BlockingChannel], object]) -> Callable[[Attacker], object]:
    def act(attacker: Attacker) -> None:
        with attacker.channel() as channel:
            channel.confirm_delivery()
            does(channel)

    return act


def _publish(
    exchange: str, key: str = "", *, body: bytes = b"forged", **properties: Any
) -> Callable[[Attacker], object]:
    told = pika.BasicProperties(**properties)
    return _amqp(lambda channel: channel.basic_publish(exchange, key, body, told, mandatory=True))


def _consume(queue: str, **options: Any) -> Callable[[Attacker], object]:
    return _amqp(lambda channel: channel.basic_consume(queue, lambda *_: None, **options))


def _http(method: str, path: str, **body: Any) -> Callable[[Attacker], object]:
    return lambda attacker: attacker.management(method, path, **body)


def _connect(**change: Any) -> Callable[[Attacker], object]:
    def act(attacker: Attacker) -> None:
        with attacker.channel(**change):
            pass

    return act


def _log_in_as(name: str, password: str = "") -> Callable[[Attacker], object]:
    def act(attacker: Attacker) -> None:
        credentials = pika.PlainCredentials(name, password or attacker.password())
        with attacker.channel(credentials=credentials):
            pass

    return act


def _oversized_frame(attacker: Attacker) -> None:
    with attacker.channel() as channel:
        channel.confirm_delivery()
        agreed = channel.connection._impl.params.frame_max  # pika has no public name for either
        channel.connection._impl._body_max_length = 4 * agreed
        channel.basic_publish("update", "update", bytes(4 * agreed))


def _many_connections(attacker: Attacker) -> None:
    with ExitStack() as opened:
        for _ in range(9):
            opened.enter_context(attacker.channel())


def _many_channels(attacker: Attacker) -> None:
    with attacker.channel() as channel:
        for _ in range(32):
            channel.connection.channel()


def _watchers_connections(attacker: Attacker) -> None:
    with ExitStack() as opened:
        for _ in range(65):
            opened.enter_context(attacker.channel())


def _watchers_channels(attacker: Attacker) -> None:
    with attacker.channel() as channel:
        for _ in range(256):
            channel.connection.channel()


def _queues_without_end(attacker: Attacker) -> None:
    with attacker.channel() as channel:
        for _ in range(65):
            channel.queue_declare("", exclusive=True)


def _follow(exchange: str) -> Callable[[Attacker], object]:
    def bind(channel: BlockingChannel) -> None:
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, exchange, "#")

    return _amqp(bind)


def _declare(name: str = "", **options: Any) -> Callable[[Attacker], object]:
    return _amqp(lambda channel: channel.queue_declare(name, **options))


def _close_connection_of(user: str) -> Callable[[Attacker], object]:
    def close(attacker: Attacker) -> urllib3.BaseHTTPResponse:
        def known() -> list[str]:
            # Also those that have just ended; one is not known by its name before its figures are.
            rows = attacker.place.management.get("connections", "username", user)
            paths = [f"connections/{quote(row['name'], safe='')}" for row in rows]
            return [path for path in paths if attacker.management("GET", path).status == 200]

        with Attacker(attacker.place, user).channel() as channel:
            until = time.monotonic() + 30
            while not (paths := known()):
                assert time.monotonic() < until
                channel.connection.process_data_events(0.1)
            answer = attacker.management("DELETE", paths[-1])
            channel.queue_declare("update", passive=True)  # it is open
        return answer

    return close


def _take_held_mailbox(attacker: Attacker) -> None:
    with attacker.channel() as holder:
        holder.basic_consume("model.alfa", lambda *_: None, exclusive=True)
        with attacker.channel() as thief:
            thief.basic_consume("model.alfa", lambda *_: None)


DENIED: Final = "403 ACCESS_REFUSED"
SPOOFED: Final = "406 PRECONDITION_FAILED"
UNROUTED: Final = "312 NO_ROUTE"
NOT_ALLOWED: Final = "530 NOT_ALLOWED"
LOGIN: Final = "403 login refused"
HTTP: Final = "HTTP 401"
WATCHER: Final = "watcher"

ACTS: Final[dict[str, tuple[Act, ...]]] = {
    "Impersonate others": (
        Act("publish a global model", DENIED, _publish("model")),
        Act("publish an event", DENIED, _publish("event", "round.closed")),
        Act("publish a rejected message", DENIED, _publish("update.rejected")),
        Act("send a model to another's mailbox alone", DENIED, _publish("", "model.bravo")),
        Act("send itself a model", DENIED, _publish("", "model.alfa")),
        Act("put an update into the queue past its exchange", DENIED, _publish("", "update")),
        Act("use a built-in exchange of RabbitMQ", DENIED, _publish("amq.topic", "update")),
        Act("send an update under another client's name", SPOOFED,
            _publish("update", "update", user_id="bravo")),
        Act("send an update under the coordinator's name", SPOOFED,
            _publish("update", "update", user_id="coordinator")),
        Act("send an update under another's name, as a fleet", SPOOFED,
            _publish("update", "update", user_id="alfa"), user="fleet"),
        Act("reach a mailbox by routing key", UNROUTED, _publish("update", "model.bravo")),
        Act("reach a mailbox by the headers CC and BCC", UNROUTED,
            _publish("update", "x", headers={"CC": ["model.bravo"], "BCC": ["model.bravo"]})),
    ),
    "Read data of others": (
        Act("consume another's mailbox", DENIED, _consume("model.bravo")),
        Act("get one message of another's mailbox", DENIED,
            _amqp(lambda channel: channel.basic_get("model.bravo"))),
        Act("consume another's spare mailbox", DENIED, _consume("model.bravo.spare")),
        Act("consume a mailbox of a fleet", DENIED, _consume("model.fleet.0")),
        Act("consume a client's mailbox, as a fleet", DENIED, _consume("model.alfa"), user="fleet"),
        Act("consume a slot that its fleet does not have", "404 NOT_FOUND",
            _consume("model.fleet.3"), user="fleet"),
        Act("consume everybody's updates", DENIED, _consume("update")),
        Act("consume them before the coordinator does", DENIED,
            _consume("update", arguments={"x-priority": 100})),
        Act("get one update", DENIED, _amqp(lambda channel: channel.basic_get("update"))),
        Act("read the rejected messages", DENIED, _consume("update.rejected")),
        Act("read who else is enrolled", DENIED, _consume("coordinator.enrolled")),
        Act("share a mailbox whose client is there", DENIED, _take_held_mailbox),
    ),
    "Delete": (
        Act("empty another's mailbox", DENIED,
            _amqp(lambda channel: channel.queue_purge("model.bravo"))),
        Act("empty the queue of updates", DENIED,
            _amqp(lambda channel: channel.queue_purge("update"))),
        Act("purge the rejected messages", DENIED,
            _amqp(lambda channel: channel.queue_purge("update.rejected"))),
        Act("delete another's mailbox", DENIED,
            _amqp(lambda channel: channel.queue_delete("model.bravo"))),
        Act("delete its own mailbox", DENIED,
            _amqp(lambda channel: channel.queue_delete("model.alfa"))),
        Act("delete the queue of updates", DENIED,
            _amqp(lambda channel: channel.queue_delete("update"))),
        Act("delete the exchange of models", DENIED,
            _amqp(lambda channel: channel.exchange_delete("model"))),
        Act("cut a mailbox off from the models", DENIED,
            _amqp(lambda channel: channel.queue_unbind("model.bravo", "model"))),
    ),
    "Declare or bind": (
        Act("declare a queue", DENIED, _amqp(lambda channel: channel.queue_declare("loot"))),
        Act("declare a queue that the server names", DENIED,
            _amqp(lambda channel: channel.queue_declare("", exclusive=True))),
        Act("declare a mailbox for an unknown client", DENIED,
            _amqp(lambda channel: channel.queue_declare("model.eve", durable=True))),
        Act("declare the queue of updates again, for many consumers", DENIED,
            _amqp(lambda c: c.queue_declare("update", durable=True, arguments=QUORUM))),
        Act("declare an exchange", DENIED, _amqp(lambda channel: channel.exchange_declare("loot"))),
        Act("bind its mailbox to the updates", DENIED,
            _amqp(lambda channel: channel.queue_bind("model.alfa", "update", "update"))),
        Act("bind its mailbox to the events", DENIED,
            _amqp(lambda channel: channel.queue_bind("model.alfa", "event", "#"))),
        Act("bind the models into the queue of updates", DENIED,
            _amqp(lambda channel: channel.queue_bind("update", "model"))),
        Act("bind one exchange to another", DENIED,
            _amqp(lambda channel: channel.exchange_bind("event", "update", "update"))),
    ),
    "Log in with other credentials": (
        Act("log in with a wrong password", LOGIN, _log_in_as("alfa", "wrong")),
        Act("log in as another client", LOGIN, _log_in_as("bravo")),
        Act("log in as the coordinator", LOGIN, _log_in_as("coordinator")),
        Act("log in as guest", LOGIN, _log_in_as("guest", "guest")),
        Act("enter another federation's vhost", NOT_ALLOWED, _connect(virtual_host="warren")),
    ),
    "Exhaust resources": (
        Act("open more than 8 connections", NOT_ALLOWED, _many_connections),
        Act("open more than 32 channels", NOT_ALLOWED, _many_channels),
        Act("send a message of more than 16 MiB", SPOOFED,
            _publish("update", "update", body=bytes(16 * MIB + 1))),
        Act("send a frame larger than agreed", "501 FRAME_ERROR", _oversized_frame),
    ),
    "Use the management API": (
        Act("list the queues", HTTP, _http("GET", "queues/{vhost}")),
        Act("list the users", HTTP, _http("GET", "users")),
        Act("read the definitions, password hashes included", HTTP, _http("GET", "definitions")),
        Act("close everybody's connections", HTTP, _http("DELETE", "connections/username/bravo")),
        Act("publish a model", HTTP,
            _http("POST", "exchanges/{vhost}/model/publish", properties={}, routing_key="",
                  payload="forged", payload_encoding="string")),
        Act("get messages", HTTP,
            _http("POST", "queues/{vhost}/update/get", count=1, ackmode="ack_requeue_false",
                  encoding="base64")),
        Act("give itself permissions", HTTP,
            _http("PUT", "permissions/{vhost}/alfa", configure=".*", write=".*", read=".*")),
        Act("make itself an administrator", HTTP,
            _http("PUT", "users/alfa", password="mine", tags="administrator")),
        Act("lift a limit by a policy", HTTP,
            _http("PUT", "policies/{vhost}/mine", pattern=".*", definition={"max-length": 1})),
        Act("copy the updates elsewhere (shovel)", HTTP,
            _http("PUT", "parameters/shovel/{vhost}/mine", value={"src-queue": "update"})),
    ),
}  # fmt: skip


BAD: Final = "HTTP 400"

WATCHERS_ACTS: Final[dict[str, tuple[Act, ...]]] = {
    "Publish": (
        Act("publish an event", DENIED, _publish("event", "round.closed"), WATCHER),
        Act("publish a model", DENIED, _publish("model"), WATCHER),
        Act("publish an update", DENIED, _publish("update", "update"), WATCHER),
        Act("publish a rejected message", DENIED, _publish("update.rejected"), WATCHER),
        Act("send a model to one mailbox", DENIED, _publish("", "model.alfa"), WATCHER),
        Act("overwrite the snapshot", DENIED, _publish("", "event.state"), WATCHER),
        Act("publish an event by the management API", BAD,
            _http("POST", "exchanges/{vhost}/event/publish", properties={},
                  routing_key="round.closed", payload="forged", payload_encoding="string"),
            WATCHER),
        Act("have its queue's messages dead-lettered into the updates", DENIED,
            _declare(exclusive=True, arguments={"x-dead-letter-exchange": "update"}), WATCHER),
        Act("have them sent on to a queue past its exchange", DENIED,
            _declare(exclusive=True, arguments={"x-dead-letter-exchange": "",
                                                "x-dead-letter-routing-key": "update"}), WATCHER),
    ),
    "Read more than events": (
        Act("consume everybody's updates", DENIED, _consume("update"), WATCHER),
        Act("get one update", DENIED, _amqp(lambda c: c.basic_get("update")), WATCHER),
        Act("read the rejected messages", DENIED, _consume("update.rejected"), WATCHER),
        Act("consume a mailbox", DENIED, _consume("model.alfa"), WATCHER),
        Act("take the coordinator's note of the newest version", DENIED,
            _consume("coordinator.newest"), WATCHER),
        Act("take the list of who is enrolled", DENIED,
            _consume("coordinator.enrolled"), WATCHER),
        Act("get updates by the management API", HTTP,
            _http("POST", "queues/{vhost}/update/get", count=1, ackmode="ack_requeue_false",
                  encoding="base64"), WATCHER),
        Act("follow the models", DENIED, _follow("model"), WATCHER),
        Act("follow the updates", DENIED, _follow("update"), WATCHER),
        Act("follow the rejected messages", DENIED, _follow("update.rejected"), WATCHER),
        Act("follow a built-in exchange of RabbitMQ", DENIED, _follow("amq.topic"), WATCHER),
        Act("follow RabbitMQ's trace of all messages", DENIED,
            _follow("amq.rabbitmq.trace"), WATCHER),
    ),
    "Delete": (
        Act("empty the queue of updates", DENIED,
            _amqp(lambda c: c.queue_purge("update")), WATCHER),
        Act("empty it by the management API", HTTP,
            _http("DELETE", "queues/{vhost}/update/contents"), WATCHER),
        Act("delete the snapshot's queue", DENIED,
            _amqp(lambda c: c.queue_delete("event.state")), WATCHER),
        Act("delete a mailbox", HTTP, _http("DELETE", "queues/{vhost}/model.alfa"), WATCHER),
        Act("delete an exchange", HTTP, _http("DELETE", "exchanges/{vhost}/model"), WATCHER),
        Act("cut a mailbox off from the models", DENIED,
            _amqp(lambda c: c.queue_unbind("model.bravo", "model")), WATCHER),
        Act("close a client's connection", HTTP, _close_connection_of("alfa"), WATCHER),
        Act("close all connections of a client", HTTP,
            _http("DELETE", "connections/username/alfa"), WATCHER, elsewhere=("3.10", "HTTP 500")),
    ),
    "Declare": (
        Act("declare a queue with a name that it chooses", DENIED, _declare("watch.loot"), WATCHER),
        Act("declare it so that it stays", DENIED, _declare("watch.loot", durable=True), WATCHER),
        Act("declare it by the management API", HTTP,
            _http("PUT", "queues/{vhost}/watch.loot", durable=True), WATCHER),
        Act("declare a queue that looks as if the server had named it", DENIED,
            _declare("amq.gen-loot"), WATCHER),
        Act("declare a quorum queue that the server names", SPOOFED,
            _declare(durable=True, arguments={"x-queue-type": "quorum"}), WATCHER),
        Act("declare a stream that the server names", SPOOFED,
            _declare(durable=True, arguments={"x-queue-type": "stream"}), WATCHER),
        Act("declare an exchange", DENIED,
            _amqp(lambda c: c.exchange_declare("watch.loot")), WATCHER),
        Act("declare it by the management API", HTTP,
            _http("PUT", "exchanges/{vhost}/watch.loot", type="topic"), WATCHER),
        Act("bind the events to the snapshot's queue", DENIED,
            _amqp(lambda c: c.queue_bind("event.state", "event", "#")), WATCHER),
        Act("bind one exchange to another", DENIED,
            _amqp(lambda c: c.exchange_bind("update", "event", "#")), WATCHER),
    ),
    "Exhaust resources": (
        Act("declare more than 64 queues", SPOOFED, _queues_without_end, WATCHER),
        Act("open more than 64 connections", NOT_ALLOWED, _watchers_connections, WATCHER),
        Act("open more than 256 channels", NOT_ALLOWED, _watchers_channels, WATCHER),
    ),
    "Administer": (
        Act("enter a vhost that is not a federation's", NOT_ALLOWED,
            _connect(virtual_host="/"), WATCHER),
        Act("list the users", HTTP, _http("GET", "users"), WATCHER),
        Act("read who may do what", HTTP, _http("GET", "permissions"), WATCHER),
        Act("read the definitions, password hashes included", HTTP,
            _http("GET", "definitions"), WATCHER),
        Act("read the definitions of its own vhost", HTTP,
            _http("GET", "definitions/{vhost}"), WATCHER),
        Act("make itself an administrator", HTTP,
            _http("PUT", "users/watcher", password="mine", tags="administrator"), WATCHER),
        Act("give itself permissions", HTTP,
            _http("PUT", "permissions/{vhost}/watcher", configure=".*", write=".*", read=".*"),
            WATCHER),
        Act("delete a user", HTTP, _http("DELETE", "users/alfa"), WATCHER),
        Act("lift its limit of connections", HTTP,
            _http("PUT", "user-limits/watcher/max-connections", value=10_000), WATCHER),
        Act("lift the limit of queues", HTTP,
            _http("PUT", "vhost-limits/{vhost}/max-queues", value=10_000), WATCHER),
        Act("set a policy", HTTP,
            _http("PUT", "policies/{vhost}/mine", pattern=".*", definition={"max-length": 1}),
            WATCHER),
        Act("set an operator's policy", HTTP,
            _http("PUT", "operator-policies/{vhost}/watch", pattern=".*",
                  definition={"max-length": 1}), WATCHER),
        Act("copy the updates elsewhere (shovel)", HTTP,
            _http("PUT", "parameters/shovel/{vhost}/mine", value={"src-queue": "update"}),
            WATCHER),
        Act("make a vhost", HTTP, _http("PUT", "vhosts/mine"), WATCHER),
        Act("have the broker declare and publish (aliveness test)", HTTP,
            _http("GET", "aliveness-test/{vhost}"), WATCHER,
            elsewhere=("4.3, which does neither", "HTTP 200")),
        Act("forget the broker's statistics", HTTP, _http("DELETE", "reset"), WATCHER),
    ),
}  # fmt: skip


KEEPER: Final = "keeper"
COORDINATOR: Final = "coordinator"

# In a federation with a keeper.
KEEPERS_ACTS: Final[dict[str, tuple[Act, ...]]] = {
    "The keeper": (
        Act("consume everybody's updates", DENIED, _consume("update"), KEEPER),
        Act("get one update", DENIED, _amqp(lambda c: c.basic_get("update")), KEEPER),
        Act("consume a mailbox", DENIED, _consume("model.alfa"), KEEPER),
        Act("read the rejected messages", DENIED, _consume("update.rejected"), KEEPER),
        Act("read the snapshot", DENIED, _consume("event.state"), KEEPER),
        Act("take the coordinator's note of the newest version", DENIED,
            _consume("coordinator.newest"), KEEPER),
        Act("take the list of who is enrolled", DENIED,
            _consume("coordinator.enrolled"), KEEPER),
        Act("consume its own answers", DENIED, _consume("unmasked"), KEEPER),
        Act("empty the queue of its answers", DENIED,
            _amqp(lambda c: c.queue_purge("unmasked")), KEEPER),
        Act("empty the queue of updates", DENIED,
            _amqp(lambda c: c.queue_purge("update")), KEEPER),
        Act("publish an update", DENIED, _publish("update", "update"), KEEPER),
        Act("publish a seed", DENIED, _publish("update", "mask"), KEEPER),
        Act("publish a model", DENIED, _publish("model"), KEEPER),
        Act("publish an event", DENIED, _publish("event", "round.closed"), KEEPER),
        Act("publish a rejected message", DENIED, _publish("update.rejected"), KEEPER),
        Act("put an update into the queue past its exchange", DENIED,
            _publish("", "update"), KEEPER),
        Act("ask itself", DENIED, _publish("", "unmask"), KEEPER),
        Act("send a model to one mailbox", DENIED, _publish("", "model.alfa"), KEEPER),
        Act("answer under the coordinator's name", SPOOFED,
            _publish("unmasked", user_id="coordinator"), KEEPER),
        Act("bind the updates to the queue of its answers", DENIED,
            _amqp(lambda c: c.queue_bind("unmasked", "update", "update")), KEEPER),
        Act("bind the updates to the queue of seeds", DENIED,
            _amqp(lambda c: c.queue_bind("mask", "update", "update")), KEEPER),
        Act("bind the models to it", DENIED,
            _amqp(lambda c: c.queue_bind("mask", "model")), KEEPER),
        Act("bind its answers to a mailbox", DENIED,
            _amqp(lambda c: c.queue_bind("model.alfa", "unmasked")), KEEPER),
        Act("cut the coordinator off from its answers", DENIED,
            _amqp(lambda c: c.queue_unbind("unmasked", "unmasked")), KEEPER),
        Act("declare a queue that the server names", DENIED,
            _declare(exclusive=True), KEEPER),
        Act("declare the queue of seeds again, for many consumers", DENIED,
            _declare("mask", durable=True, arguments=QUORUM), KEEPER),
        Act("delete the queue of seeds", DENIED,
            _amqp(lambda c: c.queue_delete("mask")), KEEPER),
        Act("open more than 8 connections", NOT_ALLOWED,
            _many_connections, KEEPER),
        Act("open more than 32 channels", NOT_ALLOWED, _many_channels, KEEPER),
        Act("log in as the coordinator", LOGIN, _log_in_as("coordinator"), KEEPER),
        Act("enter another federation's vhost", NOT_ALLOWED,
            _connect(virtual_host="warren"), KEEPER),
        Act("get updates by the management API", HTTP,
            _http("POST", "queues/{vhost}/update/get", count=1, ackmode="ack_requeue_false",
                  encoding="base64"), KEEPER),
        Act("give itself permissions", HTTP,
            _http("PUT", "permissions/{vhost}/keeper", configure=".*", write=".*", read=".*"),
            KEEPER),
    ),
    "The coordinator": (
        Act("consume the seeds", DENIED, _consume("mask"), COORDINATOR),
        Act("consume them before the keeper does", DENIED,
            _consume("mask", arguments={"x-priority": 100}), COORDINATOR),
        Act("get one seed", DENIED, _amqp(lambda c: c.basic_get("mask")), COORDINATOR),
        Act("empty the queue of seeds", DENIED,
            _amqp(lambda c: c.queue_purge("mask")), COORDINATOR),
        Act("delete the queue of seeds", DENIED,
            _amqp(lambda c: c.queue_delete("mask")), COORDINATOR),
        Act("send a seed under a client's name", SPOOFED,
            _publish("", "mask", user_id="alfa"), COORDINATOR),
        Act("send a seed through the exchange", DENIED,
            _publish("update", "mask"), COORDINATOR),
        Act("bind the models to the queue of seeds", DENIED,
            _amqp(lambda c: c.queue_bind("mask", "model")), COORDINATOR),
        Act("bind the updates to the queue of seeds", DENIED,
            _amqp(lambda c: c.queue_bind("mask", "update", "update")), COORDINATOR),
        Act("cut the keeper off from the seeds", DENIED,
            _amqp(lambda c: c.queue_unbind("mask", "update", "mask")), COORDINATOR),
        Act("take back its requests", DENIED, _consume("unmask"), COORDINATOR),
        Act("empty the queue of its requests", DENIED,
            _amqp(lambda c: c.queue_purge("unmask")), COORDINATOR),
        Act("publish an answer", DENIED, _publish("unmasked"), COORDINATOR),
        Act("put in an answer under the keeper's name", SPOOFED,
            _publish("", "unmasked", user_id="keeper"), COORDINATOR),
        Act("log in as the keeper", LOGIN, _log_in_as("keeper"), COORDINATOR),
    ),
    "A client": (
        Act("consume the seeds", DENIED, _consume("mask")),
        Act("get one seed", DENIED, _amqp(lambda c: c.basic_get("mask"))),
        Act("consume the requests", DENIED, _consume("unmask")),
        Act("consume the answers", DENIED, _consume("unmasked")),
        Act("empty the queue of seeds", DENIED, _amqp(lambda c: c.queue_purge("mask"))),
        Act("send a seed under another client's name", SPOOFED,
            _publish("update", "mask", user_id="bravo")),
        Act("send a seed past the exchange", DENIED, _publish("", "mask")),
        Act("ask the keeper", DENIED, _publish("", "unmask")),
        Act("ask the keeper through the exchange of updates", UNROUTED,
            _publish("update", "unmask")),
        Act("publish an answer", DENIED, _publish("unmasked")),
        Act("put in an answer past the exchange", DENIED, _publish("", "unmasked")),
        Act("put in an answer through the exchange of updates", UNROUTED,
            _publish("update", "unmasked")),
        Act("bind its mailbox to the seeds", DENIED,
            _amqp(lambda c: c.queue_bind("model.alfa", "update", "mask"))),
        Act("bind its mailbox to the answers", DENIED,
            _amqp(lambda c: c.queue_bind("model.alfa", "unmasked"))),
        Act("cut the keeper off from the seeds", DENIED,
            _amqp(lambda c: c.queue_unbind("mask", "update", "mask"))),
        Act("log in as the keeper", LOGIN, _log_in_as("keeper")),
    ),
    "A watcher": (
        Act("consume the seeds", DENIED, _consume("mask"), WATCHER),
        Act("get seeds by the management API", HTTP,
            _http("POST", "queues/{vhost}/mask/get", count=1, ackmode="ack_requeue_false",
                  encoding="base64"), WATCHER),
        Act("consume the requests", DENIED, _consume("unmask"), WATCHER),
        Act("consume the answers", DENIED, _consume("unmasked"), WATCHER),
        Act("follow the answers", DENIED, _follow("unmasked"), WATCHER),
        Act("publish a seed", DENIED, _publish("update", "mask"), WATCHER),
        Act("ask the keeper", DENIED, _publish("", "unmask"), WATCHER),
        Act("publish an answer", DENIED, _publish("unmasked"), WATCHER),
        Act("empty the queue of seeds", DENIED, _amqp(lambda c: c.queue_purge("mask")), WATCHER),
        Act("empty it by the management API", HTTP,
            _http("DELETE", "queues/{vhost}/mask/contents"), WATCHER),
        Act("have its queue's messages dead-lettered into the answers", DENIED,
            _declare(exclusive=True, arguments={"x-dead-letter-exchange": "unmasked"}), WATCHER),
    ),
}  # fmt: skip


def _fill_the_queue(attacker: Attacker) -> None:
    with attacker.channel() as channel:
        for _ in range(8_192 + 500):
            channel.basic_publish("update", "update", b"")
        channel.confirm_delivery()
        for _ in range(5_000):  # what a quorum queue refuses is a little more than its limit
            channel.basic_publish("update", "update", b"")


# Apart from the others, since it leaves the queue full.
FILL: Final = Act("put in more updates than the queue may hold", "basic.nack", _fill_the_queue)


def answer_to(act: Act, place: Place) -> str:
    """What the broker says when ``act`` is tried; "nothing" if it lets it happen."""
    try:
        said = act.does(Attacker(place, act.user))
    except (exceptions.ChannelClosedByBroker, exceptions.ConnectionClosedByBroker) as refused:
        return f"{refused.reply_code} {refused.reply_text}"
    except exceptions.ProbableAuthenticationError:
        return LOGIN
    except exceptions.ProbableAccessDeniedError as refused:
        return str(refused).partition("(")[2].replace(")", "", 1).replace("'", "").replace('"', "")
    except exceptions.UnroutableError as returned:
        method = returned.messages[0].method
        return f"{method.reply_code} {method.reply_text}"
    except exceptions.NackError:
        return "basic.nack"
    return f"HTTP {said.status}" if isinstance(said, urllib3.BaseHTTPResponse) else "nothing"


def markdown() -> str:
    """The table of ``docs/security.md`` about clients."""
    return _table("client", ACTS, (FILL,))


def watchers_markdown() -> str:
    """The table about watchers."""
    return _table("watcher", WATCHERS_ACTS, ())


def keepers_markdown() -> str:
    """The table about the keeper, and about others and its queues."""
    return _table("user", KEEPERS_ACTS, ())


def _table(who: str, tried: dict[str, tuple[Act, ...]], using_up: tuple[Act, ...]) -> str:
    lines = [f"| What a {who} tries | The broker answers |", "| --- | --- |"]
    for heading, acts in tried.items():
        lines.append(f"| **{heading}** | |")
        more = using_up if heading == "Exhaust resources" else ()
        lines += (f"| {act.name} | {_answers(act)} |" for act in (*acts, *more))
    return "\n".join(lines)


def _answers(act: Act) -> str:
    if act.elsewhere is None:
        return f"`{act.answer}`"
    release, answer = act.elsewhere
    return f"`{act.answer}` ({release}: `{answer}`)"
