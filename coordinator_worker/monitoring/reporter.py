"""What the coordinator says of what happens, to people: in its log, and in events."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Final

from coordinator_worker.monitoring import events
from coordinator_worker.monitoring.event_publisher import Events
from coordinator_worker.monitoring.federation_view import FederationView
from coordinator_worker.monitoring.waiting import MAX_NAMED, TICK_S, in_words, remedy
from coordinator_worker.rounds.round import evaluation_of, metrics_of
from coordinator_worker.state.enrolled import Enrolled
from coordinator_worker.state.round_record import ClientFigures, RoundRecord
from coordinator_worker.state.training_state import Best, State
from warren_shared.errors import Rejected
from warren_shared.observability.event_bus import Timings
from warren_shared.observability.log import Log
from warren_shared.protocol.messages import Failed, ModelManifest, UpdateManifest
from warren_shared.tensors.evaluation import SCORE_BINS

log = Log(__name__)

MAX_AUC_ERROR: Final = 0.01
Link = events.LinkConnected | events.LinkLost | events.LinkActive | events.LinkStandby


class RunReporter:
    """Tells of a federation whose rounds close at ``quorum`` updates."""

    def __init__(self, publisher: Events, quorum: int) -> None:
        self._events = publisher
        self._quorum = quorum
        self._rejected_in = -1  # version whose round has rejected everybody
        self._not_finite: frozenset[str] = frozenset()
        self._missing: frozenset[str] = frozenset()
        self._doubts: frozenset[str] = frozenset()
        self._coarse: set[str] = set()

    def joined(self, client: str) -> None:
        """A client is there."""
        log.info("client_joined", "%s joined", client, client=client)
        self._events.post(events.ClientJoined(client))

    def enrolled(self, enrolled: Enrolled) -> None:
        """Those may take part."""
        self._events.post(events.ClientsEnrolled(enrolled.names))

    def failed(self, message: Failed) -> None:
        """A client says what keeps it from its work."""
        client, ends = message.client, message.ends
        what = "has ended" if ends else "failed and will try again"
        log.warning(
            "client_failed", "%s %s: %s", client, what, message.reason, client=client, ends=ends
        )
        self._events.post(events.ClientFailed(client, message.reason, ends))

    def accepted(
        self, manifest: UpdateManifest, version: int, updates: int, norm: float | None
    ) -> None:
        """An update is in the sum that will make ``version`` + 1, as the ``updates``-th."""
        client = manifest.client
        self._look_at_figures(manifest)
        log.info(
            "update_accepted",
            "%s contributed to version %d (%d of %d)",
            client,
            version + 1,
            updates,
            self._quorum,
            client=client,
            base_version=manifest.base_version,
        )
        self._events.post(
            events.UpdateAccepted(
                client=client,
                version=version,
                base_version=manifest.base_version,
                staleness=version - manifest.base_version,
                examples=manifest.num_examples,
                size_bytes=manifest.size_bytes,
                norm=norm,
                metrics=metrics_of(manifest),
                quorum=(updates, self._quorum),
            )
        )

    def rejected(self, client: str, rejected: Rejected, *, enrolled: bool) -> None:
        """Something of ``client``, which may take part if it is ``enrolled``, must not count."""
        reason = rejected.reason
        say = log.info if reason == "stale" else log.warning  # being late is no fault
        say(
            "update_rejected",
            "rejected from %s: %s",
            client,
            rejected,
            client=client,
            reason=reason,
        )
        self._events.post(events.UpdateRejected(client, reason, rejected.detail, enrolled or None))
        if self._events.ask(FederationView.all_rejected):
            self._say_all_rejected(reason)

    def _say_all_rejected(self, reason: str) -> None:
        version = self._events.ask(lambda view: view.version)
        if version == self._rejected_in:
            return
        self._rejected_in = version
        words = (
            f"what every client sent for version {version + 1} was rejected ({reason}):"
            f" {remedy({reason: 1})}"
        )
        log.error("round_rejected", "%s", words, version=version + 1, reason=reason)
        self._events.post(events.RoundRejected(version + 1, reason, words))

    def alive(self, away: Sequence[str] | None = None) -> None:
        """Give a sign of life; ``away``: clients without a connection, None if not checked."""
        seen = None if away is None else tuple(away)
        self._events.post(events.CoordinatorAlive(TICK_S, seen))

    def waited_for(self) -> list[str]:
        """Clients that the open round lacks."""
        return [one.client for one in self._events.ask(FederationView.waiting)]

    def waiting(self, updates: int) -> None:
        """The open round has waited long for ``updates`` to become enough: say whom for."""
        version, waiting = self._events.ask(lambda view: (view.version, view.waiting()))
        words = in_words(updates, self._quorum, waiting)
        log.warning("round_waiting", "%s", words, version=version + 1)
        named = tuple(waiting[:MAX_NAMED])
        quorum = (updates, self._quorum)
        self._events.post(events.RoundWaiting(version + 1, quorum, named, words))

    def waiting_for_given(self, version: int, given: int, lost: int) -> None:
        """The keeper gave the sum of ``given`` updates for ``version``; ``lost`` do not come."""
        words = (
            f"the keeper gave the sum of {given} updates for version {version}, and {lost} of them"
            " do not come again: if they are lost, stop the coordinator and run"
            f" `coordinator-worker rollback current --after {version}`"
        )
        log.warning("round_waiting", "%s", words, version=version)
        quorum = (given - lost, given)
        self._events.post(events.RoundWaiting(version, quorum, (), words))

    def flooded(self, user: str | None, rejected: Rejected, *, first: bool) -> None:
        """Of ``user`` so much was rejected that this is only counted, the ``first`` one said."""
        client = user or "unknown"
        self._events.tell(events.UpdateFlooded(client, rejected.reason))
        if first:
            log.warning(
                "flood",
                "so much of %s is rejected that most of it is no longer kept or answered; %s",
                client,
                f"`broker-config revoke {user}` ends it"
                if user
                else "its connection is the one in the management UI that publishes most",
                client=client,
            )
            self._events.post(events.ClientFlooding(client, rejected.reason))

    def overdue(self, version: int, updates: int, needed: int) -> None:
        """The round's time is up."""
        log.warning(
            "round_overdue",
            "the deadline has passed with %d of %d updates to version %d%s",
            updates,
            self._quorum,
            version,
            "" if updates >= needed else f"; the next {needed - updates} will close the round",
            version=version,
        )
        self._events.post(events.RoundOverdue(version, (updates, self._quorum)))

    def closed(
        self,
        run: str,
        record: RoundRecord,
        phases: Timings,
        updates: Sequence[ClientFigures] = (),
    ) -> None:
        """A round has made a model, which is in the checkpoint, of ``updates``."""
        self._events.post(events.RoundClosed(run, record))
        if updates:
            self._events.tell(events.RoundContributions(run, record.version, updates))
        self._events.tell(events.RoundTimed(record.version, phases))

    def judged(
        self, record: RoundRecord, watched: Mapping[str, str], doubts: Sequence[str] = ()
    ) -> None:
        """Say, once until it is otherwise, which figures are NaN, and which of ``watched`` lack.

        ``watched``: metrics that the run is steered by -> the flag that says so; ``doubts``: why
        one of them decides nothing.
        """
        for words in doubts:
            if words not in self._doubts:
                version = record.version
                log.warning("metric_in_doubt", "round to version %d: %s", version, words)
        self._doubts = frozenset(doubts)
        metrics = record.metrics
        broken = frozenset(name for name, value in metrics.items() if not isfinite(value))
        for name in sorted(broken - self._not_finite):
            log.error(
                "metric_not_finite",
                "%s is not a number in the round to version %d: predictions or losses are NaN or"
                " infinite (%s); lower the learning rates, or look at the data there",
                name,
                record.version,
                _whose(record, name),
                version=record.version,
                metric=name,
            )
            self._events.post(events.RoundNotFinite(record.version, name))
        self._not_finite = broken
        missing = frozenset(watched) - set(metrics)
        for name in sorted(missing - self._missing):
            log.error(
                "metric_missing",
                "%s waits for %s, which no client reports in the round to version %d (there is %s):"
                " it cannot choose a version or end the run while that is so",
                watched[name],
                name,
                record.version,
                ", ".join(sorted(metrics)) or "no figure at all",
                version=record.version,
                metric=name,
            )
            self._events.post(events.RoundMetricMissing(record.version, name))
        self._missing = missing

    def _look_at_figures(self, manifest: UpdateManifest) -> None:
        """Say once of a client that it tells its scores too coarsely for them to be pooled."""
        entry, client = manifest.evaluation, manifest.client
        if entry is None or not entry.scores or client in self._coarse:
            return
        error = evaluation_of(entry).tie_error()
        if error > MAX_AUC_ERROR:
            self._coarse.add(client)
            log.warning(
                "coarse_scores",
                "%s counts its scores in %d equal bins, as older versions do: eval_auc may be off"
                " by %.2f; upgrade that client",
                client,
                SCORE_BINS,
                error,
                client=client,
            )

    def diverged(self, version: int, error: Exception) -> None:
        """A round's updates would have spoilt the model."""
        log.error(
            "round_diverged",
            "the round's updates are refused: %s; version %d has the weights of version %d, and the"
            " server optimizer is reset (lower the learning rates)",
            error,
            version + 1,
            version,
            version=version + 1,
        )
        self._events.post(events.RoundDiverged(version + 1, str(error)))

    def found_best(self, best: Best) -> None:
        """A version is better than all before it."""
        log.info("best_version", "version %d is the best so far", best.version, value=best.value)
        self._events.post(events.ModelBest(best.version, best.value))

    def evaluated(self, version: int, figures: Mapping[str, float]) -> None:
        """A version was judged beside the coordinator."""
        told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        log.info("evaluated", "version %d: %s", version, told, version=version, metrics=figures)
        self._events.post(events.ModelEvaluated(version, dict(figures)))

    def final_evaluated(self, version: int, metrics: Mapping[str, float]) -> None:
        """The clients have evaluated the last version."""
        told = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log.info("final_evaluated", "version %d: %s", version, told, version=version)
        self._events.post(events.RunEvaluated(version, dict(metrics)))

    def ends(self, version: int, reason: str) -> None:
        """The run ends with ``version``, for this ``reason``."""
        log.info("run_ends", "version %d is the last: %s", version, reason, version=version)
        self._events.post(events.RunEnds(version, reason))

    def published(self, state: State, model: ModelManifest, phases: Timings) -> None:
        """Every mailbox has the model; ``phases`` of the round that made it, if one did."""
        version = state.version
        self._events.begin(state)
        sent = model.size_bytes
        log.info(
            "model_published", "version %d is published", version, version=version, size_bytes=sent
        )
        kind = events.FederationFinished if model.final else events.ModelPublished
        size_bytes = state.weights.buffer.nbytes
        self._events.post(kind(state.run, version, size_bytes, (0, self._quorum)))
        self._events.tell(events.RoundSent(state.run, version, phases))
        if (origin := state.rolled_back) is not None:
            log.info(
                "rolled_back",
                "version %d has the weights of %s; updates to older versions do not count",
                version,
                origin.source,
                version=version,
            )
            self._events.post(events.ModelRolledBack(state.run, version, origin))

    def link(self, what: type[Link]) -> None:
        """Our connection, or our place among the coordinators, is another one now."""
        self._events.tell(what())

    def stalled(self, error: OSError) -> None:
        """The checkpoint's disk does not take what must be on it."""
        log.warning(
            "disk_full",
            "the checkpoint folder cannot be written (%s); nothing is folded until it can, updates"
            " wait in the broker",
            error,
        )
        self._events.post(events.CoordinatorStalled(str(error)))

    def keeper_missing(self, version: int, seconds: float) -> None:
        """The keeper has not answered for the round that makes ``version``."""
        words = (
            f"the keeper has not answered for {seconds:.0f} s, and without it version {version}"
            " cannot be made; nothing is lost: start it, or look at its log"
        )
        log.warning("keeper_missing", "%s", words, version=version)
        self._events.post(events.CoordinatorStalled(words))

    def keeper_answered(self) -> None:
        """It has, after all."""
        log.info("keeper_answered", "the keeper has answered; going on")
        self._events.post(events.CoordinatorRecovered())

    def recovered(self) -> None:
        """There is room again."""
        log.info("disk_recovered", "there is room again; going on")
        self._events.post(events.CoordinatorRecovered())

    def stopped(self) -> None:
        """The coordinator ends, having been asked to or done."""
        self._events.post(events.CoordinatorStopped())


def _whose(record: RoundRecord, metric: str) -> str:
    """Clients whose own figure of that name is none."""
    found = [
        client
        for client, report in (record.clients or {}).items()
        if not isfinite(report.metrics.get(metric, 0.0))
    ]
    return "at " + ", ".join(found[:5]) + (", …" if len(found) > 5 else "") if found else "pooled"
