"""The client's shell: waits for a model, trains, publishes what training changed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

from broker_config.names import UPDATE_EXCHANGE, UPDATE_QUEUE, mailbox
from client_worker.client import FederatedClient
from client_worker.mailbox import GlobalModel, Mailbox
from client_worker.settings import ClientSettings
from client_worker.task import TaskSource
from shared.amqp import Session
from shared.chunks import Outgoing, transfer_fields
from shared.delivery import Subscription
from shared.errors import ConfigError, Stopped
from shared.layout import Weights
from shared.log import Log
from shared.messages import InitialManifest, Join, ModelManifest, Notice, UpdateManifest
from shared.pipeline import Publication
from shared.service import LAST_CHANCE_S, ReadyFile, on_stop_signal
from shared.update import Update
from shared.wire import Body, encode, layout_of, tensor_entries

log = Log(__name__)

MOST_TORN: Final = 3


@dataclass(frozen=True)
class _Letters:
    """An update's messages: persistent, and returned to us if no queue takes them."""

    bodies: Outgoing | list[Body]
    kind: str

    def __iter__(self) -> Iterator[Publication]:
        for number, body in enumerate(self.bodies):
            kind = "chunk" if number else self.kind
            yield Publication(
                UPDATE_EXCHANGE, UPDATE_QUEUE, body, kind, persistent=True, mandatory=True
            )


