"""What happened, as JSON on the topic exchange ``event``, for dashboards and people."""

import json
import time
from typing import Any

from broker_config.names import EVENT_EXCHANGE
from shared.amqp import Session
from shared.audience import Audience
from shared.pipeline import Publication


class Events:
    """Posts events; they are a courtesy and may be lost, unlike updates.

    Whoever listens in this process hears them too, and what is not worth a message besides.
    """

    def __init__(self, session: Session, audience: Audience, **common: Any) -> None:
        self._session = session
        self._audience = audience
        self._common = common

    def post(self, topic: str, **fields: Any) -> None:
        """Post one event under routing key ``topic``, such as ``round.closed``."""
        event = {"event": topic, "time": time.time(), **self._common, **fields}
        body = json.dumps(event).encode()
        self._session.post(
            Publication(EVENT_EXCHANGE, topic, (body,), topic, content_type="application/json")
        )
        self._audience.tell(topic, **fields)

    def tell(self, topic: str, **fields: Any) -> None:
        """Say something to those who listen in this process alone."""
        self._audience.tell(topic, **fields)
