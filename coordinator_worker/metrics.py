"""A federation in Prometheus' terms: what its events say, as counters, gauges and histograms.

Nothing else feeds these figures than the events that `watch` shows, so the two cannot disagree.
There is no label with a client's name: there may be a million.
"""

from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.metrics import SECONDS, registry

STALENESS: Final = (0, 1, 2, 3, 5, 8, 13, 21)
STATUSES: Final = ("in", "late", "gone", "silent")


class Metrics:
    """``feed`` takes each event; ``registry`` is what Prometheus reads."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = registry()
        self._declare_rounds()
        self._declare_updates()
        self._declare_people()

    def _declare_rounds(self) -> None:
        to = self.registry
        self.version = Gauge(
            "warren_model_version", "Version of the newest global model", registry=to
        )
        self.model_bytes = Gauge("warren_model_bytes", "Size of the global model", registry=to)
        self.rounds = Counter("warren_rounds", "Rounds closed", registry=to)
        self.diverged = Counter(
            "warren_rounds_diverged",
            "Rounds refused since their model would not be finite",
            registry=to,
        )
        self.overdue = Counter("warren_rounds_overdue", "Deadlines that passed", registry=to)
        self.duration = Histogram(
            "warren_round_duration_seconds",
            "From the begin of a round to its end",
            buckets=SECONDS,
            registry=to,
        )
        self.checkpoint = Histogram(
            "warren_checkpoint_duration_seconds",
            "Writing a checkpoint to the disk",
            buckets=SECONDS,
            registry=to,
        )
        self.publish = Histogram(
            "warren_publish_duration_seconds",
            "From the end of a round until the broker has confirmed its model",
            buckets=SECONDS,
            registry=to,
        )
        self.closed_at = Gauge(
            "warren_last_round_timestamp_seconds", "When the newest round was closed", registry=to
        )
        self.stalled = Gauge(
            "warren_coordinator_stalled", "1 while the checkpoint cannot be written", registry=to
        )

    def _declare_updates(self) -> None:
        to = self.registry
        self.have = Gauge("warren_round_updates", "Updates in the round that is open", registry=to)
        self.need = Gauge("warren_round_quorum", "Updates that close a round", registry=to)
        self.accepted = Counter("warren_updates_accepted", "Updates folded", registry=to)
        self.rejected = Counter(
            "warren_updates_rejected", "Updates rejected", ["reason"], registry=to
        )
        self.incomplete = Counter(
            "warren_updates_incomplete", "Updates dropped half-way", registry=to
        )
        self.update_bytes = Counter("warren_update_bytes", "Bytes of updates folded", registry=to)
        self.norm = Gauge(
            "warren_update_norm_median", "Median L2 norm of the newest round's updates", registry=to
        )
        self.staleness = Histogram(
            "warren_update_staleness_versions",
            "How many versions late updates were",
            buckets=STALENESS,
            registry=to,
        )

    def _declare_people(self) -> None:
        to = self.registry
        self.joined = Counter("warren_clients_joined", "Times that clients joined", registry=to)
        self.flooding = Counter("warren_clients_flooding", "Floods begun", registry=to)
        self.clients = Gauge(
            "warren_clients",
            "Clients by where they stand at the newest model",
            ["status"],
            registry=to,
        )
        self.share = Gauge(
            "warren_data_share_ratio",
            "Share of all examples that they stand for",
            ["status"],
            registry=to,
        )
        self.metric = Gauge(
            "warren_metric", "What clients report, over all of them", ["name"], registry=to
        )

    def feed(self, event: Mapping[str, Any]) -> None:
        """Count one event."""
        topic = str(event["event"])
        kind = ".".join(topic.split(".")[:2])
        match kind:
            case "update.accepted":
                self._accepted(event)
            case "update.rejected":
                self.rejected.labels(event["reason"]).inc()
            case "round.closed":
                self._closed(event)
            case "model.published" | "federation.finished":
                self.version.set(event["version"])
                self.model_bytes.set(event["bytes"])
                self._quorum(event)
                if event["seconds"] is not None:
                    self.publish.observe(event["seconds"])
            case "model.evaluated":
                for name, value in event["metrics"].items():
                    self.metric.labels(name).set(value)
            case _:
                self._other(kind, event)

    def _other(self, kind: str, event: Mapping[str, Any]) -> None:
        match kind:
            case "client.joined":
                self.joined.inc()
            case "client.flooding":
                self.flooding.inc()
            case "round.diverged":
                self.diverged.inc()
            case "round.overdue":
                self.overdue.inc()
                self._quorum(event)
            case "coordinator.stalled":
                self.stalled.set(1)
            case "coordinator.recovered":
                self.stalled.set(0)

    def _quorum(self, event: Mapping[str, Any]) -> None:
        have, need = event["quorum"]
        self.have.set(have)
        self.need.set(need)

    def _accepted(self, event: Mapping[str, Any]) -> None:
        self.accepted.inc()
        self.update_bytes.inc(event["bytes"])
        self.staleness.observe(event["staleness"])
        self._quorum(event)

    def _closed(self, event: Mapping[str, Any]) -> None:
        self.rounds.inc()
        self.duration.observe(event["seconds"])
        self.checkpoint.observe(event["checkpoint_seconds"])
        self.closed_at.set(event["time"])
        self.incomplete.inc(event["incomplete"])
        self.norm.set(event["norm"])
        for name, value in event["metrics"].items():
            self.metric.labels(name).set(value)
        for status in STATUSES:
            found = event["participation"].get(status, {"clients": 0, "data_share": 0.0})
            self.clients.labels(status).set(found["clients"])
            self.share.labels(status).set(found["data_share"])
