"""The client's shell: a connection, and the one or the many clients that share it."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from client_worker.runtime import events, listeners
from client_worker.runtime.mailbox import ModelCache
from client_worker.runtime.nearest_place import free_place
from client_worker.runtime.participant import Participant, WorkerContext
from client_worker.runtime.update_store import UpdateStore
from client_worker.settings import ClientSettings
from client_worker.tasks.failures import UserCodeError
from client_worker.tasks.task import TaskSource
from warren_shared.amqp.delivery import Delivery, Subscription
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.errors import BrokerRefused, ConfigError, Stopped, Taken, TaskFailed, WarrenError
from warren_shared.naming import MASK_QUEUE, UPDATE_EXCHANGE, UPDATE_QUEUE, mailbox
from warren_shared.observability.event_bus import EventBus
from warren_shared.observability.log import Log
from warren_shared.protocol.codec import Body
from warren_shared.protocol.encryption import UpdateEncryptor
from warren_shared.protocol.transfer import Outgoing
from warren_shared.service.lifecycle import LAST_CHANCE_S, StopSignal, on_stop_signal
from warren_shared.service.watchdog import Busy, Pulse, Supervisor
from warren_shared.tensors.layout import Layout

log = Log(__name__)


@dataclass(frozen=True)
class OutgoingMessages:
    """An update's messages: persistent, and returned to us if no queue takes them."""

    bodies: Outgoing | list[Body]
    kind: str
    sealer: UpdateEncryptor | None

    def __iter__(self) -> Iterator[Publication]:
        for number, body in enumerate(self.bodies):
            kind = "chunk" if number else self.kind
            body = self.sealer.seal(body) if self.sealer is not None else body
            yield Publication(
                UPDATE_EXCHANGE,
                UPDATE_QUEUE,
                body,
                kind,
                persistent=True,
                mandatory=True,
                headers=None if number else self._headers(),
            )

    def _headers(self) -> dict[str, Any] | None:
        """What people see of an update in the management UI; nothing of one that is sealed."""
        if self.sealer is not None or not isinstance(self.bodies, Outgoing):
            return None
        told = self.bodies.manifest.model_dump(include={"client", "base_version", "num_examples"})
        return {**told, "messages": len(self.bodies)}


