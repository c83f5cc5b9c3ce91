"""The client's shell: waits for a model, trains, publishes what training changed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

from broker_config.names import UPDATE_EXCHANGE, UPDATE_QUEUE, mailbox
from client_worker.keep import Keep
from client_worker.mailbox import GlobalModel, Mailbox
from client_worker.memory import Memory
from client_worker.settings import ClientSettings
from client_worker.task import TaskSource
from shared.amqp import Session
from shared.chunks import Outgoing, transfer_fields
from shared.delivery import Subscription
from shared.errors import ConfigError, Stopped
from shared.evaluation import Evaluation
from shared.layout import Layout, Weights
from shared.log import Log
from shared.messages import (
    EvaluationEntry,
    InitialManifest,
    Join,
    LocalTraining,
    ModelManifest,
    Notice,
    UpdateManifest,
)
from shared.pipeline import Publication
from shared.sampling import is_drawn
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
        self._keep = Keep(settings.state_dir) if settings.state_dir is not None else None
        self._memory = Memory(settings.federation, self._keep)
        self._skipped: GlobalModel | None = None  # we were not drawn for it
        self._called = -1  # version that all shall train from, drawn or not
        self._torn = 0  # models in a row that did not arrive whole
        self._arguments: dict[str, Any] | None = None
        self._local = LocalTraining()  # as the newest model asks
        if settings.fleet is None:
            self._make_client({})  # needs no lease, so its faults show before the broker's

    def run(self) -> None:
        """Serve until the run's final model has come or a signal asks to stop."""
        on_stop_signal(self._stop)
        try:
            self._session.start(self._settings.wait_broker_s)
            if self._settings.fleet is not None:
                self._make_client({})
            if self._keep is not None:
                self._trained = self._keep.last_confirmed(self._id)
            while not self._stopping and self._look():
                pass
        except Stopped:
            log.warning(
                "update_unconfirmed",
                "stopped before the broker confirmed the update in hand; it will be %s",
                "trained again" if self._keep is None else "sent again",
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
        if difference := self._expect(manifest.local).difference(federation):
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
        if notice.notice == "all-hands":
            self._called = notice.base_version if notice.base_version is not None else -1
            if self._skipped is not None:
                skipped, self._skipped = self._skipped, None
                self._work(skipped)
            return
        if notice.notice == "rejected":
            log.warning(
                "update_rejected",
                "the coordinator rejected our update: %s",
                notice.detail,
                reason=notice.reason,
            )
            self._memory.rejected(notice.base_version)
            return
        # Made anew: what an earlier run has trained is not an initial model.
        self._arguments = None
        self._make_client(notice.config)
        weights = self._client.initial(notice.local)
        self._expect(notice.local)
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
        self._memory.resume(self._client, self._id, manifest.run, manifest.local)
        if manifest.final:
            self._client.update(model.weights, manifest.local)
            log.info(
                "finished",
                "version %d is final%s",
                manifest.version,
                _told(self._client.evaluate()),
            )
            return self._settings.stay
        self._send_kept(manifest)
        if self._trained == (manifest.run, manifest.version):
            return True
        if manifest.version != self._called and not is_drawn(
            manifest.run, manifest.version, self._id, manifest.participation
        ):
            log.info("not_drawn", "not drawn for version %d", manifest.version)
            self._skipped = model
            return True
        log.info("training", "training from version %d", manifest.version)
        update = self._client.train(model.weights, manifest.local)
        self._trained = (manifest.run, manifest.version)
        self._memory.trained(update, manifest.version)
        newest = self._mailbox.newest_version(manifest.run)
        if newest - manifest.version > manifest.max_staleness:
            log.info(
                "update_too_late",
                "version %d came while version %d was trained on: too late to count",
                newest,
                manifest.version,
            )
            self._memory.rejected(manifest.version)
            return True
        self._contribute(update, manifest)
        return True

    def _contribute(self, update: Update, model: ModelManifest) -> None:
        delta = Weights.of(update.delta, self._client.layout_for(model.local))
        manifest = UpdateManifest(
            federation=self._settings.federation,
            run=model.run,
            client=self._id,
            base_version=model.version,
            num_examples=update.num_examples,
            layout=delta.layout.digest,
            metrics=dict(update.metrics),
            local_steps=update.local_steps,
            evaluation=_entry(update.evaluation),
            **transfer_fields(delta.buffer),  # type: ignore[arg-type]
        )
        bodies = Outgoing(manifest, delta.buffer)
        if self._keep is not None:
            self._keep.put(bodies, self._id)
        self._send(bodies, manifest)

    def _send(self, bodies: Outgoing, manifest: UpdateManifest) -> None:
        self._publish(bodies, "update")
        self._memory.confirmed(manifest, bodies)
        if self._keep is not None:
            self._keep.confirmed(manifest.client, manifest.run, manifest.base_version)
        log.info(
            "update_confirmed",
            "update to version %d is confirmed%s",
            manifest.base_version,
            _told(manifest.metrics),
            base_version=manifest.base_version,
        )

    def _send_kept(self, newest: ModelManifest) -> None:
        """Send what an earlier process of this client trained, unless it is too late to count."""
        layout = self._client.layout_for(newest.local)
        kept = self._keep.get(self._id, layout) if self._keep is not None else None
        if self._keep is None or kept is None or not isinstance(kept.manifest, UpdateManifest):
            return
        manifest = kept.manifest
        late = newest.version - manifest.base_version
        if manifest.run != newest.run or late > newest.max_staleness:
            log.warning(
                "update_dropped",
                "the update to version %d that was kept is too late to count: version %d of run %s"
                " is newest",
                manifest.base_version,
                newest.version,
                newest.run,
                base_version=manifest.base_version,
            )
            self._keep.drop(self._id)
            return
        log.info("kept_update", "sending the update to version %d again", manifest.base_version)
        self._send(kept, manifest)
        self._trained = (manifest.run, manifest.base_version)

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
        self._client = self._source.make(arguments).client()
        self._arguments = arguments
        self._expect(self._local)

    def _expect(self, local: LocalTraining) -> Layout:
        """Take models of the layout that comes with ``local`` from now on."""
        self._local = local
        layout = self._client.layout_for(local)
        self._mailbox.expect(layout)
        return layout


def _entry(found: Evaluation | None) -> EvaluationEntry | None:
    if found is None:
        return None
    confusion, scores = (list(map(list, table)) for table in (found.confusion, found.scores))
    return EvaluationEntry(
        num_examples=found.num_examples,
        means=dict(found.means),
        confusion=confusion,
        scores=scores,
    )


def _told(metrics: Mapping[str, float]) -> str:
    words = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    return f" ({words})" if words else ""
