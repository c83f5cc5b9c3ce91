"""The AMQP session: one connection, one thread that owns it.

A session connects, consumes what it subscribed to, publishes with confirms, and once it was up
connects again for ever. Its thread belongs to the connection alone, so heartbeats go out while
TensorFlow trains for an hour. Callbacks run on that thread, must be short, and never publish().
"""

import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import pika
from pika import exceptions

from warren_shared.amqp.address import (
    diagnose,
    has_ended,
    has_token,
    is_away,
    is_final,
    location,
    parameters,
    queue_in,
    refusal,
)
from warren_shared.amqp.backoff import backoff_s
from warren_shared.amqp.confirm_deadline import ConfirmDeadline
from warren_shared.amqp.consumer_probe import ask, follow
from warren_shared.amqp.delivery import AckTracker, Subscription
from warren_shared.amqp.hosts import Hosts
from warren_shared.amqp.properties import delivery, outgoing
from warren_shared.amqp.publisher import (
    ConfirmWindow,
    NotTaken,
    Publication,
    PublishBatch,
    Unconfirmed,
)
from warren_shared.amqp.queue_claim import QueueClaim
from warren_shared.amqp.zero_copy import Connection, say_when_blocked
from warren_shared.errors import BrokerUnavailable, NotThere, Stopped, Taken, WarrenError
from warren_shared.naming import SPARE, spare
from warren_shared.observability.log import Log
from warren_shared.tls import Broker

# What matters comes back as an error. pika even calls it critical that the broker, which has not
# read our goodbye yet, goes on delivering.
logging.getLogger("pika").setLevel(logging.CRITICAL + 1)

log = Log(__name__)

DRAIN_S: Final = 5.0
GOODBYE_S: Final = 5.0  # for the broker's answer to ours
LOOK_S: Final = 3.0
ATTEMPTS_AT_A_NODE: Final = 5
# A channel whose first message came while a quorum queue had no leader is refused for ever by
# RabbitMQ 3.10, though the next channel's message is taken. A full queue refuses every channel;
# there another connection costs less than the update that goes out again with each attempt.
REFUSALS_BY_A_CHANNEL: Final = 3
SHORT_S: Final = 10.0  # a connection that ends sooner is none to build on
WAIT_S: Final = 10.0
HOPELESS_S: Final = 0.5  # for a broker that has not confirmed a word in DRAIN_S
# A consumer that names no limit gets 2000 messages from a quorum queue and then, until it
# acknowledges, nothing: a round of 2 GB would wait for ever. This is the highest that can be named.
MAX_UNACKNOWLEDGED: Final = 65535