class ClientWorker:
    """One client of a federation, or ``virtual`` ones that take turns in one process.

    For one training run, or (``stay``) for as long as it lives. Each client has a mailbox, a lease
    and its own identity; a virtual one speaks the same protocol as one that is alone.
    """

    def __init__(
        self,
        settings: ClientSettings,
        source: TaskSource,
        *,
        participant: Callable[
            [ClientSettings, TaskSource, WorkerContext], Participant
        ] = Participant,
        supervisor: Supervisor | None = None,
    ) -> None:
        self.shelf = ModelCache()
        self.keep = UpdateStore(settings.state_dir) if settings.state_dir is not None else None
        self.event_bus = EventBus[events.Event]()
        self.event_bus.subscribe(listeners.from_settings(settings))
        self._settings = settings
        self._sealer = UpdateEncryptor.of(settings.encrypt_key, settings.federation, settings.user)
        self._events: SimpleQueue[Participant | None] = SimpleQueue()  # who has something to do
        self._participants = [
            participant(settings, source, self) for _ in range(settings.virtual or 1)
        ]
        self._at: dict[str, Participant] = {}  # by mailbox
        self._supervisor = supervisor or Supervisor(settings.ready_file)
        self._pulse = Pulse(self._supervisor, lambda: self._session.on_thread(self._answer))
        self._busy = Busy(settings.training_limit_s)
        self._session = Session.for_broker(
            settings.broker,
            f"client of fleet {settings.fleet}"
            if settings.fleet and not settings.client
            else f"client {settings.client or settings.user}",
            Subscription(
                settings.mailboxes(),
                self._deliver,
                exclusive=True,
                manual_ack=False,
                places=len(self._participants),
                counts=True,
                spares=settings.spare_mailboxes,
            ),
            on_ready=lambda _queue: self._connected(),
            on_lost=self._lost,
            on_wait=self._supervisor.alive,
        )
        self._stopping = self._publishing = False
        self._failure: WarrenError | None = None  # the first that ended a participant
        self._timers: list[threading.Timer] = []
        source.check_place(settings)
        if settings.fleet is None:  # it needs no lease, so its faults show before the broker's
            self._prepare(self._participants[0])

    def run(self, *, heed_signals: bool = True) -> int:
        """Serve until the run's final model has come to all or we are asked to ``stop``.

        Returns the exit code: 0 if it has come to all, else of a process that the signal ended.

        Raises what ended a client (TaskFailed, ConfigError) once the others are through.
        """
        stop_signal = on_stop_signal(self.stop) if heed_signals else StopSignal()
        try:
            self._connect()
            self._pulse.start()
            while not self._stopping and not all(p.has_ended for p in self._participants):
                participant = self._events.get()
                if participant is None:
                    self._supervisor.alive("waiting for a model")
                    continue
                self._look(participant)
            if self._failure is not None:
                raise self._failure
        except Stopped:
            log.warning(
                "update_unconfirmed",
                "stopped before the broker confirmed the update in hand; it will be %s",
                "trained again" if self.keep is None else "sent again",
            )
        finally:
            for timer in self._timers:
                timer.cancel()
            self._pulse.stop()
            self._supervisor.stopping()
            self._session.close()
            self.event_bus.close()
        return 0 if all(p.has_ended for p in self._participants) else stop_signal.exit_code

    def _prepare(self, participant: Participant) -> None:
        try:
            participant.prepare()
        except UserCodeError as failed:
            log.exception("task_failed", "the task cannot be made", error=failed.cause)
            raise TaskFailed(f"the task cannot be made: {failed.reason}") from failed.cause

    def _look(self, participant: Participant) -> None:
        """Have a participant do what it has to; one whose task fails does not delay the others."""
        if participant.has_ended:
            return
        try:
            with self._busy:
                participant.process_mailbox()
        except (ConfigError, TaskFailed) as error:
            participant.has_ended = True
            self._failure = self._failure or error
            if len(self._participants) > 1:
                log.error("client_ended", "%s ends: %s", participant.id, error)

    def _connect(self) -> None:
        try:
            self._session.start(self._settings.wait_broker_s)
        except Stopped:
            self._stopping = True
        except (BrokerRefused, Taken) as refused:
            if (free := free_place(self._settings)) is None:
                raise
            raise type(refused)(
                f"{refused}; {free} is free, and without --client any free place is taken"
            ) from None

    # --- on the connection's thread, or that of signals ----------------------------------------

    def _connected(self) -> None:
        """Give each participant its place, and if it can be the one that it had before."""
        held = self._session.places.held
        kept = {queue: p for queue, p in self._at.items() if queue in held}
        others = iter([p for p in self._participants if p not in kept.values()])
        self._at = {queue: kept.get(queue) or next(others) for queue in held}
        self._supervisor.ready()
        self.event_bus.publish(events.LinkConnected())
        for queue, participant in self._at.items():
            participant.lease(queue.removeprefix(mailbox("")))

    def _lost(self) -> None:
        self._supervisor.away()
        self.event_bus.publish(events.LinkLost())

    def _answer(self) -> None:
        """Say that we are alive, or have the main thread say it if it should have time to."""
        seconds = self._busy.seconds()
        if seconds is None:
            self._events.put(None)
        elif not self._busy.for_too_long():
            self._supervisor.alive(f"busy with a model for {seconds:.0f} s")

    def _deliver(self, delivery: Delivery) -> None:
        participant = self._at.get(delivery.consumer)
        if participant is not None:  # else not all places are ours yet; it will join
            participant.mailbox.deliver(delivery)

    def stop(self) -> None:
        """End ``run``; for any thread."""
        self._stopping = True
        if self._busy.seconds() is None:
            log.info("stopping", "asked to stop")
        else:
            log.info(
                "stopping",
                "asked to stop: ending after the training that is under way; a second time ends"
                " at once",
            )
        self._events.put(None)
        if self._publishing or self._session.is_starting:
            self._session.close_within(LAST_CHANCE_S)

    # --- as the participants' office -----------------------------------------------------------

    def wake(self, participant: Participant) -> None:
        """Have ``participant`` look into its mailbox; safe from any thread."""
        self._events.put(participant)

    def expect(self, layout: Layout) -> None:
        """Models are of this layout from now on."""
        for participant in self._participants:
            participant.mailbox.expect(layout)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call ``call`` in ``seconds``, on a new thread, unless we end before."""
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        self._timers = [*(one for one in self._timers if one.is_alive()), timer]
        timer.start()

    def publish(self, bodies: Outgoing | list[Body], kind: str) -> None:
        """Publish a transfer to the queue `update`; return when it is confirmed."""
        self._publish(OutgoingMessages(bodies, kind, self._sealer))

    def publish_seed(self, sealed: Body) -> None:
        """Publish what an update is masked with to the queue `mask`; return when confirmed."""
        self._publish(
            [
                Publication(
                    UPDATE_EXCHANGE, MASK_QUEUE, sealed, "seed", persistent=True, mandatory=True
                )
            ]
        )

    def _publish(self, messages: Iterable[Publication]) -> None:
        self._publishing = True
        if self._stopping:
            self._session.close_within(LAST_CHANCE_S)
        self._session.publish(messages)
        self._publishing = False
