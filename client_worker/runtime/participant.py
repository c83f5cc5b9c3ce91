"""One client of a federation: what it does with the messages in its mailbox."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from client_worker.client import SIDES, FederatedClient
from client_worker.privacy.site import SitePrivacy
from client_worker.privacy.terms import RECORD_PRIVACY, Refused
from client_worker.runtime import events
from client_worker.runtime.client_state import ClientState
from client_worker.runtime.mailbox import Announcement, GlobalModel, Mailbox, ModelCache
from client_worker.runtime.masker import Masker
from client_worker.runtime.update_store import UpdateStore
from client_worker.settings import ClientSettings
from client_worker.tasks.failures import PAUSES_S, UserCodeError, one_line, user_code
from client_worker.tasks.hooks import NO_HOOKS, TaskHooks
from client_worker.tasks.task import TaskSource
from client_worker.training.clipping import clip
from client_worker.training.exchange import ALL
from client_worker.training.metrics import by_finiteness
from warren_shared.errors import ConfigError, Rejected, TaskFailed
from warren_shared.observability.event_bus import EventBus, Timings
from warren_shared.observability.log import Log
from warren_shared.protocol.codec import Body, encode, model_layout, tensor_entries
from warren_shared.protocol.masking import terms_digest
from warren_shared.protocol.messages import (
    Evaluated,
    EvaluationEntry,
    Failed,
    InitialManifest,
    Join,
    LocalTraining,
    ModelManifest,
    Notice,
    PrivacyTerms,
    ScoreTable,
    Seed,
    UpdateManifest,
)
from warren_shared.protocol.sampling import is_drawn
from warren_shared.protocol.signing import Verifier
from warren_shared.protocol.transfer import Outgoing, new_transfer, transfer_fields
from warren_shared.tensors import compression
from warren_shared.tensors.evaluation import Evaluation, for_wire
from warren_shared.tensors.layout import Layout, Weights
from warren_shared.tensors.ring import encoding_of
from warren_shared.tensors.update import Update

log = Log(__name__)

MAX_TORN: Final = 3
CODE_SINCE: Final = 5  # the protocol of an update that tells of its task's code
ASK_AGAIN_S: Final = 5.0  # after the whole model was asked for and has not come


class WorkerContext(Protocol):
    """The process in which clients work."""

    shelf: ModelCache
    keep: UpdateStore | None
    event_bus: EventBus[events.Event]

    def publish(self, bodies: Outgoing | list[Body], kind: str) -> None:
        """Publish a transfer to the queue `update`; return when it is confirmed."""
        ...

    def publish_seed(self, sealed: Body) -> None:
        """Publish what an update is masked with to the queue `mask`; return when confirmed."""
        ...

    def wake(self, participant: "Participant") -> None:
        """Have ``participant`` look into its mailbox; safe from any thread."""
        ...

    def expect(self, layout: Layout) -> None:
        """Models are of this layout from now on."""
        ...

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call ``call`` in ``seconds``, from any thread, unless the process ends before."""
        ...


