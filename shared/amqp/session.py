"""The AMQP session: one connection, one thread that owns it.

A session connects, consumes what it subscribed to, publishes with confirms, and once it was up
connects again for ever. Its parts are a `Connector`, which has the thread and the connection, a
`Consumer` and a `Publisher`; the session gives the two a channel of each connection. Callbacks run
on the connection's thread, must be short, and never publish().
"""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, Self

from pika import exceptions

from warren_shared.amqp import address
from warren_shared.amqp.address import is_final, refusal
from warren_shared.amqp.connector import Connector, SessionState
from warren_shared.amqp.consumer import MAX_UNACKNOWLEDGED, Consumer
from warren_shared.amqp.delivery import Subscription
from warren_shared.amqp.publisher import WAIT_S, Publication, Publisher
from warren_shared.amqp.queue_claim import QueueClaim
from warren_shared.errors import BrokerUnavailable, Stopped, WarrenError
from warren_shared.tls import Broker

__all__ = ["MAX_UNACKNOWLEDGED", "WAIT_S", "Session", "SessionState"]

# What matters comes back as an error. pika even calls it critical that the broker, which has not
# read our goodbye yet, goes on delivering.
logging.getLogger("pika").setLevel(logging.CRITICAL + 1)


class Session:
    """A connection to the broker that outlives the broker's absences; `for_broker` makes one.

    ``parameters`` are pika's for each host; nothing is opened before `start`.
    """

    def __init__(
        self,
        parameters: list[Any],
        name: str,
        subscription: Subscription | None,
        *,
        on_ready: Callable[[str | None], None],
        on_lost: Callable[[], None],
        on_wait: Callable[[], None],
    ) -> None:
        self._on_ready = on_ready
        self._is_closed = False  # by us, and not for want of hope
        self._connector = Connector(
            parameters,
            name,
            on_attempt=self._attempt,
            on_open=self._open_channel,
            on_link_lost=self._link_lost,
            on_lost=on_lost,
            on_end=self._end,
        )
        self._consumer = Consumer(
            self._connector,
            subscription,
            on_consuming=self._become_ready,
            open_channel=self._open_channel,
        )
        user = parameters[0].credentials.username
        self._publisher = Publisher(self._connector, user, name, on_wait)

    @classmethod
    def for_broker(
        cls,
        broker: str | Broker,
        name: str,
        subscription: Subscription | None = None,
        *,
        on_ready: Callable[[str | None], None] = lambda _queue: None,
        on_lost: Callable[[], None] = lambda: None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Self:
        """A session with ``broker``, which `start` connects.

        ``broker`` is an AMQP URL with user and vhost, and one host or several nodes of a cluster;
        ``name`` is what the management UI calls the connection. ``on_ready(queue)`` is called each
        time consuming (or publishing) can begin, ``on_lost()`` each time it ends and will be tried
        again, ``on_wait()`` while confirms take long. Raises ConfigError if the URL is none, or
        what TLS or the login needs cannot be read.
        """
        return cls(
            address.parameters(broker, name),
            name,
            subscription,
            on_ready=on_ready,
            on_lost=on_lost,
            on_wait=on_wait,
        )

    # --- called from any thread -----------------------------------------------------------------

    @property
    def state(self) -> SessionState:
        """Where it is."""
        return self._connector.state

    @property
    def is_starting(self) -> bool:
        """Whether the broker has not let us in yet, nor refused us for good."""
        return self._connector.is_starting

    @property
    def epoch(self) -> int:
        """Number of the newest connection, which is in its deliveries, too."""
        return self._connector.epoch

    @property
    def places(self) -> QueueClaim:
        """The queues that are consumed."""
        return self._consumer.places

    @property
    def fails_since(self) -> float | None:
        """Since when (monotonic) what is being published has failed; None if it has not."""
        return self._publisher.fails_since

    def start(self, patience_s: float) -> None:
        """Connect; return when consuming.

        Raises BrokerRefused as soon as the broker says no for good, BrokerUnavailable when none
        answered, or the queue was taken by another, for ``patience_s`` seconds, Stopped if the
        session is closed meanwhile.
        """
        self._connector.start()
        if self._connector.wait(patience_s):
            return
        if self._is_closed:
            raise Stopped("stopped before the broker answered")
        where = self._connector.where
        failure = self._connector.failure or BrokerUnavailable(f"{where} did not answer in time")
        self.close()
        raise failure

    def publish(
        self, messages: Iterable[Publication | None], *, waits_for_queue: bool = False
    ) -> None:
        """Publish all of ``messages`` and return when the broker has confirmed every one.

        Waits for a broker that is away and starts over from the first message when the link is
        lost in between, so ``messages`` must be iterable more than once; where it yields BLOCKED
        the rest waits for ``resume_publishing``. Raises BrokerRefused if the broker forbids one, or
        the first ever finds no queue (NotThere; later ones wait, as all do with
        ``waits_for_queue``), Stopped if the session is closed meanwhile.
        """
        self._publisher.publish(messages, waits_for_queue=waits_for_queue)

    def give_up(self) -> None:
        """What is being published and fails is not tried again: ``publish`` raises the reason."""
        self._publisher.give_up()

    def resume_publishing(self) -> None:
        """What was held back may go out."""
        self._publisher.resume()

    def post(self, message: Publication) -> None:
        """Publish ``message`` some time soon, or drop it if the link is down: for events."""
        self._publisher.post(message)

    def acknowledge(self, tags: Iterable[int], epoch: int) -> None:
        """Acknowledge deliveries of ``epoch``; those of a lost connection come again instead."""
        self._consumer.acknowledge(tags, epoch)

    def reopen(self) -> None:
        """Let the link go and connect again: what is unacknowledged comes once more."""
        self._connector.reopen()

    def pause(self) -> None:
        """Read no more from the broker until ``resume``; for ``on_delivery``."""
        self._consumer.pause()

    def resume(self) -> None:
        """Read on."""
        self._consumer.resume()

    def on_thread(self, function: Callable[[], None]) -> None:
        """Call ``function`` on the connection's thread, or at once while there is no connection."""
        if not self._connector.call(function):
            function()

    def close(self) -> None:
        """Send what was posted, close, and wait for the thread to end."""
        self._is_closed = True
        is_drained = self._publisher.drain()
        self._connector.close(is_hopeless=not is_drained)

    def close_within(self, seconds: float) -> None:
        """Close after ``seconds`` if that has not happened by then, even if a thread waits.

        At once if the broker has not answered yet.
        """
        timer = threading.Timer(0.0 if self.is_starting else seconds, self.close)
        timer.daemon = True
        timer.start()

    # --- the connection's thread ----------------------------------------------------------------

    def _attempt(self, epoch: int) -> None:
        self._consumer.begin(epoch)

    def _open_channel(self) -> None:
        connection = self._connector.connection
        if connection.is_open:
            connection.channel(on_open_callback=self._channel_open)

    def _channel_open(self, channel: Any) -> None:
        channel.add_on_close_callback(self._channel_closed)
        self._consumer.attach(channel)
        self._publisher.attach(channel)
        channel.confirm_delivery(
            self._publisher.confirmed, callback=lambda _frame: self._consumer.consume()
        )

    def _become_ready(self, queue: str | None) -> None:
        self._connector.mark_ready()
        self._on_ready(queue)
        self._connector.answer_start()
        self._publisher.begin()
        self._connector.watch_token()

    def _channel_closed(self, _channel: Any, error: Exception) -> None:
        connector = self._connector
        if isinstance(error, exceptions.ChannelClosedByBroker):
            if self._consumer.goes_on_after(error):
                return
            # What a token that has ended may not, the next one may.
            is_hopeless = is_final(error) and not connector.token_has_ended
            refused = refusal(error, connector.where, self._publisher.newest)
            connector.fail(refused, is_hopeless=is_hopeless)
            connector.lose_link(refused if is_hopeless else None)
        connector.lose_link()
        connector.disconnect()

    def _link_lost(self, refused: WarrenError | None) -> None:
        self._publisher.lose_link(refused)

    def _end(self) -> None:
        self._publisher.end()