class Session:
    """A connection to the broker that outlives the broker's absences.

    ``broker`` is an AMQP URL with user and vhost, and one host or several nodes of a cluster;
    ``name`` is what the management UI calls the connection. ``on_ready(queue)`` is called each
    time consuming (or publishing) can begin, ``on_lost()`` each time it ends and will be tried
    again, ``on_wait()`` while confirms take long.
    """

    def __init__(
        self,
        broker: str | Broker,
        name: str,
        subscription: Subscription | None = None,
        *,
        on_ready: Callable[[str | None], None] = lambda _queue: None,
        on_lost: Callable[[], None] = lambda: None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._hosts = Hosts(found := parameters(broker, name))
        self._parameters = found[0]
        self.user: str = self._parameters.credentials.username
        self.epoch = 0
        self._unacknowledged = AckTracker(0)
        self._subscription = subscription
        self._on_ready, self._on_lost, self._on_wait = on_ready, on_lost, on_wait
        self._thread = threading.Thread(target=self._run, name=f"amqp {name}", daemon=True)
        self._pipeline = ConfirmWindow(self._send)
        self._deadline = ConfirmDeadline()
        self._has_published = False
        self.fails_since: float | None = None  # monotonic; of what is being published
        self._given_up = 0  # how often
        self._ready = self._was_ready = False  # now; ever
        self._lock = threading.Lock()  # guards _loop, the one thing that callers' threads touch
        self._loop: Any = None
        self._closing = threading.Event()
        self._is_closed = False  # by us, and not for want of hope
        self._first = threading.Event()
        self._failure: WarrenError | None = None
        self._hopeless = False
        self._had: tuple[str, ...] = ()  # the queues that were ours when we were last ready

    # --- called from any thread -----------------------------------------------------------------

    def start(self, patience_s: float) -> None:
        """Connect; return when consuming.

        Raises BrokerRefused as soon as the broker says no for good, BrokerUnavailable when none
        answered, or the queue was taken by another, for ``patience_s`` seconds, Stopped if the
        session is closed meanwhile.
        """
        self._thread.start()
        if self._first.wait(patience_s) and self._was_ready:
            return  # it may be lost again by now, and is tried for ever
        if self._is_closed:
            raise Stopped("stopped before the broker answered")
        failure = self._failure or BrokerUnavailable(f"{self._where} did not answer in time")
        self.close()
        raise failure

    def publish(
        self, messages: Iterable[Publication | None], *, waits_for_queue: bool = False
    ) -> None:
        """Publish all of ``messages`` and return when the broker has confirmed every one.

        Waits for a broker that is away and starts over from the first message when the link is
        lost in between, so ``messages`` must be iterable more than once; where it yields HELD_BACK
        the rest waits for ``nudge``. Raises BrokerRefused if the broker forbids one, or the first
        ever finds no queue (NotThere; later ones wait, as all do with ``waits_for_queue``), Stopped
        if the session is closed meanwhile.
        """
        attempt, refusals, given_up = 0, 0, self._given_up
        while True:
            job = PublishBatch(messages)
            self._submit(job)
            while not job.done.wait(WAIT_S):
                self._on_wait()
            if job.error is None:
                self._has_published = True
                self.fails_since = None
                return
            # At the start it is a mistake; later somebody has taken away what was there, or a node
            # of the broker is away.
            may_come = self._has_published or waits_for_queue
            was_there = isinstance(job.error, NotThere) and may_come
            if not isinstance(job.error, Unconfirmed) and not was_there:
                raise job.error
            if given_up != self._given_up:
                self.fails_since = None
                raise job.error
            attempt += 1
            self.fails_since = self.fails_since or time.monotonic()
            say = log.warning if was_there else log.info
            say("publish_retried", "publishing again: %s", job.error)
            if was_there and attempt % ATTEMPTS_AT_A_NODE == 0:
                self.reopen()  # another node of a cluster may know the queue
            refusals = refusals + 1 if isinstance(job.error, NotTaken) else 0
            if refusals >= REFUSALS_BY_A_CHANNEL:
                self.reopen()
            if self._closing.wait(backoff_s(attempt)):
                raise Stopped("closed before the broker confirmed")

    def give_up(self) -> None:
        """What is being published and fails is not tried again: ``publish`` raises the reason."""
        self._given_up += 1

    @property
    def is_starting(self) -> bool:
        """Whether the broker has not let us in yet, nor refused us for good."""
        return not self._first.is_set()

    def resume_publishing(self) -> None:
        """What was held back may go out."""
        self._call(self._pump)

    def post(self, message: Publication) -> None:
        """Publish ``message`` some time soon, or drop it if the link is down: for events."""
        if self._ready:
            self._submit(PublishBatch([message]))

    def acknowledge(self, tags: Iterable[int], epoch: int) -> None:
        """Acknowledge deliveries of ``epoch``; those of a lost connection come again instead."""
        known = self._unacknowledged
        if epoch == known.epoch and known.record_acks(tags):
            self._call(partial(self._acknowledge, known))

    def reopen(self) -> None:
        """Let the link go and connect again: what is unacknowledged comes once more."""
        self._call(self._disconnect)

    def pause(self) -> None:
        """Read no more from the broker until ``resume``; for ``on_delivery``."""
        self._connection.pause()

    def resume(self) -> None:
        """Read on."""
        self._call(lambda: self._connection.resume())  # noqa: PLW0108  of the newest connection

    def on_thread(self, function: Callable[[], None]) -> None:
        """Call ``function`` on the connection's thread, or at once while there is no connection."""
        if not self._call(function):
            function()

    def close(self) -> None:
        """Send what was posted, close, and wait for the thread to end."""
        self._is_closed = True
        patience_s = DRAIN_S
        if self._ready and not self._closing.is_set():
            last = PublishBatch([])
            self._submit(last)
            if not last.done.wait(DRAIN_S):
                patience_s = HOPELESS_S
        self._closing.set()
        self._call(self._disconnect)
        if self._thread.is_alive():
            self._thread.join(patience_s)
        if self._thread.is_alive():
            # The broker does not answer our close; a thread that waits for a confirm would wait on.
            self._call(lambda: self._connection.ioloop.stop())  # noqa: PLW0108
            self._thread.join(DRAIN_S)

    def close_within(self, seconds: float) -> None:
        """Close after ``seconds`` if that has not happened by then, even if a thread waits.

        At once if the broker has not answered yet.
        """
        timer = threading.Timer(0.0 if self.is_starting else seconds, self.close)
        timer.daemon = True
        timer.start()

    def _submit(self, job: PublishBatch) -> None:
        self._pipeline.append(job)
        if self._closing.is_set():  # asked after appending: the thread may have ended in between
            job.finish(Stopped("the session is closed"))
            return
        self._call(self._pump)

    def _call(self, function: Callable[[], None]) -> bool:
        with self._lock:
            if self._loop is not None:
                self._loop.add_callback_threadsafe(function)
            return self._loop is not None

    # --- the connection's thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._connect_for_ever()
        except Exception:  # noqa: BLE001  a bug: without this thread the worker would wait for ever
            traceback.print_exc()
            os._exit(os.EX_SOFTWARE)

    def _connect_for_ever(self) -> None:
        attempt = 0
        while not self._closing.is_set():
            began = time.monotonic()
            self._parameters = self._hosts.next()
            was_up = self._connect_once()
            # What is refused as soon as it is sent would be sent a hundred times in a minute.
            lasted = was_up and time.monotonic() - began > SHORT_S
            attempt = 1 if lasted else attempt + 1
            if was_up and not self._closing.is_set():
                self._on_lost()
            if self._hopeless and not self._first.is_set():
                self._first.set()
                break
            # No long wait before the other nodes have been tried.
            self._closing.wait(backoff_s(1 + (attempt - 1) // self._hosts.count))
        self._closing.set()
        self._first.set()  # a thread that waits for the beginning waits in vain
        self._pipeline.abandon(Stopped("the session is closed"))

    def _connect_once(self) -> bool:
        """One connection from attempt to end; True if it was ready in between."""
        self.epoch += 1
        self._unacknowledged = AckTracker(self.epoch)
        wanted = self._subscription
        self.places = (
            QueueClaim(wanted.queues, wanted.places, self._had) if wanted else QueueClaim(())
        )
        self._was_up = False
        self._waiting: dict[str, int] = {}  # messages that were there before us, by consumer
        self._away: set[str] = set()  # mailboxes and spares whose nodes are down
        connection = Connection(
            self._parameters,
            on_open_callback=lambda _connection: self._open_channel(),
            on_open_error_callback=lambda _connection, error: self._ended(error),
            on_close_callback=lambda _connection, error: self._ended(error),
        )
        say_when_blocked(connection)
        self._connection = connection
        with self._lock:
            self._loop = connection.ioloop
        connection.ioloop.start()
        with self._lock:
            self._loop = None
        connection.let_go()
        connection.ioloop.close()
        return self._was_up

    def _open_channel(self) -> None:
        if self._connection.is_open:
            self._connection.channel(on_open_callback=self._channel_open)

    def _channel_open(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._channel_closed)
        channel.add_on_cancel_callback(self._cancelled)
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(self._confirmed, callback=lambda _frame: self._consume())

    def _consume(self) -> None:
        wanted = self._subscription
        if wanted is None:
            self._become_ready(None)
            return
        if wanted.follows is not None:
            follow(self._channel, wanted, lambda queue: self._consume_from(queue, wanted))
            return
        if queues := self.places.to_ask():
            ask(self._channel, [self._reachable(queue) for queue in queues], self._answered)
        elif (queue := self.places.next()) is not None:
            self._consume_from(queue, wanted)
        else:
            shortage = self.places.shortage()
            if not self._first.is_set() and shortage != str(self._failure):
                log.warning("waiting", "waiting: %s", shortage)
            self._fail(Taken(shortage))
            self._disconnect()

    def _answered(self, consumers: int) -> bool:
        is_last = self.places.answered(consumers)
        if is_last:
            self._consume()
        return is_last

    def _consume_from(self, queue: str, wanted: Subscription) -> None:
        if wanted.spares and not {queue, spare(queue)} & self._away:
            # Somebody of this identity may have found the mailbox's node down, a minute ago.
            self._channel.queue_declare(
                spare(queue),
                passive=True,
                callback=lambda frame: self._spare_seen(frame, queue, wanted),
            )
        else:
            self._count(queue, wanted)

    def _spare_seen(self, frame: Any, queue: str, wanted: Subscription) -> None:
        if frame.method.consumer_count:
            self._consume()  # it is taken: the next one, if there is a choice
        else:
            self._count(queue, wanted)

    def _reachable(self, queue: str) -> str:
        """``queue``, or its spare while the node of ``queue`` is down."""
        return spare(queue) if queue in self._away else queue

    def _count(self, queue: str, wanted: Subscription) -> None:
        if wanted.counts:
            self._channel.queue_declare(
                self._reachable(queue),
                passive=True,
                callback=lambda frame: self._counted(frame, queue, wanted),
            )
        else:
            self._begin_consuming(queue, wanted)

    def _counted(self, frame: Any, queue: str, wanted: Subscription) -> None:
        self._waiting[wanted.tag or queue] = frame.method.message_count
        self._begin_consuming(queue, wanted)

    def _begin_consuming(self, queue: str, wanted: Subscription) -> None:
        if wanted.manual_ack:
            self._channel.basic_qos(prefetch_count=MAX_UNACKNOWLEDGED)
        self._channel.basic_consume(
            self._reachable(queue),
            partial(self._delivered, wanted),
            auto_ack=not wanted.manual_ack,
            exclusive=wanted.exclusive,
            consumer_tag=wanted.tag or queue,
            callback=lambda _frame: self._consuming(queue),
        )

    def _consuming(self, queue: str) -> None:
        self.places.got()
        if self.places.complete or queue not in self.places.held:  # one of our own, to follow
            self._become_ready(queue)
        else:
            self._consume()

    def _become_ready(self, queue: str | None) -> None:
        self._ready = self._was_ready = self._was_up = True
        self._failure = None
        self._hosts.connected()
        self._had = tuple(self.places.held)
        log.info("connected", "connected to %s", self._where)
        self._on_ready(queue)
        self._first.set()
        self._pump()
        self._connection.ioloop.call_later(LOOK_S, self._look_at_confirms)
        self._look_at_token(self._connection)

    def _look_at_token(self, connection: Connection) -> None:
        credentials = self._parameters.credentials
        if not has_token(self._parameters) or not connection.is_open:
            return
        if credentials.file.renewed():
            connection.update_secret(
                credentials.file.token,
                "renewed",
                lambda _frame: log.info("token_renewed", "the broker has the new token"),
            )
        connection.ioloop.call_later(
            credentials.file.look_s(), partial(self._look_at_token, connection)
        )

    def _look_at_confirms(self) -> None:
        if not self._ready:
            return
        connection, pipeline = self._connection, self._pipeline
        if self._deadline.is_over(
            time.monotonic(),
            waits=pipeline.waits and connection.confirms_come,
            progress=pipeline.progress,
            unsent_bytes=connection.unsent_bytes,
        ):
            log.warning(
                "unconfirmed",
                "%s has confirmed nothing for long; connecting again, to publish it once more",
                self._where,
            )
            self._lose_link()
            self._disconnect()
            return
        connection.ioloop.call_later(LOOK_S, self._look_at_confirms)

    def _delivered(
        self, wanted: Subscription, _channel: Any, method: Any, properties: Any, body: memoryview
    ) -> None:
        if not self._connection.is_open:
            return  # we are closing; a listener might pause, and miss the answer to it
        if wanted.manual_ack:
            self._unacknowledged.add(method.delivery_tag)
        waited = self._waiting.get(method.consumer_tag, 0)
        if waited:
            self._waiting[method.consumer_tag] = waited - 1
        wanted.on_delivery(delivery(self.epoch, method, properties, body, waited=waited > 0))

    def _acknowledge(self, known: AckTracker) -> None:
        last, others = known.take_acks()
        if not self._ready or known.epoch != self.epoch or not self._channel.is_open:
            return
        if last:
            self._channel.basic_ack(last, multiple=True)
        for tag in others:
            self._channel.basic_ack(tag)

    def _pump(self) -> None:
        if self._ready:
            self._pipeline.pump()

    def _send(self, number: int, message: Publication) -> None:
        speaker = self._parameters.client_properties["connection_name"]
        properties = outgoing(message, number, self.user, speaker)
        method = pika.spec.Basic.Publish(
            exchange=message.exchange,
            routing_key=message.routing_key,
            mandatory=message.mandatory,
        )
        channel = self._channel.channel_number
        self._connection.publish(channel, method, properties, message.body)

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        accepted = isinstance(method, pika.spec.Basic.Ack)
        self._deadline.confirmed()
        self._pipeline.confirmed(method.delivery_tag, method.multiple, accepted)
        self._pump()

    def _returned(self, _channel: Any, method: Any, properties: Any, _body: memoryview) -> None:
        target = method.exchange or method.routing_key
        error = NotThere(
            f"no queue takes what is published to {target!r}: run `broker-config apply`, or in a"
            " cluster look for a node that was cut off"
        )
        log.warning("unroutable", "%s", error)
        self._pipeline.returned(int(properties.message_id), error)

    # --- what ends a connection -----------------------------------------------------------------

    def _cancelled(self, _frame: Any) -> None:
        log.warning("consumer_cancelled", "the broker cancelled our consumer")
        self._lose_link()
        self._disconnect()

    def _channel_closed(self, _channel: Any, error: Exception) -> None:
        if isinstance(error, exceptions.ChannelClosedByBroker):
            if error.reply_code == 403 and "exclusive" in error.reply_text:
                # By another client. By the next turn of the row, this connection may be gone.
                self._connection.ioloop.call_later(self.places.taken(), self._open_channel)
                return
            if error.reply_code == 404 and self._goes_on_without(error.reply_text):
                self._open_channel()
                return
            # What a token that has ended may not, the next one may.
            hopeless = is_final(error) and not has_ended(self._parameters)
            refused = refusal(error, self._where, self._pipeline.newest)
            self._fail(refused, hopeless=hopeless)
            self._lose_link(refused if hopeless else None)
        self._lose_link()
        self._disconnect()

    def _goes_on_without(self, reply: str) -> bool:
        """Whether a queue that is not there, or not now, leaves us others."""
        queue = queue_in(reply)
        wanted = self._subscription
        if wanted is not None and wanted.spares and queue is not None:
            is_spare = queue.endswith(SPARE)
            if (is_away(reply) or is_spare) and queue not in self._away:
                self._away.add(queue)
                mailbox = queue.removesuffix(SPARE)
                if not {mailbox, spare(mailbox)} <= self._away:
                    log.warning("queue_away", "%s", reply)
                    self.places.reopened()
                    return True
        return not is_away(reply) and self.places.missing()

    def _disconnect(self) -> None:
        connection = self._connection
        if connection.is_open:
            connection.resume()  # or the broker's answer would not be read
            connection.leave()
            # One whose reading is held up answers nothing, and goes on sending heartbeats.
            connection.ioloop.call_later(GOODBYE_S, connection.ioloop.stop)
        elif not connection.is_closing:
            connection.ioloop.stop()

    def _ended(self, error: Exception) -> None:
        if not isinstance(error, exceptions.ConnectionClosedByClient):
            by_token = has_token(self._parameters)
            failure, hopeless = diagnose(error, self._where, by_token=by_token)
            self._fail(failure, hopeless=hopeless)
        self._lose_link()
        self._connection.ioloop.stop()

    def _lose_link(self, refused: WarrenError | None = None) -> None:
        self._ready = False
        self._pipeline.lost(refused)

    def _fail(self, failure: WarrenError, *, hopeless: bool = False) -> None:
        self._failure, self._hopeless = failure, hopeless
        if not self._closing.is_set() and self._first.is_set():
            log.warning("connection_lost", "%s; trying again", failure)

    @property
    def _where(self) -> str:
        return location(self._parameters)
