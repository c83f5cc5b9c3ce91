"""Questions about queues: how many consumers each of a row has; and a queue of one's own."""

from collections.abc import Callable, Sequence
from typing import Any

from pika import spec

from warren_shared.amqp.delivery import Subscription


def ask(channel: Any, queues: Sequence[str], answered: Callable[[int], bool]) -> None:
    """Ask for ``queues`` all at once; ``answered(consumers)`` is called for each, in their order.

    It returns True after the last. A queue that is not there closes the channel.

    pika would send each question when the one before it is answered, which for a thousand queues
    over a long line takes minutes; the broker takes them as they come, and answers in order.
    """
    number = channel.channel_number

    def heard(frame: Any) -> None:
        if answered(frame.method.consumer_count):
            channel.callbacks.remove(number, spec.Queue.DeclareOk, heard)

    channel.callbacks.add(number, spec.Queue.DeclareOk, heard, one_shot=False)
    for queue in queues:
        channel._send_method(spec.Queue.Declare(queue=queue, passive=True))


def follow(channel: Any, wanted: Subscription, ready: Callable[[str], None]) -> None:
    """Make a queue that ends with us for what ``wanted`` follows, then call ``ready(queue)``."""
    if wanted.follows is None:
        raise ValueError("a subscription to queues that are there follows nothing")
    exchange, topic = wanted.follows

    def declared(frame: Any) -> None:
        queue = frame.method.queue
        channel.queue_bind(queue, exchange, topic, callback=lambda _frame: ready(queue))

    # The broker names it: a user that may choose a name may declare exchanges of that name,
    # too, and nothing bounds their number.
    channel.queue_declare("", exclusive=True, auto_delete=True, callback=declared)
