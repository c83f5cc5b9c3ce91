"""What Prometheus is shown of a federation: a listener to what the coordinator says happens."""

from collections.abc import Callable, Mapping
from math import nan
from time import time
from typing import Any, Final

from coordinator_worker.monitoring import events
from coordinator_worker.monitoring.events import Event
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.roster import Status, StatusTotal
from warren_shared.observability.prometheus import OTHER, Few, Meters, View

MAX_CLIENTS: Final = 100  # with series of their own
MAX_METRICS: Final = 64  # names that clients make up
STALENESS: Final = (0, 1, 2, 3, 5, 8, 13, 21, 50, 100)
ROUND_S: Final = (0.1, 0.3, 1, 3, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
WORK_S: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
STATUSES: Final[tuple[Status, ...]] = (
    "in", "late", "gone", "silent", "rejected", "unseen"
)  # fmt: skip


class Metrics:
    """The metrics of one coordinator; ``meters`` has them."""

    def __init__(self, federation: str, quorum: int, view: View | None = None) -> None:
        self.meters = Meters({"federation": federation})
        self._view = view
        self._progress = _Progress(self.meters, quorum)
        self._updates = _Updates(self.meters)
        self._members = _Members(self.meters)
        self._learned = _Learned(self.meters)
        self._health = _Health(self.meters)
        if view is not None:
            view.show(self.meters.registry)

    @classmethod
    def from_settings(cls, settings: CoordinatorSettings, view: View) -> "Metrics":
        """As ``settings`` say, to be seen in ``view``."""
        return cls(settings.federation, settings.quorum, view)

    def on_event(self, event: Event) -> None:
        """Count, set and observe."""
        parts = (self._progress, self._updates, self._members, self._learned, self._health)
        for part in parts:
            if take := part.takes.get(type(event)):
                take(event)

    def close(self) -> None:
        """Show no more."""
        if self._view is not None:
            self._view.close()


Takes = Mapping[type[Event], Callable[[Any], None]]  # each takes events of its class


class _Progress:
    """Versions and rounds."""

    def __init__(self, meters: Meters, quorum: int) -> None:
        gauge, gauges, counter = meters.gauge, meters.gauges, meters.counter
        self._version = gauges("warren_model_version", "version of the newest global model")
        self._bytes = gauges("warren_model_bytes", "size of its weights")
        self._sent = gauges(
            "warren_model_sent_bytes", "bytes of it as each client gets it (`--downlink`)"
        )
        self._epsilon = gauges(
            "warren_privacy_epsilon", "epsilon of each client that a private run has spent"
        )
        self._promised = gauges(
            "warren_privacy_epsilon_promised", "what it will have spent in the end"
        )
        self._last_sent: int | None = None  # of the round that closed last
        self._published = gauges(
            "warren_model_published_timestamp_seconds",
            "when every mailbox had it, seconds since 1970",
        )
        self._have = gauge("warren_quorum_updates", "updates in the round in progress")
        self._need = gauge("warren_quorum_required", "updates that close a round")
        self._need.set(quorum)
        self._round = meters.histogram(
            "warren_round_duration_seconds",
            "from the beginning of a round, which is the end of the last one, to its quorum",
            ROUND_S,
        )
        self._overdue = counter("warren_rounds_overdue", "rounds that lasted beyond `--deadline-s`")
        self._diverged = counter(
            "warren_rounds_diverged", "rounds whose model would not have been finite"
        )
        self.takes: Takes = {
            events.UpdateAccepted: self._accepted,
            events.RoundClosed: self._closed,
            events.RoundOverdue: lambda _: self._overdue.inc(),
            events.RoundDiverged: lambda _: self._diverged.inc(),
            events.ModelPublished: self._is_out,
            events.FederationFinished: self._is_out,
        }

    def _accepted(self, event: events.UpdateAccepted) -> None:
        self._have.set(event.quorum[0])

    def _closed(self, event: events.RoundClosed) -> None:
        self._have.set(0)
        self._round.observe(event.record.seconds)
        self._last_sent = event.record.bytes_down
        if (privacy := event.record.privacy) is not None:
            self._epsilon.one().set(privacy.epsilon)
            self._promised.one().set(privacy.promised)

    def _is_out(self, event: events.ModelPublished) -> None:
        self._version.one().set(event.version)
        self._bytes.one().set(event.size_bytes)
        sent, self._last_sent = self._last_sent, None
        self._sent.one().set(event.size_bytes if sent is None else sent)
        self._published.one().set(time())


class _Updates:
    """What comes from clients, and the work that it makes."""

    def __init__(self, meters: Meters) -> None:
        counter, histogram = meters.counter, meters.histogram
        self._accepted = counter("warren_updates_accepted", "updates that are part of a round")
        self._rejected = meters.counters(
            "warren_updates_rejected", "rejected messages, by reason", "reason"
        )
        self._incomplete = counter("warren_updates_incomplete", "updates that stopped half-way")
        self._bytes = counter("warren_update_bytes", "bytes of the weight deltas in rounds")
        self._raw_bytes = counter(
            "warren_update_raw_bytes", "what they would have been without `--uplink`"
        )
        self._staleness = histogram(
            "warren_update_staleness_versions",
            "how many versions older than the newest the model was that an update was trained from",
            STALENESS,
        )
        self._norm = meters.gauge(
            "warren_update_norm",
            "median of the L2 norms of the last round's updates, NaN if hidden",
        )
        self._fold = counter("warren_fold_seconds", "time spent adding updates to the sum")
        self._aggregate = histogram(
            "warren_aggregate_duration_seconds",
            "aggregator and server optimizer, from quorum to the next model",
            WORK_S,
        )
        self._checkpoint = histogram(
            "warren_checkpoint_duration_seconds", "a checkpoint, until it is on the disk", WORK_S
        )
        self._publish = histogram(
            "warren_publish_duration_seconds",
            "a model, from its first message to the broker's last confirm, checkpoint included",
            WORK_S,
        )
        self.takes: Takes = {
            events.UpdateAccepted: self._take,
            events.UpdateRejected: self._is_rejected,
            events.UpdateFlooded: self._is_rejected,
            events.RoundClosed: self._closed,
            events.RoundTimed: self._timed,
            events.RoundSent: self._sent,
        }

    def _take(self, event: events.UpdateAccepted) -> None:
        self._accepted.inc()
        self._bytes.inc(event.size_bytes)
        if event.staleness is not None:  # the coordinator's own always say it
            self._staleness.observe(event.staleness)

    def _is_rejected(self, event: events.UpdateRejected | events.UpdateFlooded) -> None:
        self._rejected.one(event.reason).inc()

    def _closed(self, event: events.RoundClosed) -> None:
        self._incomplete.inc(event.record.incomplete)
        self._raw_bytes.inc(event.record.raw_bytes_up or event.record.bytes_up)
        self._norm.set(event.record.norm if event.record.knows("norm") else nan)

    def _timed(self, event: events.RoundTimed) -> None:
        phases = event.phases
        self._fold.inc(phases.seconds("fold"))
        self._aggregate.observe(phases.seconds("aggregate"))
        self._checkpoint.observe(phases.seconds("checkpoint"))

    def _sent(self, event: events.RoundSent) -> None:
        if seconds := event.phases.seconds("publish"):
            self._publish.observe(seconds)


class _Members:
    """Who takes part. The first MAX_CLIENTS clients have series of their own."""

    def __init__(self, meters: Meters) -> None:
        self._joins = meters.counter("warren_client_joins", "times that a client said it is there")
        self._floods = meters.counter(
            "warren_floods", "times that a client's rejections were only counted"
        )
        self._clients = meters.gauges(
            "warren_clients",
            "clients by how they take part: in the newest model, late (up to ten rounds behind),"
            " gone, silent since they joined, rejected altogether, or enrolled and never seen",
            "status",
        )
        self._share = meters.gauges(
            "warren_participation_data_share",
            "share of all examples that the clients of a status have, 0 to 1",
            "status",
        )
        self._few = Few(MAX_CLIENTS)
        named = f"by client, the first {MAX_CLIENTS}; then `{OTHER}`"
        self._contributed = meters.counters(
            "warren_member_updates", f"updates that are part of a round, {named}", "client"
        )
        only = f"by client, the first {MAX_CLIENTS}"
        self._seen = meters.gauges(
            "warren_member_last_update_timestamp_seconds",
            f"when a client's newest update was taken, seconds since 1970, {only}",
            "client",
        )
        self._base = meters.gauges(
            "warren_member_base_version",
            f"version that a client's newest update was trained from, {only}",
            "client",
        )
        self._norm = meters.gauges(
            "warren_member_update_norm",
            f"L2 norm of a client's newest update in a model, {only}",
            "client",
        )
        self.takes: Takes = {
            events.ClientJoined: lambda _: self._joins.inc(),
            events.ClientFlooding: lambda _: self._floods.inc(),
            events.UpdateAccepted: self._accepted,
            events.RoundClosed: self._closed,
            events.RoundTimed: self._timed,
        }

    def _accepted(self, event: events.UpdateAccepted) -> None:
        client = self._few.label(event.client)
        self._contributed.one(client).inc()
        if client != OTHER:
            self._seen.one(client).set(time())
            self._base.one(client).set(event.base_version)

    def _timed(self, event: events.RoundTimed) -> None:
        for phase in event.phases.done:
            if phase.name == "fold":
                client, norm = self._few.label(phase.about["client"]), phase.about.get("norm")
                if client != OTHER and norm is not None:  # which a private run does not tell
                    self._norm.one(client).set(norm)

    def _closed(self, event: events.RoundClosed) -> None:
        standings = event.record.participation or {}
        for status in STATUSES:
            total = standings.get(status, StatusTotal())
            self._clients.one(status).set(total.clients)
            self._share.one(status).set(total.data_share)


class _Learned:
    """How good the model is."""

    def __init__(self, meters: Meters) -> None:
        about = (
            "a metric of the model: `source` is `clients` for what they report, pooled or averaged"
            f" by examples (the first {MAX_METRICS} names), `evaluation` for `--evaluate`"
        )
        self._figures = meters.gauges("warren_metric", about, "source", "name")
        self._sites = meters.gauges(
            "warren_metric_of_sites",
            "the lowest and the highest (`end`) that single clients report of a metric",
            "name",
            "end",
        )
        self._best = meters.gauges("warren_best_version", "version that `--monitor` found best")
        self._best_value = meters.gauges("warren_best_value", "its monitored metric")
        self._shown: dict[str, list[str]] = {}
        self.takes: Takes = {
            events.RoundClosed: self._closed,
            events.ModelEvaluated: lambda event: self._set("evaluation", event.metrics),
            events.ModelBest: self._found,
        }

    def _closed(self, event: events.RoundClosed) -> None:
        self._set("clients", event.record.metrics)
        shown = set(self._shown["clients"])
        sites = {n: found for n, found in (event.record.sites or {}).items() if n in shown}
        for name, found in sites.items():
            self._sites.one(name, "lowest").set(found.low)
            self._sites.one(name, "highest").set(found.high)
        self._sites.keep_only((name, end) for name in sites for end in ("lowest", "highest"))

    def _set(self, source: str, figures: Mapping[str, float]) -> None:
        before = self._shown.get(source, ())
        # Or one client that makes up names could push out those that somebody looks at.
        names = sorted(figures, key=lambda name: (name not in before, name))[:MAX_METRICS]
        self._shown = self._shown | {source: names}
        for name in names:
            self._figures.one(source, name).set(figures[name])
        self._figures.keep_only((of, name) for of, names in self._shown.items() for name in names)

    def _found(self, event: events.ModelBest) -> None:
        self._best.one().set(event.version)
        self._best_value.one().set(event.value)


class _Health:
    """What an operator is woken for."""

    def __init__(self, meters: Meters) -> None:
        self._stalled = meters.gauge(
            "warren_checkpoint_stalled", "1 while the checkpoint folder cannot be written"
        )
        self._connected = meters.gauge("warren_broker_connected", "1 while connected")
        self._active = meters.gauge(
            "warren_coordinator_active", "1 if this coordinator is the one that makes rounds"
        )
        self._lost = meters.counter("warren_broker_disconnects", "times that the broker was lost")
        self.takes: Takes = {
            events.CoordinatorStalled: lambda _: self._stalled.set(1),
            events.CoordinatorRecovered: lambda _: self._stalled.set(0),
            events.LinkConnected: lambda _: self._connected.set(1),
            events.LinkActive: lambda _: self._active.set(1),
            events.LinkStandby: lambda _: self._active.set(0),
            events.LinkLost: lambda _: self._is_lost(),
        }

    def _is_lost(self) -> None:
        self._connected.set(0)
        self._active.set(0)
        self._lost.inc()
