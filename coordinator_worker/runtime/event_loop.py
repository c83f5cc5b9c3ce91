"""The coordinator's two connections, and what comes from them, from timers and from signals."""

import threading
import time
from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import Future
from functools import partial
from typing import Final, Self

from coordinator_worker.rounds import newest_version
from coordinator_worker.runtime.inbox import (
    Asked,
    Connected,
    Event,
    Inbox,
    Listed,
    Lost,
    Seen,
    StandbyTimeout,
    Stop,
    WatchdogTick,
)
from coordinator_worker.runtime.notices import probe
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.trust.enrolment import EnrolmentReader
from warren_shared.amqp.confirm_window import Unconfirmed
from warren_shared.amqp.delivery import Delivery, Subscription
from warren_shared.amqp.session import MAX_UNACKNOWLEDGED, WAIT_S, Session
from warren_shared.errors import ConfigError, NotThere, Stopped
from warren_shared.naming import UPDATE_QUEUE, mailboxes
from warren_shared.observability.log import Log
from warren_shared.protocol.messages import Newest
from warren_shared.protocol.transfer import message_count
from warren_shared.service.broker_check import without_consumer
from warren_shared.service.lifecycle import LAST_CHANCE_S
from warren_shared.service.watchdog import Pulse, Supervisor

log = Log(__name__)

FAILS_S: Final = 30.0
MAX_LOOKED_FOR: Final = 200
A_MODEL: Final = "waiting until a model is published"
QUIET_S: Final = 2.0  # connected for so long and nothing came: another one is active


class NotPublished(Exception):
    """From here a model reaches no mailbox; from another node of the broker it may."""


def check_room(quorum: int, model_bytes: int) -> None:
    """Raise ConfigError if a round's updates are more messages than a consumer may hold."""
    messages = quorum * message_count(model_bytes)
    if messages > MAX_UNACKNOWLEDGED:
        raise ConfigError(
            f"--quorum {quorum}: so many updates of this model are {messages} messages, and a"
            f" consumer may hold {MAX_UNACKNOWLEDGED}; lower the quorum"
        )


