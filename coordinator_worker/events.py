"""What happened, as JSON on the topic exchange ``event``, for dashboards and people."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from broker_config.names import EVENT_EXCHANGE
from shared.amqp import Session
from shared.pipeline import Publication

Observe: TypeAlias = Callable[[Mapping[str, Any]], None]


class Events:
    """Posts events; they are a courtesy and may be lost, unlike updates.

    ``observers`` in this process hear of each.
    """

    def __init__(self, session: Session, **common: Any) -> None:
        self._session = session
        self._common = common
        self.observers: list[Observe] = []

    def post(self, topic: str, **fields: Any) -> None:
        """Post one event under routing key ``topic``, such as ``round.closed``."""
        event = {"event": topic, "time": time.time(), **self._common, **fields}
        for observe in self.observers:
            observe(event)
        body = json.dumps(event).encode()
        self._session.post(
            Publication(EVENT_EXCHANGE, topic, (body,), topic, content_type="application/json")
        )
