"""What happened, as JSON on the topic exchange ``event``, for dashboards and people."""

import itertools
import threading
from collections.abc import Callable
from typing import TypeVar

from coordinator_worker.monitoring.events import Event, Posted, Stamped
from coordinator_worker.monitoring.federation_view import FederationView
from coordinator_worker.monitoring.snapshot_publisher import SnapshotPublisher
from coordinator_worker.state.training_state import State
from warren_shared import strict_json
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.naming import EVENT_EXCHANGE
from warren_shared.observability.event_bus import EventBus

T = TypeVar("T")


class Events:
    """Posts events; they are a courtesy and may be lost, unlike updates.

    What they come to is left in the broker for those who come later (``SnapshotPublisher``).
    Listeners in this process hear them too, and what is not worth a message besides.
    """

    def __init__(self, session: Session, event_bus: EventBus[Event], *, federation: str) -> None:
        self._session = session
        self._event_bus = event_bus
        self._federation = federation
        self._bulletin = SnapshotPublisher(session)
        self._in_order = threading.Lock()  # or a thread's event could overtake another's
        self._number = itertools.count(1)  # a watcher that misses one can tell

    def post(self, event: Posted) -> None:
        """Post one event under its routing key, such as ``round.closed``."""
        key = event.routing_key
        with self._in_order:
            stamped = Stamped.now(event, next(self._number), self._federation)
            body = strict_json.dumps(stamped.to_dict()).encode()
            self._session.post(
                Publication(EVENT_EXCHANGE, key, (body,), key, content_type="application/json")
            )
            self._bulletin.note(stamped)
        self._event_bus.publish(event)

    def ask(self, question: Callable[[FederationView], T]) -> T:
        """What ``question`` finds in what the events came to."""
        return self._bulletin.ask(question)

    def begin(self, state: State) -> None:
        """Events from now on are about ``state``; free if they are already."""
        self._bulletin.begin(state)

    def tell(self, event: Event) -> None:
        """Say something to those who listen in this process alone."""
        self._event_bus.publish(event)
