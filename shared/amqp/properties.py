"""What a message says of itself beside its body: the properties that the management UI shows."""

import time
from typing import Any, Final

import pika

from warren_shared.amqp.confirm_window import Publication
from warren_shared.amqp.delivery import Delivery
from warren_shared.protocol.messages import OLDEST, PROTOCOL

APP_ID: Final = "warren"
READS: Final = "protocol"  # header with the newest protocol that the sender reads


def outgoing(message: Publication, number: int, user: str, speaker: str) -> Any:
    """Properties of ``message``, the ``number``-th of its channel, from ``user``.

    ``speaker`` is the connection's name, which is what people know a worker by.
    """
    return pika.BasicProperties(
        content_type=message.content_type,
        delivery_mode=2 if message.persistent else 1,
        type=message.kind,
        app_id=speaker,
        user_id=user,
        headers={READS: PROTOCOL, **(message.headers or {})},
        message_id=str(number),
        timestamp=int(time.time()),
    )


def delivery(
    epoch: int, method: Any, properties: Any, body: memoryview, *, waited: bool = False
) -> Delivery:
    """What has come over connection ``epoch``, as pika has it."""
    unreadable = getattr(properties, "unreadable", False)
    return Delivery(
        body,
        method.delivery_tag,
        epoch,
        properties.user_id,
        method.redelivered,
        method.consumer_tag,
        reads(properties),
        waited=waited,
        unreadable=unreadable,
    )


def reads(properties: Any) -> int:
    """The newest protocol that the sender of a message reads, as far as it says so.

    The first Warren did not say it, and called itself APP_ID. Of a stranger we know nothing, and
    assume that it keeps up.
    """
    said = (properties.headers or {}).get(READS)
    if type(said) is int:
        return said
    return OLDEST if properties.app_id == APP_ID else PROTOCOL
