"""Looking at a queue without taking anything out of it.

AMQP has no word for that: what is read here is consumed, never acknowledged, and given back, which
puts it where it was. The consumer is exclusive, because of two that look at once each would see a
part and take it for the whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pika import exceptions

from warren_shared.amqp.address import diagnose, location, parameters, refusal
from warren_shared.amqp.zero_copy import blocking
from warren_shared.errors import BrokerUnavailable
from warren_shared.tls import Broker

SILENCE_S: Final = 10.0  # fewer may come than were there: some were too old and are gone


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message in a queue: who the broker says sent it, and what is written on the outside.

    ``timestamp`` is Unix seconds, if its publisher set it. ``headers`` and ``body`` may
    come from anybody who may publish; of ``unreadable`` ones, which cannot be decoded, there is
    nothing in ``headers``.
    """

    body: bytes
    headers: dict[str, Any]
    user: str | None
    timestamp: int | None
    unreadable: bool = False


def peek(broker: str | Broker, name: str, queue: str) -> Iterator[QueuedMessage]:
    """Every message that waits in ``queue``, oldest first; at the end all of them are back.

    One at a time: a queue may hold more than fits into memory.

    Raises:
        BrokerRefused: the user may not read the queue, or there is none.
        BrokerUnavailable: no answer, or another process is reading.
    """
    with _channel(broker, name, queue) as channel:
        found = channel.queue_declare(queue, passive=True).method
        if found.consumer_count:
            raise _taken(queue)
        missing = found.message_count
        if not missing:
            # The count is told to everybody; "there is nothing" only to who may read.
            channel.basic_get(queue)
            return
        for method, properties, body in channel.consume(
            queue, exclusive=True, inactivity_timeout=SILENCE_S
        ):
            if method is None:
                break
            yield QueuedMessage(
                body,
                properties.headers or {},
                properties.user_id,
                properties.timestamp,
                getattr(properties, "unreadable", False),
            )
            missing -= 1
            if not missing:
                break
        channel.cancel()
        channel.basic_nack(0, multiple=True, requeue=True)
        # The answer comes after the queue has everything back, so the next reader sees it all.
        channel.queue_declare(queue, passive=True)


def purge(broker: str | Broker, name: str, queue: str) -> int:
    """Delete every message that waits in ``queue``; return how many there were.

    Raises:
        BrokerRefused: the user may not read the queue, or there is none.
        BrokerUnavailable: no answer.
    """
    with _channel(broker, name, queue) as channel:
        return int(channel.queue_purge(queue).method.message_count)


@contextmanager
def _channel(broker: str | Broker, name: str, queue: str) -> Iterator[Any]:
    told = parameters(broker, name)
    where = location(*told)
    try:
        connection = blocking(*told)
    except (exceptions.AMQPError, OSError) as error:
        raise diagnose(error, where)[0] from None
    try:
        yield connection.channel()
    except exceptions.ChannelClosedByBroker as error:
        if "exclusive" in error.reply_text:
            raise _taken(queue) from None
        raise refusal(error, where) from None
    except exceptions.AMQPError as error:
        raise diagnose(error, where)[0] from None
    finally:
        if connection.is_open:
            connection.close()


def _taken(queue: str) -> BrokerUnavailable:
    return BrokerUnavailable(f"somebody else is looking at {queue} just now: try again")