class ClientWorker:
    """One client of a federation, for one training run or (``stay``) for as long as it lives."""

    def __init__(self, settings: ClientSettings, source: TaskSource) -> None:
        self._settings = settings
        self._source = source
        self._events: SimpleQueue[None] = SimpleQueue()  # each item says: look again
        self._wake = partial(self._events.put, None)
        self._mailbox = Mailbox(settings.federation, self._wake, self._ask_again)
        self._ready = ReadyFile(settings.ready_file)
        self._session = Session(
            settings.broker_url,
            f"client {settings.fleet or settings.client or settings.user}",
            Subscription(
                settings.mailboxes(), self._mailbox.deliver, exclusive=True, manual_ack=False
            ),
            on_ready=self._connected,
            on_lost=self._ready.hide,
        )
        self._id = ""
        self._stopping = self._publishing = self._must_join = False
        self._trained: tuple[str, int] | None = None  # run and version of our last update
        self._torn = 0  # models in a row that did not arrive whole
        self._arguments: dict[str, Any] | None = None
        if settings.fleet is None:
            self._make_client({})  # needs no lease, so its faults show before the broker's

    def run(self) -> None:
        """Serve until the run's final model has come or a signal asks to stop."""
        on_stop_signal(self._stop)
        try:
            self._session.start(self._settings.wait_broker_s)
            if self._settings.fleet is not None:
                self._make_client({})
            while not self._stopping and self._look():
                pass
        except Stopped:
            log.warning(
                "update_dropped",
                "stopped before the broker confirmed the update in hand; it will be trained again",
            )
        finally:
            self._session.close()
            self._ready.hide()

    # --- on the connection's thread, or in a signal handler ------------------------------------

    def _connected(self, queue: str | None) -> None:
        self._id = (queue or "").removeprefix(mailbox(""))
        self._must_join = True
        self._ready.show()
        self._wake()

    def _ask_again(self) -> None:
        self._torn += 1
        if self._torn <= MOST_TORN:
            self._must_join = True
            self._wake()
        else:
            log.error(
                "mailbox_too_small",
                "models do not fit the mailbox: raise its limit with `broker-config apply"
                " --model-bytes SIZE`",
            )

    def _stop(self) -> None:
        self._stopping = True
        self._wake()
        if self._publishing:
            self._session.close_within(LAST_CHANCE_S)

    # --- the loop ------------------------------------------------------------------------------

    def _look(self) -> bool:
        """Do whatever is to do, or wait for it; False when there is nothing more to come."""
        if self._must_join:
            self._must_join = False
            self._join()
        # A client that was busy for long may have been asked for its weights more than once, and
        # somebody else's may have been taken meanwhile.
        asked = None
        for notice in self._mailbox.notices():
            if notice.notice == "send-initial":
                asked = notice
            else:
                self._heed(notice)
        if asked is not None and not self._mailbox.holds_model:
            self._heed(asked)
        model = self._mailbox.take()
        if model is None:
            self._events.get()
            return True
        self._torn = 0
        if isinstance(model, ModelManifest):
            self._adapt(model)
            return True
        return self._work(model)

    def _adapt(self, manifest: ModelManifest) -> None:
        """Make the task as the federation's config says; then its model must fit."""
        self._make_client(manifest.config)
        federation = layout_of(manifest.tensors, manifest.size_bytes)
        if difference := self._client.layout.difference(federation):
            raise ConfigError(
                f"this task's model is not the federation's: {difference}; start the client with"
                " the federation's task"
            )
        self._join()  # for the model itself

    def _join(self) -> None:
        join = Join(federation=self._settings.federation, client=self._id)
        self._publish([encode(join)], "join")

    def _heed(self, notice: Notice) -> None:
        if notice.notice == "join":
            self._join()
            return
        if notice.notice == "rejected":
            log.warning(
                "update_rejected",
                "the coordinator rejected our update: %s",
                notice.detail,
                reason=notice.reason,
            )
            return
        # Made anew: what an earlier run has trained is not an initial model.
        self._arguments = None
        self._make_client(notice.config)
        weights = self._client.weights()
        manifest = InitialManifest(
            federation=self._settings.federation,
            client=self._id,
            tensors=tensor_entries(weights.layout),
            **transfer_fields(weights.buffer),  # type: ignore[arg-type]
        )
        self._publish(Outgoing(manifest, weights.buffer), "initial")

    def _work(self, model: GlobalModel) -> bool:
        """Train from a new global model and publish the update; False when it was the last."""
        manifest = model.manifest
        self._make_client(manifest.config)
        if manifest.final:
            self._client.update(model.weights)
            log.info(
                "finished",
                "version %d is final%s",
                manifest.version,
                _told(self._client.evaluate()),
            )
            return self._settings.stay
        if self._trained == (manifest.run, manifest.version):
            return True
        log.info("training", "training from version %d", manifest.version)
        update = self._client.train(model.weights)
        self._trained = (manifest.run, manifest.version)
        newest = self._mailbox.newest_version(manifest.run)
        if newest - manifest.version > manifest.max_staleness:
            log.info(
                "update_too_late",
                "version %d came while version %d was trained on: too late to count",
                newest,
                manifest.version,
            )
            return True
        self._contribute(update, manifest)
        return True

    def _contribute(self, update: Update, model: ModelManifest) -> None:
        delta = Weights.of(update.delta, self._client.layout)
        manifest = UpdateManifest(
            federation=self._settings.federation,
            run=model.run,
            client=self._id,
            base_version=model.version,
            num_examples=update.num_examples,
            layout=delta.layout.digest,
            metrics=dict(update.metrics),
            **transfer_fields(delta.buffer),  # type: ignore[arg-type]
        )
        self._publish(Outgoing(manifest, delta.buffer), "update")
        log.info(
            "update_confirmed",
            "update to version %d is confirmed%s",
            model.version,
            _told(update.metrics),
            base_version=model.version,
        )

    def _publish(self, bodies: Outgoing | list[Body], kind: str) -> None:
        self._publishing = True
        if self._stopping:
            self._session.close_within(LAST_CHANCE_S)
        self._session.publish(_Letters(bodies, kind))
        self._publishing = False

    def _make_client(self, config: Mapping[str, Any]) -> None:
        """Make the task again if the federation's config changes what it is made with."""
        replica = self._id.partition(".")[2]
        lease = {"shard": int(replica)} if replica and self._source.takes("shard") else {}
        arguments = self._source.arguments({**config, **lease})
        if arguments == self._arguments:
            return
        task = self._source.make(arguments)
        self._client = FederatedClient(
            task.model,
            task.data,
            task.learning_rate,
            validation=task.validation,
            num_examples=task.num_examples,
        )
        self._arguments = arguments
        self._mailbox.expect(self._client.layout)


def _told(metrics: Mapping[str, float]) -> str:
    words = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    return f" ({words})" if words else ""