class Participant:
    """A client: its mailbox, task and state; ``process_mailbox`` is all that it does."""

    def __init__(
        self, settings: ClientSettings, source: TaskSource, context: WorkerContext
    ) -> None:
        self.id = ""
        self.has_ended = False
        verifier = Verifier.of(settings.verify_keys)
        self.mailbox = Mailbox(
            settings.federation,
            self._wake,
            self._ask_again,
            context.shelf,
            verifier,
            self._ask_for_whole,
        )
        self._settings = settings
        self._source = source
        self._context = context
        self._publish_event = context.event_bus.publish
        self._update_store = context.keep
        self._memory = ClientState(settings.federation, self._update_store)
        settings.check_keys()
        self._masker = Masker.of(settings)
        self._privacy = SitePrivacy(
            settings.federation, settings.state_dir, settings.record_terms, settings.limit
        )
        self._place = ""  # the id of our newest lease; the connection's thread alone asks
        self._leases: deque[str] = deque()  # ids under which we have to join, the newest last
        self._torn = 0  # models in a row that did not arrive whole
        self._awaits_model = False  # we have joined, and no model has come since
        self._has_asked = False  # for the whole of a model, a moment ago
        self._trained: tuple[str, int] | None = None  # run and version of our last update
        self._skipped: GlobalModel | None = None  # we were not drawn for it
        self._called = -1  # version that all shall train from, drawn or not
        self._called_anew = False  # since the last model came: it may be meant for the next one
        self._run = ""  # of the last model that came
        self._client: FederatedClient  # once there are arguments
        self._hooks = NO_HOOKS
        self._arguments: dict[str, Any] | None = None
        self._local = LocalTraining()  # as the newest model asks
        self._is_fresh = False  # the task has trained nothing yet
        self._failures = 0  # of the user's code, in a row
        self._is_resting = False  # after one of them
        self._version: int | None = None  # that is being worked on
        # Of our updates in a private run, by base version: from which version another may count.
        self._contributed: dict[int, int] = {}
        self._held_back: GlobalModel | None = None  # not trained from, for the sake of our privacy

    # --- on the connection's thread ------------------------------------------------------------

    def lease(self, name: str) -> None:
        """Be the client ``name`` from now on; it has a connection."""
        self._place = name
        self._awaits_model = True
        self._leases.append(name)
        self._wake()

    def _wake(self) -> None:
        self._context.wake(self)

    def _ask_again(self) -> None:
        self._torn += 1
        if self._torn <= MAX_TORN:
            self.lease(self._place)
        else:
            log.error(
                "mailbox_too_small",
                "models do not fit the mailbox: raise its limit with `broker-config apply"
                " --model-bytes SIZE`",
            )

    def _ask_for_whole(self) -> None:
        """A model came as the change to one that is not here."""
        if not self._awaits_model:
            log.info("base_missing", "a model's base is not here; asking for the whole model")
            self.lease(self._place)
        if not self._has_asked:
            self._has_asked = True
            self._context.call_later(ASK_AGAIN_S, self._look_for_answer)

    def _look_for_answer(self) -> None:
        """The answer to a join may have been pushed out of a mailbox that was full of changes."""
        self._has_asked = False
        if self._awaits_model and not self.mailbox.holds_model:
            self._awaits_model = False
            self._ask_for_whole()

    # --- on the main thread --------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the task now, so that its faults show at once."""
        self._make_client({}, self._local)

    def process_mailbox(self) -> None:
        """Do whatever is to do.

        Raises TaskFailed if the user's code failed too often, ConfigError for what cannot get
        better; the coordinator has been told of either.
        """
        if self._is_resting:
            return
        try:
            self._look()
        except UserCodeError as failed:
            self._has_failed(failed)
        except ConfigError as error:
            self._report(one_line(error), ends=True, is_public=isinstance(error, Refused))
            raise

    def _has_failed(self, failed: UserCodeError) -> None:
        """Tell of a failure of the user's code, and try again after a while, or give up."""
        self._failures += 1
        most = len(PAUSES_S) + 1
        ends = self._failures >= most
        pause_s = 0.0 if ends else PAUSES_S[self._failures - 1]
        log.exception(
            "task_failed",
            "%s (attempt %d of %d; %s)",
            failed.reason,
            self._failures,
            most,
            "giving up" if ends else f"trying again in {pause_s:.0f} s",
            error=failed.cause,
            client=self.id,
        )
        self._publish_event(events.TaskFailed(self.id, failed.reason))
        self._report(failed.reason, ends=ends)
        if ends:
            raise TaskFailed(f"the task failed {most} times: {failed.reason}; the log has the"
                             " traceback") from failed.cause  # fmt: skip
        self._is_resting = True
        self._context.call_later(pause_s, self._rested)

    def _rested(self) -> None:
        self._is_resting = False
        self.lease(
            self._place
        )  # the answer to our join is the newest model, or the request for ours

    def _report(self, reason: str, *, ends: bool, is_public: bool = False) -> None:
        """Tell the coordinator what keeps us from our work.

        A reason may quote the data; where records are private only one that ``is_public`` is told.
        """
        if not self.id:
            return
        if self._privacy.keeps_records and not is_public:
            reason = f"the reason is in the client's own log ({RECORD_PRIVACY})"
        failed = Failed(
            federation=self._settings.federation,
            client=self.id,
            reason=reason,
            version=self._version,
            ends=ends,
        )
        self._context.publish([encode(failed)], "failed")

    def _look(self) -> None:
        name = None
        while self._leases:
            name = self._leases.popleft()
        if name is not None:
            self._begin(name)
        # A client that was busy for long may have been asked for its weights more than once, and
        # somebody else's may have been taken meanwhile.
        asked = None
        for notice in self.mailbox.notices():
            if notice.notice == "send-initial":
                asked = notice
            else:
                self._heed(notice)
        if asked is not None and not self.mailbox.holds_model:
            self._heed(asked)
        model = self.mailbox.take()
        if model is None:
            return
        self._torn = 0
        self._awaits_model = False
        if model.manifest.final and not self._is_ours(model):
            self._pass_over(model.manifest)
        elif isinstance(model, Announcement):
            self._adapt(model)
        else:
            self._work(model)

    def _begin(self, name: str) -> None:
        if name != self.id:
            self.id = name
            self._trained = (
                self._update_store.last_confirmed(name) if self._update_store is not None else None
            )
        if not self.mailbox.expects_models:  # of many clients the first makes its task at once
            self.prepare()
        self._join()

    def _is_ours(self, model: GlobalModel | Announcement) -> bool:
        """Whether a final model ends what this client takes part in.

        One that waited in the mailbox may be of a run that ended while we were away, and so may
        one that a coordinator publishes again: then the next run is waited for.
        """
        run = model.manifest.run
        has_trained = not model.waited and self._trained is not None and self._trained[0] == run
        return isinstance(model, GlobalModel) and (has_trained or run == self.mailbox.live_run)

    def _may_be_over(self, model: GlobalModel | Announcement) -> bool:
        return model.waited and model.manifest.run != self.mailbox.live_run

    def _doubt(self, manifest: ModelManifest, difference: str) -> None:
        log.info(
            "other_model",
            "version %d of run %s, which waited here, is of another model (%s); waiting for the"
            " coordinator's answer",
            manifest.version,
            manifest.run,
            difference,
            client=self.id,
        )

    def _pass_over(self, manifest: ModelManifest) -> None:
        log.info(
            "ended_run",
            "version %d ended run %s, in which this client takes no part; waiting for the next run",
            manifest.version,
            manifest.run,
            client=self.id,
        )

    def _adapt(self, announced: Announcement) -> None:
        """Make the task as the federation's config says; then its model must fit.

        One that waited in the mailbox may be of an earlier run with another task: the
        coordinator that is active now answers our join with what counts.
        """
        manifest = announced.manifest
        if words := self._unlike(manifest):
            if self._may_be_over(announced):
                self._doubt(manifest, words)
                return
            raise ConfigError(words)
        self._join()  # for the model itself

    def _join(self) -> None:
        # It may be made of the data; where records are private we compare it ourselves alone.
        known = self._arguments is not None and not self._privacy.keeps_records
        fixed = self._client.fixed_state_for(self._local) if known else {}
        join = Join(federation=self._settings.federation, client=self.id, fixed_state=fixed)
        self._context.publish([encode(join)], "join")

    def _heed(self, notice: Notice) -> None:
        if notice.notice == "join":
            self._join()
            return
        if notice.notice == "all-hands":
            self._called = notice.base_version if notice.base_version is not None else -1
            self._called_anew = True
            skipped, self._skipped = self._skipped, None
            if skipped is not None and skipped.manifest.version == self._called:
                self._work(skipped)
            return
        if notice.notice == "missing":
            self._miss(notice)
            return
        if notice.notice == "rejected":
            is_fault = notice.reason not in {"stale", "early", "spent"}  # being late is none
            say = log.warning if is_fault else log.info
            say(
                "update_rejected",
                "the coordinator rejected an update of ours that the broker had confirmed: %s",
                notice.detail,
                reason=notice.reason,
            )
            self._memory.rejected(notice.base_version)
            self._publish_event(events.UpdateRejected(self.id, notice.reason))
            if notice.reason not in {"early", "spent"}:  # it is in no round, so it is not one
                self._contributed.pop(notice.base_version or 0, None)
                if self._held_back is not None and not self.mailbox.holds_model:
                    self._work(self._held_back)
            return
        if self._privacy.keeps_records:
            words = (
                f"{RECORD_PRIVACY}: this client sends no initial weights, which may be made of its"
                " data: start the coordinator with --initial-model"
            )
            log.warning("initial_refused", words, client=self.id)
            self._report(words, ends=False, is_public=True)
            return
        if not self._is_fresh:  # what an earlier run has trained is not an initial model
            self._arguments = None
        self._make_client(notice.config, notice.local)
        with user_code():
            weights = self._client.initial(notice.local)
        self._expect(notice.local)
        manifest = InitialManifest(
            federation=self._settings.federation,
            client=self.id,
            tensors=tensor_entries(weights.layout),
            fixed_state=self._client.fixed_state_for(notice.local),
            **transfer_fields(weights.buffer),  # type: ignore[arg-type]
        )
        self._context.publish(Outgoing(manifest, weights.buffer), "initial")

    def _miss(self, notice: Notice) -> None:
        """The coordinator has waited long for an update of ours, and read all that had come.

        Either the model never reached us or the update was lost after the broker had confirmed it.
        """
        run, version = notice.run, notice.base_version
        if run is None or version is None or self.mailbox.holds_model or self.id in notice.here:
            return
        skipped = self._skipped.manifest if self._skipped is not None else None
        if skipped is not None and (skipped.run, skipped.version) == (run, version):
            return
        if self._trained is not None and self._trained[0] == run and self._trained[1] > version:
            return
        if self._trained == (run, version):
            log.warning(
                "update_lost",
                "the broker had confirmed our update to version %d and has lost it since; training"
                " from it again",
                version,
                client=self.id,
            )
            self._memory.rejected(version)
            self._trained = None
            if self._update_store is not None:
                self._update_store.forget_confirmed(self.id)
        self._join()

    def _work(self, model: GlobalModel) -> None:
        """Train from a new global model and publish the update, if it is our turn."""
        manifest = model.manifest
        if self._run != manifest.run:  # another run's versions have the same numbers
            self._run, self._skipped = manifest.run, None
            self._called = self._called if self._called_anew else -1
            self._contributed = {}
        self._called_anew, self._held_back = False, None
        self._local = manifest.local
        self._version = manifest.version
        if self._may_be_over(model) and (words := self._unlike(manifest)):
            self._doubt(manifest, words)
            return
        size_bytes = manifest.size_bytes
        self._publish_event(
            events.ModelReceived(self.id, manifest.run, manifest.version, size_bytes)
        )
        if manifest.final:
            self._finish(model)
            return
        self._masker.check(manifest)
        if self._update_store is not None and self._update_store.has_update(self.id):
            self._be_ready_for(manifest)
            self._send_kept(manifest)
        if self._trained == (manifest.run, manifest.version):
            return
        if manifest.version != self._called and not is_drawn(
            manifest.run, manifest.version, self.id, manifest.participation
        ):
            log.info("not_drawn", "not drawn for version %d", manifest.version, client=self.id)
            self._skipped = model
            return
        if self._is_too_early(manifest):
            self._held_back = model
            return
        if not self._privacy.admit(self.id, manifest):
            self._stop_for_privacy()
            return
        self._train(model)

    def _stop_for_privacy(self) -> None:
        """Say, once in a run, that this site's budget is spent."""
        if words := self._privacy.spent_words():
            log.warning("privacy_spent", words, client=self.id)
            self._report(words, ends=True, is_public=True)

    def _is_too_early(self, manifest: ModelManifest) -> bool:
        """Whether an update would be rejected for the sake of our privacy; then training is vain.

        An update to version v is in the model to v + 1 + ``max_staleness`` at the latest.
        """
        terms = manifest.privacy
        if terms is None:
            return False
        left = terms.contributions - len(self._contributed)
        first = max(self._contributed.values(), default=0)
        if left > 0 and manifest.version >= first:
            return False
        words = f"from version {first} on" if left > 0 else "no more in this run"
        log.info(
            "privacy_waits",
            "this client may train again %s, for the sake of its privacy",
            words,
            client=self.id,
        )
        return True

    def _train(self, model: GlobalModel) -> None:
        manifest = model.manifest
        self._be_ready_for(manifest)
        log.info("training", "training from version %d", manifest.version, client=self.id)
        phases = Timings()
        self._is_fresh = False
        with user_code():
            self._hooks.on_model(manifest.version, model.weights)
        with phases.measure("train"), user_code():
            update = self._client.train(model.weights, manifest.local)
        with user_code():
            self._hooks.on_trained(update)
        self._failures = 0
        self._trained = (manifest.run, manifest.version)
        self._memory.trained(update, manifest.version)
        self._submit(update, manifest, manifest.version, phases)

    def _submit(self, update: Update, manifest: ModelManifest, known: int, phases: Timings) -> None:
        """Publish ``update`` to ``manifest``'s model, unless it is too late to count.

        ``known``: the newest version that was taken from the mailbox.
        """
        newest = max(known, self.mailbox.newest_version(manifest.run))
        run, version = manifest.run, manifest.version
        lag, examples = max(0, newest - version), update.num_examples
        self._publish_event(
            events.UpdateTrained(self.id, run, version, lag, examples, update.metrics, phases)
        )
        if lag > manifest.max_staleness:
            self._publish_event(events.UpdateLate(self.id, run, version))
            log.info(
                "update_too_late",
                "version %d came while version %d was trained on: too late to count",
                newest,
                manifest.version,
            )
            self._memory.rejected(manifest.version)
            return
        self._contribute(update, manifest)

    def _unlike(self, manifest: ModelManifest) -> str:
        """What keeps this client from training from a model, in words; empty if nothing does."""
        try:
            if not manifest.final:
                self._masker.check(manifest)
            self._make_client(manifest.config, manifest.local)
            self._client.check_fixed_state(manifest.fixed_state)
            layout = self._expect(manifest.local)
        except ConfigError as error:
            return str(error)
        federation = model_layout(manifest)
        difference = layout.difference(federation, SIDES, roles=True)
        if not difference:
            return ""
        return (
            f"this task's model is not the federation's: {difference}; start the client with the"
            " federation's task"
        )

    def _be_ready_for(self, manifest: ModelManifest) -> None:
        self._make_client(manifest.config, manifest.local)
        self._client.check_fixed_state(manifest.fixed_state)
        self._memory.resume(self._client, self.id, manifest.run, manifest.local)

    def _finish(self, model: GlobalModel) -> None:
        """Take the run's last model over; one of many who never trained need not see it."""
        manifest = model.manifest
        told = ""
        if not self._settings.virtual or self._arguments is not None:
            self._be_ready_for(manifest)
            self._is_fresh = False
            with user_code():
                self._hooks.on_model(manifest.version, model.weights)
                self._client.update(model.weights, manifest.local)
                found = self._client.evaluation()
                self._hooks.on_finished(model.weights)
            told = _told(found.metrics()) if found is not None else ""
            knows = self.mailbox.coordinator_reads >= Evaluated.SINCE
            hides = manifest.privacy is not None or manifest.secure is not None
            is_private = hides or self._privacy.keeps_records
            if found is not None and knows and not is_private:
                self._report_final(manifest, found)
        log.info("finished", "version %d is final%s", manifest.version, told, client=self.id)
        self.has_ended = not self._settings.stay

    def _report_final(self, manifest: ModelManifest, found: Evaluation) -> None:
        """Say what the final model is worth here: no update will."""
        entry = _entry(found)
        if entry is None:
            return
        evaluated = Evaluated(
            federation=self._settings.federation,
            run=manifest.run,
            client=self.id,
            version=manifest.version,
            evaluation=entry,
        )
        self._context.publish([encode(evaluated)], "evaluated")

    def _contribute(self, update: Update, model: ModelManifest) -> None:
        delta = Weights.of(update.delta, self._client.layout_for(model.local))
        if model.secure is not None:
            self._contribute_masked(update, delta, model)
            return
        if (terms := model.privacy) is not None:
            update = replace(update, num_examples=1, metrics={}, not_finite=(), local_steps=None,
                             evaluation=None)  # fmt: skip
            clip(delta, terms.clip)
            self._count(model, terms)
        encoding, transfer = self._encoding(model), new_transfer()
        buffer = compression.encode(delta, encoding, transfer)
        manifest = UpdateManifest(
            federation=self._settings.federation,
            run=model.run,
            client=self.id,
            base_version=model.version,
            num_examples=update.num_examples,
            layout=delta.layout.digest,
            metrics=dict(update.metrics),
            not_finite=list(update.not_finite),
            local_steps=update.local_steps,
            evaluation=_entry(update.evaluation),
            encoding=encoding,
            code=self._code(),
            **transfer_fields(buffer, transfer),  # type: ignore[arg-type]
        )
        bodies = Outgoing(manifest, buffer)
        if encoding != compression.RAW and model.local.scaffold:
            # What counts is what the coordinator will decode.
            sent = compression.decode(delta.layout, encoding, transfer, buffer)
            self._client.withdraw(delta)
            self._client.count(sent)
            self._memory.trained(replace(update, delta=sent), model.version)
        if self._update_store is not None:
            self._update_store.put(bodies, self.id)
        self._send(bodies, manifest)

    def _count(self, model: ModelManifest, terms: PrivacyTerms) -> None:
        """From which version on another update counts in a private run."""
        first = model.version + model.max_staleness + terms.distance
        self._contributed[model.version] = first

    def _contribute_masked(self, update: Update, delta: Weights, model: ModelManifest) -> None:
        transfer = new_transfer()
        try:
            masked = self._masker.mask(delta, update, model, self.id, transfer)
        except Rejected as rejected:
            log.warning("update_not_sent", "%s: it would spoil the sum", rejected, client=self.id)
            self._memory.rejected(model.version)
            self._report(f"an update was not sent: {rejected}", ends=False, is_public=True)
            return
        if model.privacy is not None:
            self._count(model, model.privacy)
        manifest = UpdateManifest(
            federation=self._settings.federation,
            run=model.run,
            client=self.id,
            base_version=model.version,
            num_examples=1,
            layout=delta.layout.digest,
            encoding=encoding_of(model.secure.ring if model.secure is not None else 32),
            figures=masked.figures,
            code=self._code(),
            **transfer_fields(masked.buffer, transfer),  # type: ignore[arg-type]
        )
        bodies = Outgoing(manifest, masked.buffer)
        if self._update_store is not None:
            self._update_store.put(bodies, self.id, masked.seed)
        self._context.publish_seed(self._masker.sealed(masked.seed))
        self._send(bodies, manifest)

    def _code(self) -> str:
        """The version of the task's code, for a coordinator that can read of it."""
        return self._source.code if self.mailbox.coordinator_reads >= CODE_SINCE else ""

    def _encoding(self, model: ModelManifest) -> str:
        """The encoding that the federation asks for, if it is known here."""
        if model.uplink in compression.KNOWN:
            return model.uplink
        log.warning(
            "uplink_unknown",
            "the federation asks for updates in %s, which this version does not know: it sends them"
            " raw; upgrade this client",
            model.uplink,
        )
        return compression.RAW

    def _send(self, bodies: Outgoing, manifest: UpdateManifest) -> None:
        phases = Timings()
        phases.timing("publish", self._context.publish)(bodies, "update")
        self.mailbox.forget("missing")  # of what was not sent yet when they came
        self._memory.confirmed(manifest, bodies)
        if self._update_store is not None:
            self._update_store.confirmed(manifest.client, manifest.run, manifest.base_version)
        run, version, size_bytes = manifest.run, manifest.base_version, manifest.size_bytes
        self._publish_event(events.UpdateConfirmed(self.id, run, version, size_bytes, phases))
        log.info(
            "update_confirmed",
            "update to version %d is confirmed%s",
            manifest.base_version,
            _told(manifest.metrics),
            base_version=manifest.base_version,
            client=self.id,
        )

    def _send_kept(self, newest: ModelManifest) -> None:
        """Send what an earlier process of this client trained, unless it is too late to count."""
        layout = self._client.layout_for(newest.local)
        kept = self._update_store.get(self.id, layout) if self._update_store is not None else None
        if (
            self._update_store is None
            or kept is None
            or not isinstance(kept[0].manifest, UpdateManifest)
        ):
            return
        (bodies, seed), manifest = kept, kept[0].manifest
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
            self._update_store.drop(self.id)
            return
        if not self._privacy.has_trained(newest, manifest.base_version):
            log.warning(
                "update_dropped",
                "the update to version %d that was kept was trained without this site's noise",
                manifest.base_version,
                base_version=manifest.base_version,
            )
            self._update_store.drop(self.id)
            return
        if not self._privacy.keeps_records:
            self._privacy.admit(self.id, newest)
        if (seed is None) != (newest.secure is None):
            words = "masked" if seed is None else "in clear"
            log.warning("update_dropped", "the federation wants updates %s now: one is lost", words)
            self._update_store.drop(self.id)
            return
        if seed is not None and not _is_masked_as(seed, newest):
            log.warning(
                "update_dropped",
                "the update to version %d that was kept is masked under other terms than those of"
                " the federation now: no sum may have it",
                manifest.base_version,
                base_version=manifest.base_version,
            )
            self._update_store.drop(self.id)
            return
        if manifest.code and not self._code():  # it was kept for a newer coordinator than this
            manifest = manifest.model_copy(update={"code": ""})
            bodies = Outgoing(manifest, bodies.buffer)
        log.info("kept_update", "sending the update to version %d again", manifest.base_version)
        if seed is not None:
            self._context.publish_seed(self._masker.sealed(seed))
        self._send(bodies, manifest)
        self._trained = (manifest.run, manifest.base_version)

    def _make_client(self, config: Mapping[str, Any], local: LocalTraining) -> None:
        """Make the task again if the federation's config changes what it is made with.

        And if an earlier run has exchanged what is frozen: in this one it is to be the task's own.
        """
        replica = self.id.partition(".")[2]
        lease = {"shard": int(replica)} if replica and self._source.takes("shard") else {}
        arguments = self._source.arguments({**config, **lease})
        is_made = arguments == self._arguments
        if is_made and (local.exchange == ALL or self._client.has_own_base):
            return
        with user_code():
            task = self._source.make(arguments)
            client = task.client()
        if (budget := self._privacy.adopt(client.budget)) is not None:
            client.keep_records_private(budget)
        self._client, self._arguments, self._hooks = client, arguments, TaskHooks(task)
        self._is_fresh = True
        self._expect(self._local)

    def _expect(self, local: LocalTraining) -> Layout:
        """Take models of the layout that comes with ``local`` from now on."""
        self._local = local
        layout = self._client.layout_for(local)
        self._context.expect(layout)
        return layout


def _is_masked_as(seed: Seed, model: ModelManifest) -> bool:
    """Whether an update with this mask was made under the terms of ``model``."""
    return model.secure is not None and seed.terms == terms_digest(model.secure, model.privacy)


def _entry(evaluation: Evaluation | None) -> EvaluationEntry | None:
    if evaluation is None:
        return None
    found = for_wire(evaluation)
    means, not_finite = by_finiteness(found.means)
    table = None
    if found.scores:
        scores, negatives, positives = found.scores
        table = ScoreTable(
            scores=list(scores), negatives=list(negatives), positives=list(positives)
        )
    return EvaluationEntry(
        num_examples=found.num_examples,
        means=means,
        confusion=list(map(list, found.confusion)),
        score_table=table,
        not_finite=not_finite,
    )


def _told(metrics: Mapping[str, float]) -> str:
    words = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    return f" ({words})" if words else ""
