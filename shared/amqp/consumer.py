"""The consuming side of a session: which queues, their deliveries, and the acknowledgements.

On the connection's thread, but for what says otherwise. A connection's queues are claimed anew,
and deliveries of an earlier connection are not acknowledged: the broker sends them again.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from warren_shared.amqp.address import is_away, queue_in
from warren_shared.amqp.connector import Connector
from warren_shared.amqp.consumer_probe import ask, follow
from warren_shared.amqp.delivery import AckTracker, Subscription
from warren_shared.amqp.properties import delivery
from warren_shared.amqp.queue_claim import QueueClaim
from warren_shared.errors import Taken
from warren_shared.naming import SPARE, spare
from warren_shared.observability.log import Log

log = Log(__name__)

# A consumer that names no limit gets 2000 messages from a quorum queue and then, until it
# acknowledges, nothing: a round of 2 GB would wait for ever. This is the highest that can be named.
MAX_UNACKNOWLEDGED: Final = 65535


class Consumer:
    """Consumes what ``subscription`` says, over one channel after the other.

    ``on_consuming(queue)`` is called when it does, with None if there is nothing to consume;
    ``open_channel()`` opens another channel in place of one that the broker has closed.
    """

    def __init__(
        self,
        connector: Connector,
        subscription: Subscription | None,
        *,
        on_consuming: Callable[[str | None], None],
        open_channel: Callable[[], None],
    ) -> None:
        self._connector = connector
        self._subscription = subscription
        self._on_consuming, self._open_channel = on_consuming, open_channel
        self._had: tuple[str, ...] = ()  # the queues that were ours when we were last ready
        self._channel: Any = None
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Forget what was of the connection before, for ``epoch`` begins."""
        wanted = self._subscription
        self._unacknowledged = AckTracker(epoch)
        self.places = (
            QueueClaim(wanted.queues, wanted.places, self._had) if wanted else QueueClaim(())
        )
        self._waiting: dict[str, int] = {}  # messages that were there before us, by consumer
        self._away: set[str] = set()  # mailboxes and spares whose nodes are down

    # --- called from any thread -----------------------------------------------------------------

    def acknowledge(self, tags: Iterable[int], epoch: int) -> None:
        """Acknowledge deliveries of ``epoch``, if that is the connection that we have."""
        known = self._unacknowledged
        if epoch == known.epoch and known.record_acks(tags):
            self._connector.call(partial(self._acknowledge, known))

    def resume(self) -> None:
        """Read on."""
        connector = self._connector
        connector.call(lambda: connector.connection.resume())  # noqa: PLW0108  of the newest

    # --- claiming queues ------------------------------------------------------------------------

    def attach(self, channel: Any) -> None:
        """Consume over ``channel`` from now on."""
        self._channel = channel
        channel.add_on_cancel_callback(self._cancelled)

    def consume(self) -> None:
        """Claim the next queue, as long as there are too few."""
        wanted = self._subscription
        if wanted is None:
            self._on_consuming(None)
            return
        if wanted.follows is not None:
            follow(self._channel, wanted, lambda queue: self._consume_from(queue, wanted))
            return
        if queues := self.places.to_ask():
            ask(self._channel, [self._reachable(queue) for queue in queues], self._answered)
        elif (queue := self.places.next()) is not None:
            self._consume_from(queue, wanted)
        else:
            connector, shortage = self._connector, self.places.shortage()
            if connector.is_starting and shortage != str(connector.failure):
                log.warning("waiting", "waiting: %s", shortage)
            connector.fail(Taken(shortage))
            connector.disconnect()

    def _answered(self, consumers: int) -> bool:
        is_last = self.places.answered(consumers)
        if is_last:
            self.consume()
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
            self.consume()  # it is taken: the next one, if there is a choice
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
            self._had = tuple(self.places.held)
            self._on_consuming(queue)
        else:
            self.consume()

    # --- deliveries -----------------------------------------------------------------------------

    def _delivered(
        self, wanted: Subscription, _channel: Any, method: Any, properties: Any, body: memoryview
    ) -> None:
        if not self._connector.connection.is_open:
            return  # we are closing; a listener might pause, and miss the answer to it
        known = self._unacknowledged
        if wanted.manual_ack:
            known.add(method.delivery_tag)
        waited = self._waiting.get(method.consumer_tag, 0)
        if waited:
            self._waiting[method.consumer_tag] = waited - 1
        wanted.on_delivery(delivery(known.epoch, method, properties, body, waited=waited > 0))

    def pause(self) -> None:
        """Read no more from the broker until ``resume``."""
        self._connector.connection.pause()

    def _acknowledge(self, known: AckTracker) -> None:
        last, others = known.take_acks()
        if (
            not self._connector.is_ready
            or known is not self._unacknowledged
            or not self._channel.is_open
        ):
            return
        if last:
            self._channel.basic_ack(last, multiple=True)
        for tag in others:
            self._channel.basic_ack(tag)

    # --- what ends it ---------------------------------------------------------------------------

    def _cancelled(self, _frame: Any) -> None:
        log.warning("consumer_cancelled", "the broker cancelled our consumer")
        self._connector.lose_link()
        self._connector.disconnect()

    def goes_on_after(self, error: Any) -> bool:
        """Whether another channel is opened in place of one that the broker closed with ``error``.

        It is if the queue that we tried is taken, missing, or away, and there are others.
        """
        if error.reply_code == 403 and "exclusive" in error.reply_text:
            # By another client. By the next turn of the row, this connection may be gone.
            self._connector.call_later(self.places.taken(), self._open_channel)
            return True
        if error.reply_code == 404 and self._goes_on_without(error.reply_text):
            self._open_channel()
            return True
        return False

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
