"""The coordinator's shell: takes deliveries one by one and does what the pure parts decide.

The order of operations at quorum is the promise of the project: compute the new model, write the
checkpoint, publish and wait for the confirms, acknowledge. Killed anywhere, the next start finds
each update either still in the broker or in the checkpoint's ledger, and never in both uncounted.

Of several coordinators the broker lets one consume, the active one; it alone takes the checkpoint
folder's lease, reads the newest checkpoint, and publishes.

Which model a round leads to is its model source's to say (`ModelSource`): a region is this worker
with another one. The audit log is written here and nowhere else: when we take over, or begin with a
client's weights (``resumed``); in ``_take`` and ``_refuse`` (``accepted``, ``rejected``,
``flooded``); in ``_close_round`` before the checkpoint (``aggregated``); once a model is out
(``published``).
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final, Self, assert_never

from coordinator_worker.aggregation import Diverged
from coordinator_worker.aggregation.masked_cohort import MaskedCohort
from coordinator_worker.monitoring import events
from coordinator_worker.monitoring.waiting import TICK_S, WaitingReport
from coordinator_worker.rounds import newest_version
from coordinator_worker.rounds.final_evaluation import FinalEvaluation
from coordinator_worker.rounds.fixed_states import FixedStates
from coordinator_worker.rounds.incoming_update import IncomingUpdate
from coordinator_worker.rounds.missing import Missing
from coordinator_worker.rounds.outcome import (
    Accepted,
    Duplicate,
    EvaluationReported,
    FailureReported,
    Joined,
    Pending,
    ProbeReturned,
    Refused,
)
from coordinator_worker.rounds.privacy_rules import check_promise
from coordinator_worker.rounds.round import Round
from coordinator_worker.runtime.active_run import ActiveRun
from coordinator_worker.runtime.activity import LOOK_S, Activity
from coordinator_worker.runtime.dead_letters import Handling
from coordinator_worker.runtime.event_loop import NotPublished, check_room
from coordinator_worker.runtime.inbox import (
    Asked,
    Connected,
    Deadline,
    Doubt,
    Enough,
    Event,
    InitialWeightsTimeout,
    Judged,
    Listed,
    Lost,
    ModelPublished,
    Seen,
    StandbyTimeout,
    Stop,
    Tick,
    WatchdogTick,
)
from coordinator_worker.runtime.keeper_link import Damaged
from coordinator_worker.runtime.keeper_patience import KeeperPatience
from coordinator_worker.runtime.model_publisher import ModelPublisher
from coordinator_worker.runtime.model_source import LocalAggregation, ModelSource
from coordinator_worker.runtime.resources import Resources, RunRules
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state import roster
from coordinator_worker.state.enrolled import NOBODY, Enrolled
from coordinator_worker.state.round_record import EvaluationSummary, RoundRecord
from coordinator_worker.state.training_state import Best, State, status, with_figures
from warren_shared.amqp.backoff import backoff_s
from warren_shared.amqp.delivery import Delivery
from warren_shared.errors import BrokerUnavailable, ConfigError, Stopped
from warren_shared.observability.event_bus import Timings
from warren_shared.observability.log import Log
from warren_shared.protocol.codec import kind_of
from warren_shared.protocol.messages import (
    InitialManifest,
    Join,
    MaskedUpdate,
    Revealed,
    Unmask,
    Unmasked,
    UpdateManifest,
)
from warren_shared.protocol.model_header import ModelHeader
from warren_shared.service.lifecycle import on_stop_signal
from warren_shared.tensors import frozen
from warren_shared.tensors.compression import RAW
from warren_shared.tensors.layout import Weights
from warren_shared.tensors.model_change import change_id

log = Log(__name__)

# Two buffers as large as the model are always there, the model and the sum; staging and what is on
# its way here get about as much as one more.
IN_FLIGHT_BYTES: Final = 8 << 20
ENROLLED_EVERY_S: Final = 60.0


class CoordinatorWorker:
    """One training run: from its checkpoint, or from version 0, to its goal or a signal."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        rules: RunRules,
        resources: Resources,
        source: ModelSource,
    ) -> None:
        self._settings = settings
        self._config = rules.config
        self._stopping = rules.stopping
        self._learning = rules.learning
        self._policy = rules.policy
        self._privacy = rules.privacy
        self._secure = rules.secure
        self._keeper = resources.keeper
        self._patience = KeeperPatience(resources.reporter, self._goes_on)
        self._loop = resources.loop
        self._store = resources.store
        self._audit = resources.store.audit
        self._staging = resources.staging
        self._initial_weights = resources.initial_weights
        self._intake = resources.intake
        self._event_bus = resources.event_bus
        self._signer = resources.signer
        self._notices = resources.notices
        self._reporter = resources.reporter
        self._rejections = resources.rejections
        self._disk_retry = resources.disk_retry
        self._evaluator = resources.evaluator
        self._source = source
        self._run: ActiveRun | None = None  # None until there is a model
        self._left: State | None = None  # of a run whose model we could not publish
        self._is_outdated = False  # the checkpoint is another coordinator's, and newer than the run
        self._fixed_states = FixedStates()
        self._waiting = WaitingReport()
        self._missing = Missing()
        self._enrolled = NOBODY
        self._look_at_enrolled = 0.0  # monotonic: not before then
        self._active = False
        self._activity = Activity()
        self._epoch = 0  # of the connection over which all that is unacknowledged came
        self._finished = False
        # The transfers that the open round has to be made of, since the keeper has given the sum of
        # their masks for it; all others are for the next.
        self._given: frozenset[str] | None = None
        self._damaged = 0  # answers of the keeper in a row
        self._left_over = False  # some are, and come again when the round is closed
        self._overdue = False
        self._abandoned = 0  # epoch of which nothing more is taken: it lacks a message
        self._sender = ThreadPoolExecutor(1, "send")
        self._sending: tuple[Future[None], list[int], int, Timings] | None = None

    @classmethod
    def from_settings(cls, settings: CoordinatorSettings) -> Self:
        """A coordinator that aggregates its own models, with the newest checkpoint read.

        Raises:
            ConfigError: a setting, or what it names, cannot be used.
        """
        rules = RunRules.from_settings(settings)
        return cls(settings, rules, Resources.open(settings, rules), LocalAggregation())

    def run(self) -> int:
        """Serve until the goal is reached or a signal asks to stop; return the exit code.

        That is 0 if the goal is reached, and else of a process that the signal ended.
        """
        stop_signal = on_stop_signal(self.stop)
        try:
            self._loop.start()
            while not self._finished:
                item = self._loop.get()
                if isinstance(item, Stop):
                    log.info("stopping", "asked to stop; what is in no model stays in the broker")
                    break
                try:
                    if isinstance(item, Delivery):
                        self._deliver(item)
                    else:
                        self._heed(item)
                except NotPublished:
                    self._let_another_try()
            try:
                self._settle_sending()
            except NotPublished:
                raise BrokerUnavailable(
                    "the newest model, which is in the checkpoint, reaches no mailbox: look for a"
                    " node of the broker that was cut off"
                ) from None
            if self._finished and self._active and self._source.alone:
                self._collect_final()
            if self._finished and self._evaluator is not None and self._run is not None:
                last = self._run.state
                facts = frozen.fact(last.fixed_state)
                self._evaluator.finish(last.version, last.weights, self._loop.goes_on, facts)
                self._save_judged(self._run)
        except Stopped as error:
            log.warning("stopped", "%s; nothing is lost", error)
        finally:
            self._close()
        self._source.raise_failure()
        return 0 if self._finished else stop_signal.exit_code

    def stop(self) -> None:
        """End ``run``; for any thread."""
        self._loop.ask_to_stop()
        self._source.stop()

    # --- after the last version -----------------------------------------------------------------

    def _collect_final(self) -> None:
        """Wait a little for what the clients find the final model to be worth, and keep it."""
        run = self._run
        if run is None:
            return
        state = run.state
        if state.history and state.history[-1].final_evaluation is not None:
            return
        final = FinalEvaluation(state, self._settings.max_evaluation_share)
        held: list[int] = []  # until they are in a checkpoint
        self._loop.remind(final.patience_s, Enough())
        while not final.is_complete:
            item = self._loop.get()
            if isinstance(item, (Enough, Stop, Lost)):
                break
            if isinstance(item, Judged):
                self._judge(item)
            if isinstance(item, Delivery) and item.epoch == self._loop.updates.epoch:
                held += self._take_final(item, state, final)
        figures = final.figures
        if figures is None:
            return
        state = with_figures(run.state, state.version, final_evaluation=figures)
        record = RoundRecord(
            version=state.version,
            metrics=figures.metrics,
            evaluation=EvaluationSummary(figures.version, figures.clients, figures.examples),
            judged=self._stopping.judge(final.judgement),
        )
        typical = self._stopping.typical(state)
        if (best := self._stopping.better(state.best, record, state.version, typical)) is not None:
            self._keep_best(state, best)
            state = replace(state, best=best)
        run.state = state
        self._disk_retry.persist(partial(self._store.save, state))
        self._loop.updates.acknowledge(held, self._epoch)
        self._reporter.final_evaluated(state.version, figures.metrics)

    def _take_final(self, item: Delivery, state: State, final: FinalEvaluation) -> tuple[int, ...]:
        """Add an evaluation; return its deliveries. The rest is the next run's to judge."""
        if kind_of(item.body) not in ("evaluated", "sealed"):
            return ()
        outcome = self._intake.receive(item, state)
        if not isinstance(outcome, EvaluationReported):
            return ()
        final.add(outcome.message)
        self._epoch = item.epoch
        return outcome.acknowledgeable

    def _judge(self, judged: Judged) -> None:
        """Keep what ``--evaluate`` said; the next checkpoint has it."""
        if self._run is not None:
            figures = dict(judged.figures)
            self._run.state = with_figures(self._run.state, judged.version, evaluated=figures)

    def _save_judged(self, run: ActiveRun) -> None:
        """What was said of the last version has no next checkpoint."""
        while (item := self._loop.poll()) is not None:
            if isinstance(item, Judged):
                self._judge(item)
        self._disk_retry.persist(partial(self._store.save, run.state))

    def _close(self) -> None:
        self._source.abandon(self._run.publisher if self._run is not None else None)
        if self._evaluator is not None:
            self._evaluator.close()
        if self._active:
            self._reporter.stopped()
        if self._keeper is not None:
            self._keeper.close()
        self._loop.close()
        self._sender.shutdown()
        self._event_bus.close()
        self._store.close()
        self._source.close()

    # --- becoming and being the active coordinator ----------------------------------------------

    def _heed(self, event: Event) -> None:
        match event:
            case Connected():
                self._reporter.link(events.LinkConnected)
                self._loop.ask_whether_active()
            case WatchdogTick():
                state = self._run.state if self._run is not None else None
                told = status(state, self._updates(), self._policy.quorum, active=self._active)
                self._loop.supervisor.alive(told)
            case Asked() | Doubt() | Tick() | Seen() | Listed() | Judged() if self._active:
                self._look_around(event)
            case StandbyTimeout():
                self._look_at_standby()
            case Lost():
                self._reporter.link(events.LinkLost)
                self._let_go()
            case ModelPublished() if self._sending is not None and self._sending[0].done():
                self._settle_sending()
            case InitialWeightsTimeout() if self._active and self._run is None:
                self._initial_weights.reminded()
            case Deadline(version) if self._active and self._run is not None:
                if version == self._run.state.version:
                    self._overdue = True
                    self._look_at_deadline(self._run)

    def _look_at_standby(self) -> None:
        """Something would have been delivered by now if we were the active one."""
        if not self._active:
            self._reporter.link(events.LinkStandby)
            log.info("standby", "another coordinator is active; waiting for its end")
        self._source.look_at_standby(active=self._active)

    def _deliver(self, item: Delivery) -> None:
        if item.epoch != self._loop.updates.epoch or item.epoch == self._abandoned:
            return  # of a connection that is gone; it comes again over the new one
        self._activity.heard(time.monotonic())
        if not self._active and not self._become_active(item.epoch):
            return
        if self._finished:
            return
        try:
            self._receive(item)
        except OSError as error:  # of the staging file
            self._disk_retry.wait(error, of_staging=True)
            self._abandoned = item.epoch
            self._loop.updates.reopen()  # what is unacknowledged comes again

    def _become_active(self, epoch: int) -> bool:
        """Something was delivered, so the broker chose us: go on from the newest checkpoint.

        Raises ConfigError if a newer version is out than that; False if the broker went away.
        """
        # Until we go on from it: what follows may fail, and the next attempt finds nothing new.
        self._is_outdated |= self._store.take_over()
        try:
            out = self._loop.newest()
        except BrokerUnavailable as error:
            log.info("not_active_yet", "%s; connecting again", error)
            self._store.give_back()
            self._abandoned = epoch
            self._loop.updates.reopen()
            return False
        told = (self._store.folder, self._store.damaged)
        newest_version.check(self._store.state, out, *told, is_published=self._source.alone)
        if self._keeper is not None:
            try:
                self._keeper.open()
            except BrokerUnavailable as error:
                log.info("not_active_yet", "%s; connecting again", error)
                self._store.give_back()
                self._abandoned = epoch
                self._loop.updates.reopen()
                return False
        self._active = True
        self._reporter.link(events.LinkActive)
        self._missing.begin()
        self._loop.put(Tick())
        self._look_at_enrolled = 0.0
        self._loop.remind(LOOK_S, Doubt())
        self._settle_sending()
        known = self._run.state if self._run is not None else self._left
        state = known if known is not None and not self._is_outdated else self._store.state
        self._disk_retry.persist(partial(self._audit.take_over, state), is_small=True)
        if state is None:
            self._notices.call_together()
        elif self._is_outdated or self._run is None:
            self._begin(state)
        else:
            self._await_deadline(state)
        return True

    def _look_around(self, event: Asked | Doubt | Tick | Seen | Listed | Judged) -> None:
        match event:
            case Asked():
                self._activity.asked(time.monotonic())
            case Doubt():
                self._look_at_activity()
            case Judged():
                self._judge(event)
            case Seen(away):
                self._reporter.alive(away)
                self._say_what_waits()
                if self._missing.seen(away):
                    self._loop.ask_whether_active()
            case Listed(enrolled):
                if enrolled is not None and enrolled != self._enrolled:
                    self._enroll(enrolled)
            case Tick():
                self._show_life()

    def _say_what_waits(self) -> None:
        run = self._run
        if run is None or self._given is None:
            self._reporter.waiting(self._updates())
            return
        lost = self._given - {entry.transfer for entry in run.round.entries}
        self._reporter.waiting_for_given(run.state.version + 1, len(self._given), len(lost))

    def _show_life(self) -> None:
        """Give a sign of life; if the round has been open for long, say whom it waits for."""
        self._loop.remind(TICK_S, Tick())
        self._reporter.alive()
        if (now := time.monotonic()) >= self._look_at_enrolled:
            self._look_at_enrolled = now + ENROLLED_EVERY_S
            self._loop.look_who_is_enrolled()
        state = self._run.state if self._run is not None else None
        version = state.version if state is not None else -1
        if self._waiting.due(version, time.monotonic()) and not self._finished:
            here = self._run.round.clients if self._run is not None else ()
            names = self._missing.look(state, here, self._reporter.waited_for())
            self._loop.look_for(names)

    def _enroll(self, enrolled: Enrolled) -> None:
        """So many may take part; the next checkpoint has it."""
        self._enrolled = enrolled
        self._reporter.enrolled(enrolled)
        if (run := self._run) is not None:
            run.state = replace(run.state, enrolled=enrolled)

    def _look_at_activity(self) -> None:
        """The broker may have made another the active one without a word."""
        step = self._activity.next_step(time.monotonic())
        if step == "ask":
            self._loop.ask_whether_active()
        elif step == "let go":
            log.warning(
                "no_longer_active",
                "a message of ours does not come back from the queue: another coordinator is active"
                " there; connecting again",
            )
            self._loop.updates.reopen()
        self._loop.remind(LOOK_S, Doubt())

    def _let_another_try(self) -> None:
        """The checkpoint has the model that we cannot publish, for the one that takes over."""
        log.warning(
            "not_published",
            "the newest model cannot be published from here; another coordinator may try",
        )
        self._abandoned = self._loop.updates.epoch
        self._loop.updates.reopen()
        self._finished = False  # `_begin` knows
        self._let_go()

    def _let_go(self) -> None:
        """All that is unacknowledged is delivered again, to us or to another coordinator."""
        self._active = False
        publishes = self._sending is not None and not self._sending[0].done()
        if publishes and self._source.alone:
            # Or an old model might go out after another coordinator's newer one.
            self._loop.models.give_up()
            self._left = self._run.state if self._run is not None else self._left
            self._sending = self._run = None
        if self._keeper is not None:
            self._keeper.close()
        self._store.give_back()
        self._intake.reset()
        self._initial_weights.reset()
        if self._run is not None:
            self._run.begin_round_again()

    def _begin(self, state: State) -> None:
        """Start from ``state``: its model goes to all clients, also those that missed it before."""
        check_room(self._policy.quorum, state.weights.buffer.nbytes)
        check_promise(self._privacy, state)
        if self._enrolled != NOBODY:
            state = replace(state, enrolled=self._enrolled)
        state = self._stopping.begin(state)
        if self._secure is not None:
            self._secure.check_layout(state.weights.layout)
        noise = None
        if self._privacy is not None:
            state = self._privacy.begin(state)
            noise = self._privacy.noise(state)
        masking = self._secure.masking(state) if self._secure is not None else None
        self._intake.terms = masking.terms if masking is not None else None
        self._finished = self._stopping.reached(state)
        header = ModelHeader(
            federation=state.federation,
            run=state.run,
            version=state.version,
            config=self._config,
            local=self._learning.local_at(state.version),
            max_staleness=self._policy.max_staleness,
            participation=self._settings.participation,
            final=self._finished,
            fixed_state=state.fixed_state,
            uplink=self._policy.uplink,
            downlink=self._learning.downlink,
            privacy=self._privacy.terms if self._privacy is not None else None,
            secure=self._intake.terms,
        )
        spares = self._settings.spare_mailboxes
        publisher = ModelPublisher.announce(
            self._loop.models, state.weights, self._signer, header=header, spares=spares
        )
        self._source.begin(state.weights)
        adds_noise = noise if masking is None else None  # else the keeper does
        coordinator = self._learning.coordinator(publisher, state, adds_noise)
        share = self._settings.max_evaluation_share
        self._run = run = ActiveRun.begin(
            state,
            publisher,
            coordinator,
            share=share,
            alone=self._source.alone,
            noise=noise,
            masking=masking,
        )
        self._left = None
        self._is_outdated = False
        state = run.state
        self._staging.memory_bytes = max(0, state.weights.buffer.nbytes - IN_FLIGHT_BYTES)
        sending = self._sender.submit(self._send, run, state.weights)
        self._sending = (sending, [], self._epoch, Timings())
        self._loop.wait_for(sending)
        self._sending = None
        self._say_published(run, Timings())
        self._await_deadline(state)
        if self._finished:
            log.info(
                "finished",
                "version %d is the last: %s; nothing is left to do",
                state.version,
                self._stopping.reason(state),
            )
        self._look_for_end()

    def _send(self, run: ActiveRun, weights: Weights) -> None:
        """On the sending thread: publish ``weights``, or what the source gives for them."""
        self._source.provide(run.publisher, weights)
        run.coordinator.send(weights)

    def _look_for_end(self) -> None:
        """Whether the source has said that the published model is its last."""
        run = self._run
        if self._finished or run is None:
            return
        if reason := self._source.end_reason(run.publisher.manifest):
            self._finished = True
            log.info("finished", "%s", reason)
            self._disk_retry.persist(partial(self._store.save, run.state))  # it is that model now

    # --- a round --------------------------------------------------------------------------------

    def _updates(self) -> int:
        """How many are in the open round."""
        return self._run.round.updates if self._run is not None else 0

    def _receive(self, item: Delivery) -> None:
        # Not the session's epoch at the time of acknowledging: the link may be lost and back while
        # a model is published, and on the new channel these tags are other deliveries.
        self._epoch = item.epoch
        outcome = self._intake.receive(item, self._run.state if self._run is not None else None)
        self._missing.heard(outcome.client, item.reads)
        if self._run is None and not outcome.acknowledgeable:
            self._initial_weights.moved()
        match outcome:
            case Accepted(arrival=arrival):
                self._take(arrival)
            case Joined(message=join):
                self._welcome(join)
            case FailureReported(message=failed):
                self._reporter.failed(failed)
            case Refused():
                self._refuse(outcome, item)
            case Pending() | Duplicate() | EvaluationReported() | ProbeReturned():
                pass  # what is to be acknowledged of them is, below
            case _:
                assert_never(outcome)
        if outcome.acknowledgeable:
            self._loop.updates.acknowledge(outcome.acknowledgeable, item.epoch)
        if isinstance(outcome, ProbeReturned) and self._run is not None:
            self._tell_the_missing(self._run)

    def _refuse(self, refused: Refused, delivery: Delivery) -> None:
        client = refused.client or ""
        if self._run is None:
            self._initial_weights.refused(client)
        handling = self._rejections.put(refused, delivery)
        if handling is Handling.DEAD_LETTERED:
            named = client or "unknown"
            self._audit.rejected(delivery.user, named, refused.rejected)
            known = self._enrolled.has(client)
            self._reporter.rejected(named, refused.rejected, enrolled=known)
            self._remember(partial(roster.rejected, client=client, known=known))
        else:
            first = handling is Handling.COUNTED_FIRST
            self._audit.flooded(delivery.user)
            self._reporter.flooded(delivery.user, refused.rejected, first=first)

    def _tell_the_missing(self, run: ActiveRun) -> None:
        """All that was in the queue when we asked has been read: what is not here was lost."""
        state, here = run.state, run.round.clients
        clients = self._missing.told(state, here)
        if clients is None:
            self._notices.tell_missing(None, state.run, state.version, here)
        for client in clients or ():
            log.info("missing", "nothing from %s to version %d", client, state.version)
            self._notices.tell_missing(client, state.run, state.version)

    def _remember(self, change: Callable[[roster.Roster], roster.Roster]) -> None:
        """Change the roster; the next checkpoint has it."""
        if (run := self._run) is not None:
            run.state = replace(run.state, roster=change(run.state.roster))

    def _welcome(self, join: Join) -> None:
        client = join.client
        self._reporter.joined(client)
        self._fixed_states.compare(client, join.fixed_state)
        self._remember(partial(roster.joined, client=client, now=time.time()))
        if self._run is None:
            self._initial_weights.joined(client)
        else:
            self._settle_sending()  # or it would hear of a model that is not published yet
            self._run.publisher.send_to(client)
            if self._overdue and self._settings.participation < 1:
                self._notices.call_all_hands(self._run.state.version, client)

    def _take(self, arrival: IncomingUpdate) -> None:
        if not isinstance(arrival.manifest, UpdateManifest):
            self._take_initial(arrival)
            return
        run = self._run
        if run is None:
            raise RuntimeError("an update was admitted before there was a model")
        if not self._belongs_here(run, arrival.manifest):
            arrival.release()
            self._left_over = True
            return
        rarity = 1.0
        if self._learning.aggregator.needs_rarity:
            rarity = roster.rarity(run.state.roster, arrival.manifest.client)
        run.round.fold(arrival, rarity)
        updates = run.round.updates
        self._audit.accepted(arrival.manifest, run.state.version + 1)
        norm = None if arrival.hides_norm else arrival.norm
        self._reporter.accepted(arrival.manifest, run.state.version, updates, norm)
        if self._may_close(run):
            self._close_round(run)

    def _belongs_here(self, run: ActiveRun, manifest: UpdateManifest) -> bool:
        """Whether an update may be in the open round; one that may not is for the next."""
        if self._secure is None:
            return True
        if self._given is not None:
            return manifest.transfer in self._given
        return self._secure.has_room(manifest.client, run.round.updates, run.round.clients)

    def _may_close(self, run: ActiveRun) -> bool:
        """Whether the round has all that it needs."""
        if self._given is not None:
            return self._given <= {entry.transfer for entry in run.round.entries}
        updates, clients = run.round.updates, run.round.clients
        return self._policy.closes(updates, clients, overdue=self._overdue)

    def _take_initial(self, arrival: IncomingUpdate) -> None:
        manifest = arrival.manifest
        if self._run is None and isinstance(manifest, InitialManifest):
            weights = Weights.uninitialized(arrival.layout)
            for start, data in arrival.chunks():
                weights.buffer[start : start + len(data)] = data
            state = self._store.version_zero(self._learning.initial(weights), manifest.fixed_state)
            self._disk_retry.persist(partial(self._store.save, state))
            self._audit.resumed(state)
            client = manifest.client
            log.info("initial_model", "%s sent the initial model", client, client=client)
            self._begin(state)
        arrival.release()
        self._loop.updates.acknowledge(arrival.tags, self._epoch)

    def _await_deadline(self, state: State) -> None:
        self._overdue = False
        if self._settings.deadline_s is not None:
            self._loop.remind(self._settings.deadline_s, Deadline(state.version))

    def _look_at_deadline(self, run: ActiveRun) -> None:
        updates, version = run.round.updates, run.state.version
        self._reporter.overdue(version + 1, updates, self._policy.needed_when_overdue)
        if self._may_close(run):
            self._close_round(run)
        elif self._settings.participation < 1:
            self._notices.call_all_hands(version)

    def _close_round(self, run: ActiveRun) -> None:
        """Compute, checkpoint, publish, acknowledge, in this order and no other.

        The model's bytes are on their way while the checkpoint is written, but its last message is
        held back until the checkpoint is on the disk, and without that no client has a model.
        Publishing a large model takes seconds in which the next round's first updates may come:
        they are folded meanwhile. Acknowledging waits for its end, in ``_settle_sending``.
        """
        self._settle_sending()
        if self._finished:
            return  # a region hears only now that the last model is out
        if self._secure is not None and not self._unmask(run):
            return
        state, closed, spare = run.state, run.round, run.state.weights
        version = state.version + 1
        record = closed.record(
            version,
            self._intake.incomplete,
            self._rejections.counted,
            self._stopping.judge(closed.judgement),
        )
        self._reporter.judged(record, self._stopping.watched(), self._stopping.doubts(record))
        typical = self._stopping.typical(state)
        if (best := self._stopping.better(state.best, record, state.version, typical)) is not None:
            self._keep_best(state, best)
            state = replace(state, best=best)
        weights, record = closed.phases.timing("aggregate", self._aggregate)(run, closed, record)
        if self._privacy is not None and run.noise is not None and state.privacy is not None:
            done = state.privacy.done + 1
            record = replace(record, privacy=self._privacy.spent(done, run.noise))
        members = roster.contributed(state.roster, version, closed.examples, time.time())
        members = roster.with_codes(members, closed.codes)
        standings = roster.summary(
            roster.participation(members, version, state.enrolled.unseen(members))
        )
        record = replace(record, participation=standings)
        staleness = self._policy.max_staleness
        state = replace(state, roster=members).after(
            weights, closed.contributions, record, staleness
        )
        record = self._with_end(state, record)
        weights, record = self._compressed(run, weights, record, closed.phases)
        state = replace(state, weights=weights, history=(*state.history[:-1], record))
        local = self._learning.local_at(version)
        header = run.publisher.header
        run.publisher.set_header(
            replace(header, version=version, final=self._finished, local=local)
        )
        run.publisher.hold_last_chunk()
        send = partial(closed.phases.timing("publish", self._send), run, weights)
        if state.privacy is None:
            sending = self._sender.submit(send)
        else:
            state = replace(state, privacy=state.privacy.after(closed.clients))
        self._audit.aggregated(version, closed.entries, record.diverged)
        save = partial(self._store.save, state)
        closed.phases.timing("checkpoint", self._disk_retry.persist)(save)
        run.publisher.release()
        if state.privacy is not None:
            # Not a byte before: after a crash the same round may have other updates, and what is
            # noised is released once.
            sending = self._sender.submit(send)
        self._sending = (sending, closed.tags, self._epoch, closed.phases)
        sending.add_done_callback(lambda _sending: self._loop.put(ModelPublished()))
        run.state = state
        self._loop.updates.acknowledge(self._intake.round_closed(state), self._epoch)
        self._rejections.counted.clear()
        run.begin_round(spare)
        self._await_deadline(state)
        self._reporter.closed(state.run, record, closed.phases, closed.figures)
        if self._finished:
            self._reporter.ends(version, self._stopping.reason(state))

    def _with_end(self, state: State, record: RoundRecord) -> RoundRecord:
        """``record``, with the reason if ``state`` is the run's last."""
        self._finished = self._stopping.reached(state)
        return replace(record, ended=self._stopping.reason(state)) if self._finished else record

    def _unmask(self, run: ActiveRun) -> bool:
        """Have the masks of the round's sum taken off; False if the round has to begin again.

        Raises:
            ConfigError: the keeper refuses for good.
        """
        closed, cohort = run.round, run.round.cohort
        terms = self._intake.terms
        if self._keeper is None or terms is None or not isinstance(cohort, MaskedCohort):
            raise RuntimeError("masked updates without terms")
        version = run.state.version + 1
        request = Unmask(
            federation=run.state.federation,
            run=run.state.run,
            version=version,
            layout=run.state.weights.layout.digest,
            secure=terms,
            privacy=self._privacy.terms if self._privacy is not None else None,
            updates=[
                MaskedUpdate(
                    client=entry.client,
                    base_version=entry.base_version,
                    transfer=entry.transfer,
                    weight=weight,
                )
                for entry, weight in zip(closed.entries, cohort.weights, strict=True)
            ],
        )
        self._patience.begin(version)
        try:
            with closed.phases.measure("unmask"):
                told = self._keeper.ask(request, cohort, self._patience.goes_on)
        except Damaged as error:
            log.warning("masks_damaged", "%s; the round begins again", error)
            self._damaged += 1
            self._loop.stopped_within(backoff_s(self._damaged))
            self._begin_again()
            return False
        self._damaged = 0
        if told is not None:
            self._patience.answered()
        if isinstance(told, Unmasked):
            cohort.finish()
            closed.unmasked(cohort.told)
            return True
        if told is not None:
            self._heed_keeper(told)
        self._begin_again()
        return False

    def _goes_on(self) -> bool:
        """Whether the round's updates are still ours to close it with."""
        self._loop.waiting("waiting for the keeper")
        return self._loop.updates.epoch == self._epoch and not self._loop.is_stopping

    def _begin_again(self) -> None:
        """Take once more from the broker what is in no checkpoint."""
        self._left_over = False
        self._abandoned = self._epoch
        self._loop.updates.reopen()

    def _heed_keeper(self, told: Revealed) -> None:
        """The keeper has refused: make the round of what it gave before, or without what it says.

        Raises:
            ConfigError: it refuses whatever we ask.
        """
        log.warning(
            "keeper_refused",
            "the keeper refuses the sum for version %d: %s",
            told.version,
            told.detail or told.reason,
            reason=told.reason,
        )
        if told.reason == "version" and told.transfers:
            self._given = frozenset(told.transfers)
            return
        if not told.transfers:
            raise ConfigError(f"the keeper refuses: {told.detail or told.reason}")
        why = told.detail.removesuffix(": leave them out") or told.reason
        for transfer in told.transfers:
            self._intake.without_mask[transfer] = f"the keeper adds up no mask of it: {why}"

    def _aggregate(
        self, run: ActiveRun, closed: Round, record: RoundRecord
    ) -> tuple[Weights, RoundRecord]:
        """The next model; the last good one again if it would not be finite, as the record says."""
        state = run.state
        record = self._source.complete(record, closed, state.version)
        run.coordinator.population = max(1, len(state.roster))
        try:
            context = f"{state.run} {state.version + 1}"
            return run.coordinator.aggregate([closed.cohort], context), record
        except Diverged as error:
            self._reporter.diverged(state.version, error)
            same = closed.cohort.sum.total
            same.buffer[:] = state.weights.buffer
            return same, replace(record, diverged=str(error))

    def _compressed(
        self, run: ActiveRun, weights: Weights, record: RoundRecord, phases: Timings
    ) -> tuple[Weights, RoundRecord]:
        """What clients will have: ``weights``, or near them if what they moved by is sent.

        The last model is whole: who was away finds it in the mailbox, and nobody to ask.
        """
        if self._finished:
            run.coordinator.average_into(weights)
        if self._learning.downlink == RAW:
            return run.coordinator.whole(weights), record
        every, change = self._settings.full_model_every, None
        if self._finished or (every is not None and record.version % every == 0):
            sent = run.coordinator.whole(weights)
        else:
            transfer = change_id(run.state.run, record.version)
            with phases.measure("compress"):
                sent, change = run.coordinator.compressed(weights, transfer)
        run.publisher.set_change(change)
        raw = sent.buffer.nbytes
        down = raw if change is None else change.code.nbytes
        return sent, replace(record, bytes_down=down, raw_bytes_down=raw)

    def _keep_best(self, state: State, best: Best) -> None:
        """Before the checkpoint that says so; a crash in between leaves a copy that is too new."""
        facts = frozen.fact(state.fixed_state)
        self._disk_retry.persist(partial(self._store.save_best, state.weights, facts))
        self._reporter.found_best(best)

    def _settle_sending(self) -> None:
        """Wait until the newest model is published, if it is not; let its updates go."""
        run = self._run
        if self._sending is not None and run is not None:
            sending, tags, epoch, phases = self._sending
            self._loop.wait_for(sending)
            self._sending = None
            phases.timing("acknowledge", self._loop.updates.acknowledge)(tags, epoch)
            self._given = None
            if self._left_over:
                self._begin_again()
            self._say_published(run, phases)
            if self._evaluator is not None:
                facts = frozen.fact(run.state.fixed_state)
                self._evaluator.look_at(run.state.version, run.state.weights, facts)
        self._look_for_end()

    def _say_published(self, run: ActiveRun, phases: Timings) -> None:
        """Every mailbox has the newest model; ``phases`` of the round that made it."""
        manifest = run.publisher.manifest
        digest = run.publisher.weights_digest
        self._audit.published(run.state.version, digest, manifest.content)
        self._reporter.published(run.state, manifest, phases)
