"""The client's shell: a connection, and the one or the many clients that share it."""

from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from broker_config.names import UPDATE_EXCHANGE, UPDATE_QUEUE, mailbox
from client_worker.keep import Keep
from client_worker.mailbox import Shelf
from client_worker.participant import Participant
from client_worker.settings import ClientSettings
from client_worker.task import TaskSource
from shared.amqp import Session
from shared.chunks import Outgoing
from shared.delivery import Delivery, Subscription
from shared.errors import Stopped
from shared.layout import Layout
from shared.log import Log
from shared.pipeline import Publication
from shared.sealing import Sealer
from shared.service import LAST_CHANCE_S, ReadyFile, on_stop_signal
from shared.wire import Body

log = Log(__name__)


@dataclass(frozen=True)
class _Letters:
    """An update's messages: persistent, and returned to us if no queue takes them."""

    bodies: Outgoing | list[Body]
    kind: str
    sealer: Sealer | None

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
    and an identity of its own; a virtual one speaks the same protocol as one that is alone.
    """

    def __init__(self, settings: ClientSettings, source: TaskSource) -> None:
        self.shelf = Shelf()
        self.keep = Keep(settings.state_dir) if settings.state_dir is not None else None
        self._settings = settings
        self._sealer = Sealer.of(settings.encrypt_key, settings.federation, settings.user)
        self._events: SimpleQueue[Participant | None] = SimpleQueue()  # who has something to do
        self._participants = [
            Participant(settings, source, self) for _ in range(settings.virtual or 1)
        ]
        self._at: dict[str, Participant] = {}  # by mailbox
        self._ready = ReadyFile(settings.ready_file)
        self._session = Session(
            settings.broker,
            f"client of fleet {settings.fleet}"
            if settings.fleet
            else f"client {settings.client or settings.user}",
            Subscription(
                settings.mailboxes(),
                self._deliver,
                exclusive=True,
                manual_ack=False,
                places=len(self._participants),
            ),
            on_ready=lambda _queue: self._connected(),
            on_lost=self._ready.hide,
        )
        self._stopping = self._publishing = False
        if settings.fleet is None:
            self._participants[
                0
            ].prepare()  # needs no lease, so its faults show before the broker's

    def run(self) -> None:
        """Serve until the run's final model has come to all or a signal asks to stop."""
        on_stop_signal(self._stop)
        try:
            self._session.start(self._settings.wait_broker_s)
            while not self._stopping and not all(p.has_ended for p in self._participants):
                participant = self._events.get()
                if participant is not None:
                    participant.look()
        except Stopped:
            log.warning(
                "update_unconfirmed",
                "stopped before the broker confirmed the update in hand; it will be %s",
                "trained again" if self.keep is None else "sent again",
            )
        finally:
            self._session.close()
            self._ready.hide()

    # --- on the connection's thread, or in a signal handler ------------------------------------

    def _connected(self) -> None:
        """Give each participant its place, and if it can be the one that it had before."""
        held = self._session.places.held
        kept = {queue: p for queue, p in self._at.items() if queue in held}
        others = iter([p for p in self._participants if p not in kept.values()])
        self._at = {queue: kept.get(queue) or next(others) for queue in held}
        self._ready.show()
        for queue, participant in self._at.items():
            participant.lease(queue.removeprefix(mailbox("")))

    def _deliver(self, delivery: Delivery) -> None:
        participant = self._at.get(delivery.consumer)
        if participant is not None:  # else not all places are ours yet; it will join
            participant.mailbox.deliver(delivery)

    def _stop(self) -> None:
        self._stopping = True
        self._events.put(None)
        if self._publishing:
            self._session.close_within(LAST_CHANCE_S)

    # --- as the participants' office -----------------------------------------------------------

    def wake(self, participant: Participant) -> None:
        """Have ``participant`` look into its mailbox; safe from any thread."""
        self._events.put(participant)

    def expect(self, layout: Layout) -> None:
        """Models are of this layout from now on."""
        for participant in self._participants:
            participant.mailbox.expect(layout)

    def publish(self, bodies: Outgoing | list[Body], kind: str) -> None:
        """Publish a transfer to the queue `update`; return when it is confirmed."""
        self._publishing = True
        if self._stopping:
            self._session.close_within(LAST_CHANCE_S)
        self._session.publish(_Letters(bodies, kind, self._sealer))
        self._publishing = False
