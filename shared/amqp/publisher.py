"""The publishing side of a session: what goes out is confirmed, or goes out again.

A thread that publishes waits here; the messages go out, and their confirms come in, on the
connection's thread, through a `ConfirmWindow`. Callbacks of that thread never publish.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import pika

from warren_shared.amqp.backoff import backoff_s
from warren_shared.amqp.confirm_deadline import ConfirmDeadline
from warren_shared.amqp.confirm_window import (
    BLOCKED,
    ConfirmWindow,
    NotTaken,
    Publication,
    PublishBatch,
    Unconfirmed,
)
from warren_shared.amqp.connector import Connector
from warren_shared.amqp.properties import outgoing
from warren_shared.errors import NotThere, Stopped, WarrenError
from warren_shared.observability.log import Log

__all__ = ["BLOCKED", "Publication", "Publisher"]

log = Log(__name__)

DRAIN_S: Final = 5.0
LOOK_S: Final = 3.0
ATTEMPTS_AT_A_NODE: Final = 5
# A channel whose first message came while a quorum queue had no leader is refused for ever by
# RabbitMQ 3.10, though the next channel's message is taken. A full queue refuses every channel;
# there another connection costs less than the update that goes out again with each attempt.
REFUSALS_BY_A_CHANNEL: Final = 3
WAIT_S: Final = 10.0


class Publisher:
    """Publishes as ``user``, over one channel after the other; ``name`` is the connection's.

    ``on_wait()`` is called while confirms take long.
    """

    def __init__(
        self, connector: Connector, user: str, name: str, on_wait: Callable[[], None]
    ) -> None:
        self.user = user
        self.fails_since: float | None = None  # monotonic; of what is being published
        self._name = name
        self._connector = connector
        self._on_wait = on_wait
        self._window = ConfirmWindow(self._send)
        self._deadline = ConfirmDeadline()
        self._has_published = False
        self._given_up = 0  # how often
        self._channel: Any = None

    # --- called from any thread -----------------------------------------------------------------

    def publish(self, messages: Iterable[Publication | None], *, waits_for_queue: bool) -> None:
        """Publish all of ``messages``, as `Session.publish` says."""
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
                self._connector.reopen()  # another node of a cluster may know the queue
            refusals = refusals + 1 if isinstance(job.error, NotTaken) else 0
            if refusals >= REFUSALS_BY_A_CHANNEL:
                self._connector.reopen()
            if self._connector.closing.wait(backoff_s(attempt)):
                raise Stopped("closed before the broker confirmed")

    def give_up(self) -> None:
        """Have ``publish`` raise the reason at the next failure, instead of trying again."""
        self._given_up += 1

    def resume(self) -> None:
        """Send what was held back."""
        self._connector.call(self._pump)

    def post(self, message: Publication) -> None:
        """Publish ``message`` some time soon, or drop it if the link is down."""
        if self._connector.is_ready:
            self._submit(PublishBatch([message]))

    def drain(self) -> bool:
        """Wait for what was posted; False if the broker has not confirmed it in time."""
        if not self._connector.is_ready or self._connector.closing.is_set():
            return True
        last = PublishBatch([])
        self._submit(last)
        return last.done.wait(DRAIN_S)

    def _submit(self, job: PublishBatch) -> None:
        self._window.append(job)
        # Asked after appending: the thread may have ended in between.
        if self._connector.closing.is_set():
            job.finish(Stopped("the session is closed"))
            return
        self._connector.call(self._pump)

    # --- the connection's thread ----------------------------------------------------------------

    @property
    def newest(self) -> str:
        """What was sent last and is not confirmed, for people; empty if there is nothing."""
        return self._window.newest

    def attach(self, channel: Any) -> None:
        """Publish over ``channel`` from now on."""
        self._channel = channel
        channel.add_on_return_callback(self._returned)

    def begin(self) -> None:
        """Send what waits, and look after the confirms, for the link is ready."""
        self._pump()
        self._connector.call_later(LOOK_S, self._look_at_confirms)

    def lose_link(self, refused: WarrenError | None) -> None:
        """Fail what is not confirmed; ``refused`` says that this was why the link was lost."""
        self._window.lost(refused)

    def end(self) -> None:
        """Fail everything, for there will be no other connection."""
        self._window.abandon(Stopped("the session is closed"))

    def confirmed(self, frame: Any) -> None:
        """Take a confirm from the broker."""
        method = frame.method
        accepted = isinstance(method, pika.spec.Basic.Ack)
        self._deadline.confirmed()
        self._window.confirmed(method.delivery_tag, method.multiple, accepted)
        self._pump()

    def _pump(self) -> None:
        if self._connector.is_ready:
            self._window.pump()

    def _send(self, number: int, message: Publication) -> None:
        properties = outgoing(message, number, self.user, self._name)
        method = pika.spec.Basic.Publish(
            exchange=message.exchange,
            routing_key=message.routing_key,
            mandatory=message.mandatory,
        )
        channel = self._channel.channel_number
        self._connector.connection.publish(channel, method, properties, message.body)

    def _returned(self, _channel: Any, method: Any, properties: Any, _body: memoryview) -> None:
        target = method.exchange or method.routing_key
        error = NotThere(
            f"no queue takes what is published to {target!r}: run `broker-config apply`, or in a"
            " cluster look for a node that was cut off"
        )
        log.warning("unroutable", "%s", error)
        self._window.returned(int(properties.message_id), error)

    def _look_at_confirms(self) -> None:
        connector, window = self._connector, self._window
        if not connector.is_ready:
            return
        connection = connector.connection
        if self._deadline.is_over(
            time.monotonic(),
            waits=window.waits and connection.confirms_come,
            progress=window.progress,
            unsent_bytes=connection.unsent_bytes,
        ):
            log.warning(
                "unconfirmed",
                "%s has confirmed nothing for long; connecting again, to publish it once more",
                connector.where,
            )
            connector.lose_link()
            connector.disconnect()
            return
        connector.call_later(LOOK_S, self._look_at_confirms)
