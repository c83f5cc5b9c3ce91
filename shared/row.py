"""How many consumers each queue of a row has, in the time of one answer."""

from collections.abc import Callable, Sequence
from typing import Any

from pika import spec


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
