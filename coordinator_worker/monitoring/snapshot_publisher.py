"""The last word for those who come later: the queue ``event.state`` holds one message, the newest.

A watcher may not ask, for it may not publish; and what it missed will not come again. So the
coordinator leaves the whole view there, at most once a second, and a late-comer looks at it
without taking it out.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from coordinator_worker.monitoring.events import CoordinatorStopped, FederationFinished, Stamped
from coordinator_worker.monitoring.federation_view import FederationView
from coordinator_worker.state.training_state import State
from warren_shared import strict_json
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.naming import STATE_QUEUE

T = TypeVar("T")

PAUSE_S: Final = 1.0
# A view of a thousand clients takes some 50 ms: not more than every twentieth of our time.
SHARE: Final = 20
AT_ONCE: Final = (FederationFinished, CoordinatorStopped)


class SnapshotPublisher:
    """Posts the view of the events through ``session``; for any thread."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._view = FederationView()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._next = 0.0  # monotonic: not before then

    def begin(self, state: State) -> None:
        """The events to come are about ``state``."""
        with self._lock:
            known = (self._view.run, self._view.version)
            if known != (state.run, state.version):
                self._view.resume(state)

    def ask(self, question: Callable[[FederationView], T]) -> T:
        """What ``question`` finds in the view; for any thread."""
        with self._lock:
            return question(self._view)

    def note(self, event: Stamped) -> None:
        """Take an event; what it changes is posted at once or after a pause."""
        with self._lock:
            self._view.apply(event)
            if isinstance(event.event, AT_ONCE):
                self._post()
            elif self._timer is None:
                wait_s = self._next - time.monotonic()
                if wait_s <= 0:
                    self._post()
                else:
                    self._timer = threading.Timer(wait_s, self._due)
                    self._timer.daemon = True
                    self._timer.start()

    def _due(self) -> None:
        with self._lock:
            self._timer = None
            self._post()

    def _post(self) -> None:
        began = time.monotonic()
        body = strict_json.dumps(self._view.as_dict()).encode()
        self._session.post(
            Publication(
                "",
                STATE_QUEUE,
                (body,),
                "federation.state",
                persistent=True,
                content_type="application/json",
            )
        )
        ended = time.monotonic()
        self._next = ended + max(PAUSE_S, SHARE * (ended - began))
