"""The keeper's two connections, and what comes from timers and signals."""

import threading
from functools import partial
from typing import Final, Self

from keeper_worker.runtime.inbox import Inbox, Item, Link, LookAgain, Stop, WatchdogTick
from keeper_worker.settings import KeeperSettings
from warren_shared.amqp.delivery import Subscription
from warren_shared.amqp.session import Session
from warren_shared.naming import MASK_QUEUE, UNMASK_QUEUE
from warren_shared.service.lifecycle import LAST_CHANCE_S
from warren_shared.service.watchdog import Pulse, Supervisor

STANDBY: Final = "standby: another keeper has the folder"
LAST_WORDS: Final = "waiting until an answer is confirmed"


class KeeperLinks:
    """``masks`` consumes seeds; ``answers`` consumes requests and publishes what is answered.

    Two, since a broker short of memory stops reading from a connection that publishes, and seeds
    must not be held back by a sum. All that happens comes out of ``get``.
    """

    def __init__(
        self, patience_s: float, supervisor: Supervisor, inbox: Inbox, masks: Session,
        answers: Session,
    ) -> None:  # fmt: skip
        self._patience_s = patience_s
        self._inbox = inbox
        self._stop_asked = threading.Event()
        self._timer: threading.Timer | None = None
        self.supervisor = supervisor
        self.masks, self.answers = masks, answers
        self._pulse = Pulse(supervisor, lambda: masks.on_thread(partial(inbox.put, WatchdogTick())))

    @classmethod
    def from_settings(cls, settings: KeeperSettings) -> Self:
        """Those of a keeper, which `start` connects.

        Raises:
            ConfigError: what TLS or the login needs cannot be read.
        """
        name = f"keeper · {settings.federation}"
        supervisor = Supervisor(settings.ready_file)
        inbox = Inbox(lambda: masks.pause(), lambda: masks.resume())  # noqa: PLW0108

        def ready(_queue: str | None, *, of_seeds: bool) -> None:
            session = masks if of_seeds else answers
            inbox.put(Link(of_seeds, is_up=True, epoch=session.epoch))

        def lost(*, of_seeds: bool) -> None:
            supervisor.away()
            session = masks if of_seeds else answers
            inbox.put(Link(of_seeds, is_up=False, epoch=session.epoch))

        masks = Session.for_broker(
            settings.broker,
            f"{name} · seeds in",
            Subscription((MASK_QUEUE,), inbox.deliver_seed, tag="keeper"),
            on_ready=partial(ready, of_seeds=True),
            on_lost=partial(lost, of_seeds=True),
        )
        answers = Session.for_broker(
            settings.broker,
            f"{name} · requests in, sums out",
            Subscription((UNMASK_QUEUE,), inbox.deliver_request, tag="keeper"),
            on_ready=partial(ready, of_seeds=False),
            on_lost=partial(lost, of_seeds=False),
            on_wait=partial(_say_waiting, supervisor),
        )
        return cls(settings.wait_broker_s, supervisor, inbox, masks, answers)

    def start(self) -> None:
        """Connect both; raises as Session.start does."""
        self.masks.start(self._patience_s)
        self.answers.start(self._patience_s)
        self._pulse.start()

    def close(self) -> None:
        """Give back what is unacknowledged, and close."""
        self._pulse.stop()
        if self._timer is not None:
            self._timer.cancel()
        self.supervisor.stopping()
        self.masks.close()
        self.answers.close()

    def get(self) -> Item:
        """What happens next, however long it takes."""
        return self._inbox.get()

    def look_again_in(self, seconds: float) -> None:
        """Have ``get`` return LookAgain in ``seconds``, unless it is going to sooner."""
        if self._timer is not None and self._timer.is_alive():
            return
        self._timer = threading.Timer(seconds, self._inbox.put, [LookAgain()])
        self._timer.daemon = True
        self._timer.start()

    def ask_to_stop(self) -> None:
        """End all waiting; for any thread."""
        self._stop_asked.set()
        self._inbox.put(Stop())
        self.answers.close_within(LAST_CHANCE_S)
        if self.masks.is_starting:
            self.masks.close_within(LAST_CHANCE_S)

    def stopped_within(self, seconds: float) -> bool:
        """Wait; True as soon as we are asked to stop."""
        return self._stop_asked.wait(seconds)


def _say_waiting(supervisor: Supervisor) -> None:
    if threading.current_thread() is threading.main_thread():
        supervisor.alive(LAST_WORDS)
