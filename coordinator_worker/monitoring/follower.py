"""A federation followed from the ``event`` exchange, by an account that may publish nothing."""

import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from coordinator_worker.monitoring.events import NOTHING, Stamped
from coordinator_worker.monitoring.federation_view import FederationView
from warren_shared.amqp import queue_browser
from warren_shared.amqp.delivery import Delivery, Subscription
from warren_shared.amqp.session import Session
from warren_shared.errors import BrokerUnavailable, ConfigError, WarrenError
from warren_shared.naming import EVENT_EXCHANGE, STATE_QUEUE
from warren_shared.tls import Broker

ATTEMPTS: Final = 20  # only one watcher can look at a time, and it takes some milliseconds
EMPTY: Final = 4
LOOK_PAUSE_S: Final = 0.25
LOOK_S: Final = 15.0
LAST_WORD_S: Final = 1.5  # it may be a second old
MIN_LOOKS: Final = 2
MAX_LOOKS: Final = 5


class Watch(AbstractContextManager["Watch"]):
    """Follows the events of a federation; ``on_event`` is called on the connection's thread."""

    def __init__(
        self,
        broker: str | Broker,
        on_event: Callable[[Stamped], None],
        name: str = "watch",
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        subscription = Subscription(
            (),
            lambda delivery: on_event(_read(delivery)),
            manual_ack=False,
            follows=(EVENT_EXCHANGE, "#"),
            tag="watch",
        )
        self._session = Session.for_broker(
            broker, name, subscription, on_ready=lambda _queue: on_ready(), on_lost=on_lost
        )

    def __enter__(self) -> "Watch":
        """Begin to follow."""
        self._session.start(patience_s=10.0)
        return self

    def __exit__(self, *_: object) -> None:
        """Follow no longer."""
        self._session.close()


def _read(delivery: Delivery) -> Stamped:
    try:
        event = json.loads(bytes(delivery.body))
    except (ValueError, RecursionError):
        return NOTHING
    return Stamped.from_dict(event) if isinstance(event, dict) else NOTHING


def fetch_snapshot(broker: str | Broker, name: str) -> FederationView | None:
    """What the coordinator left for those who come later; None if there is nothing.

    Raises:
        BrokerRefused: this account may not look, or the broker has no such queue.
        BrokerUnavailable: no answer, or others are reading it all the time.
        ConfigError: it is of another version.
    """
    empty = 0
    for attempt in range(1, ATTEMPTS + 1):
        try:
            letters = list(queue_browser.peek(broker, name, STATE_QUEUE))
        except BrokerUnavailable:
            if attempt == ATTEMPTS:
                raise
        else:
            if letters:
                return _written(letters[-1].body)
            empty += 1  # or somebody else holds it and is about to give it back
            if empty == EMPTY:
                break
        time.sleep(LOOK_PAUSE_S * random.random())  # noqa: S311  or they would meet again
    return None


def _written(body: bytes) -> FederationView:
    try:
        return FederationView.of(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(
            f"{STATE_QUEUE} holds what this version of Warren cannot read: use the coordinator's"
        ) from None


class Follower(AbstractContextManager["Follower"]):
    """A view of a federation that is kept current, through lost connections and events too.

    It begins with the coordinator's last word, and with that again when an event was missed: they
    are numbered. ``changed(event)`` is called after each event, on a thread of ours, and with None
    when anything may be different. Use ``view`` while holding ``lock``. ``notice``
    says what is amiss with the following itself, if something is.
    """

    def __init__(
        self, broker: str | Broker, name: str, changed: Callable[[Stamped | None], None]
    ) -> None:
        self.view = FederationView()
        self.lock: AbstractContextManager[Any] = threading.RLock()
        self.notice = ""
        self._heard = time.monotonic()  # when the coordinator gave its last sign
        self._broker, self._name, self._changed = broker, name, changed
        self._looked = threading.Event()
        self._left = threading.Event()
        self._recent: list[Stamped] | None = []  # since we began to look; None: we do not
        self._known = 0.0  # time of the view then
        self._watch = Watch(broker, self._take, name, on_ready=self._ready, on_lost=self._lost)

    @property
    def silence_s(self) -> float:
        """Seconds since the coordinator was heard of."""
        return time.monotonic() - self._heard

    def __enter__(self) -> "Follower":
        """Begin to follow; returns when the view shows what was before."""
        self._watch.__enter__()
        self._looked.wait(LOOK_S)
        return self

    def __exit__(self, *_: object) -> None:
        """Follow no longer."""
        self.leave()

    def leave(self) -> None:
        """Follow no longer, or do not begin to: who waits for that gets Stopped. For any thread."""
        self._left.set()
        self._looked.set()
        self._watch.__exit__()

    def _ready(self) -> None:
        # On a new thread: it has its own connection, and events come meanwhile.
        threading.Thread(target=self._look, daemon=True).start()

    def _lost(self) -> None:
        with self.lock:
            self._begin_to_look([])
            self.notice = "the broker is away; trying again"
        self._changed(None)

    def _begin_to_look(self, recent: list[Stamped]) -> None:
        self._known, self._recent = self.view.time, recent

    def _take(self, event: Stamped) -> None:
        with self.lock:
            self._heard = time.monotonic()
            if self._recent is not None:
                self._recent.append(event)
            elif self._misses_before(event):
                self._begin_to_look([event])
                threading.Thread(target=self._look, args=(LAST_WORD_S,), daemon=True).start()
            self.view.apply(event)
        self._changed(event)

    def _misses_before(self, event: Stamped) -> bool:
        """Whether something happened before ``event`` that we did not hear of.

        A coordinator that was started again counts from 1: what is newer than all that we know and
        has a number that we had is one of another count. One that is not newer was in the
        view with which we began.
        """
        had, number = self.view.number, event.number
        if not had or not number:
            return False
        return number > had + 1 or (number <= had and self._is_newer(event, self.view))

    @staticmethod
    def _is_newer(event: Stamped, view: FederationView) -> bool:
        return event.time > view.time

    def _look(self, after_s: float = 0.0) -> None:
        """Begin with the last word, and until it has all that we missed with the next one.

        At least twice: what happened just before we began to listen may not be in the first.
        """
        notice, complete, looks = "", False, 0
        while (not complete or looks < MIN_LOOKS) and looks < MAX_LOOKS:
            if self._left.wait(after_s):
                break
            looks, after_s = looks + 1, LAST_WORD_S
            try:
                found = fetch_snapshot(self._broker, self._name)
            except WarrenError as error:
                notice = f"what was before is not known: {error}"
                break
            with self.lock:
                complete = self._adopt(found)
            self._looked.set()
            self._changed(None)
        with self.lock:
            self._recent, self.notice = None, notice
        self._looked.set()
        self._changed(None)

    def _adopt(self, found: FederationView | None) -> bool:
        """Go on from ``found``; whether it joins up with what we heard since."""
        recent = self._recent or []
        if found is None or found.time < self._known:
            return not recent
        found.succeeds(self.view)
        # Before they are fed, for that moves the number on. The last word of a coordinator that was
        # killed has a higher number than the first events of the next one, and knows none of them.
        joins = (
            not recent
            or not self._is_newer(recent[0], found)
            or recent[0].number == found.number + 1
        )
        for event in recent:
            if self._is_newer(event, found):
                found.apply(event)
        if not recent:
            self._heard = time.monotonic() - max(0.0, time.time() - found.time)
        self.view = found
        return joins