class CoordinatorLoop:
    """``updates`` is the connection that consumes, ``models`` the one that publishes.

    Two, since a broker short of memory stops reading from a connection that publishes, and
    acknowledgements must not be stuck behind a model. All that happens comes out of ``get``.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        supervisor: Supervisor,
        inbox: Inbox,
        *,
        models: Session,
        updates: Session,
    ) -> None:
        self._name = _name(settings)
        self._broker = settings.broker
        self._spares = settings.spare_mailboxes
        self._patience_s = settings.wait_broker_s
        self.supervisor = supervisor
        self._enrolment = EnrolmentReader(settings.broker, f"{self._name} · who is enrolled")
        self._pulse = Pulse(supervisor, self._ask_whether_alive)
        self._stop_asked = threading.Event()
        self._timers: dict[type[Event], threading.Timer] = {}
        self._asking = threading.Lock()  # one question at a time
        self._inbox = inbox
        self.models = models
        self.updates = updates

    @classmethod
    def from_settings(cls, settings: CoordinatorSettings) -> Self:
        """The loop of a coordinator, which `start` connects.

        Raises:
            ConfigError: what TLS or the login needs cannot be read.
        """
        name = _name(settings)
        supervisor = Supervisor(settings.ready_file)
        inbox = Inbox(lambda: updates.pause(), lambda: updates.resume())  # noqa: PLW0108

        def connected(_queue: str | None) -> None:
            supervisor.ready()
            inbox.put(Connected())

        def lost() -> None:
            supervisor.away()
            inbox.put(Lost())

        models = Session.for_broker(
            settings.broker, f"{name} · models out", on_wait=partial(_say_waiting, supervisor)
        )
        updates = Session.for_broker(
            settings.broker,
            f"{name} · updates in",
            Subscription((UPDATE_QUEUE,), inbox.deliver, tag="coordinator"),
            on_ready=connected,
            on_lost=lost,
        )
        return cls(settings, supervisor, inbox, models=models, updates=updates)

    def start(self) -> None:
        """Connect both; raises as Session.start does."""
        self.models.start(self._patience_s)
        self.updates.start(self._patience_s)
        self._pulse.start()

    def close(self) -> None:
        """Give back what is unacknowledged, send what was posted, close."""
        self._pulse.stop()
        self.supervisor.stopping()
        self.updates.close()
        self.models.close()

    def get(self) -> Delivery | Event:
        """The next delivery or event, however long it takes."""
        return self._inbox.get()

    def poll(self) -> Delivery | Event | None:
        """The next delivery or event if there is one."""
        return self._inbox.poll()

    def put(self, event: Event) -> None:
        """Have ``get`` return ``event``; safe from any thread."""
        self._inbox.put(event)

    def remind(self, seconds: float, event: Event) -> None:
        """Have ``get`` return ``event`` after ``seconds``, and no other of its kind before."""
        timer = threading.Timer(seconds, self._inbox.put, [event])
        timer.daemon = True
        if (earlier := self._timers.get(type(event))) is not None:
            earlier.cancel()
        self._timers[type(event)] = timer
        timer.start()

    @property
    def is_stopping(self) -> bool:
        """Whether we were asked to stop."""
        return self._stop_asked.is_set()

    def ask_to_stop(self) -> None:
        """End all waiting; for any thread."""
        self._stop_asked.set()
        self._inbox.put(Stop())
        self.models.close_within(LAST_CHANCE_S)
        if self.updates.is_starting:
            self.updates.close_within(LAST_CHANCE_S)

    def stopped_within(self, seconds: float) -> bool:
        """Wait; True as soon as we are asked to stop."""
        return self._stop_asked.wait(seconds)

    def ask_whether_active(self) -> None:
        """Something is delivered if we are the active one; ``StandbyTimeout`` comes in any case."""
        if self._asking.acquire(blocking=False):
            # Not by this thread: it may be a while until the queue has room for it.
            threading.Thread(target=self._ask, daemon=True).start()
        self.remind(QUIET_S, StandbyTimeout())

    def _ask(self) -> None:
        try:
            probe(self.models)
        except (NotThere, Stopped, Unconfirmed) as error:
            # The link was lost, or the queue has no majority: the next StandbyTimeout asks again.
            log.info("probe_not_sent", "cannot ask whether this coordinator is active: %s", error)
            return
        finally:
            self._asking.release()
        self._inbox.put(Asked())

    def newest(self) -> tuple[Newest, ...]:
        """What was published last; raises BrokerUnavailable as `newest_version.newest` does."""
        return newest_version.newest(self._broker, f"{self._name} · newest")

    def look_for(self, clients: Sequence[str]) -> None:
        """Have ``get`` return Seen: which of ``clients``, MAX_LOOKED_FOR at most, are away."""
        queues = {
            client: mailboxes(client, spares=self._spares) for client in clients[:MAX_LOOKED_FOR]
        }

        def look() -> None:
            found = without_consumer(self._broker, f"{self._name} · who is there", queues)
            self._inbox.put(Seen(None if found is None else tuple(found)))

        threading.Thread(target=look, daemon=True).start()

    def look_who_is_enrolled(self) -> None:
        """Have ``get`` return Listed."""

        def look() -> None:
            self._inbox.put(Listed(self._enrolment.look()))

        threading.Thread(target=look, daemon=True).start()

    def goes_on(self) -> bool:
        """Wait a moment for the last model to be judged; False as soon as we are asked to stop."""
        self.waiting("waiting until the last model is judged")
        return not self.stopped_within(min(WAIT_S, self.supervisor.beat_s))

    def wait_for(self, sending: Future[None]) -> None:
        """Return when ``sending`` is done, or raise what it raised.

        Raises NotPublished if the broker has refused it for ``FAILS_S`` seconds.
        """
        while not futures.wait([sending], WAIT_S).done:
            self.waiting()
            since = self.models.fails_since
            if since is not None and time.monotonic() - since > FAILS_S:
                raise NotPublished
        sending.result()

    def waiting(self, what: str = A_MODEL) -> None:
        """Say that we wait for others, which is our work too; not if a thread that sends does."""
        _say_waiting(self.supervisor, what)

    def _ask_whether_alive(self) -> None:
        self.updates.on_thread(lambda: self._inbox.put(WatchdogTick()))


def _name(settings: CoordinatorSettings) -> str:
    """What the management UI calls the connections."""
    return f"coordinator · {settings.federation}"


def _say_waiting(supervisor: Supervisor, what: str = A_MODEL) -> None:
    if threading.current_thread() is threading.main_thread():
        supervisor.alive(what)
