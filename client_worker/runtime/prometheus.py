"""What Prometheus is shown of a client, or of the many that share a process: a listener."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from client_worker.runtime import events
from client_worker.runtime.events import Event, OfClient
from warren_shared.observability.prometheus import Few, Meters, View

Takes = Mapping[type[Event], Callable[[Any], None]]  # each takes events of its class

MAX_CLIENTS: Final = 100  # with series of their own in one process
MAX_METRICS: Final = 64
TRAINING_S: Final = (0.1, 0.3, 1, 3, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
PUBLISH_S: Final = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The metrics of a client worker; ``meters`` has them."""

    def __init__(self, federation: str, view: View | None = None) -> None:
        self.meters = meters = Meters({"federation": federation})
        self._view = view
        self._few = Few(MAX_CLIENTS)
        gauges, counters, histograms = meters.gauges, meters.counters, meters.histograms
        self._version = gauges(
            "warren_client_model_version", "version of the newest model that came", "client"
        )
        self._received = counters(
            "warren_client_model_bytes", "bytes of the models that came whole", "client"
        )
        self._training = histograms(
            "warren_client_training_duration_seconds",
            "training from one model, evaluation included",
            TRAINING_S,
            "client",
        )
        self._lag = gauges(
            "warren_client_lag_versions",
            "how many versions came while the last update was trained",
            "client",
        )
        self._publish = histograms(
            "warren_client_publish_duration_seconds",
            "an update, from its first message to the broker's last confirm",
            PUBLISH_S,
            "client",
        )
        self._confirmed = counters(
            "warren_client_updates_confirmed", "updates that the broker has on disk", "client"
        )
        self._sent = counters(
            "warren_client_update_bytes", "bytes of the updates that are confirmed", "client"
        )
        self._rejected = counters(
            "warren_client_updates_rejected",
            "updates that the coordinator rejected, by reason",
            "client",
            "reason",
        )
        self._late = counters(
            "warren_client_updates_late", "updates too late to be worth sending", "client"
        )
        self._figures = gauges(
            "warren_client_metric",
            f"a metric of the last update, the first {MAX_METRICS} names",
            "client",
            "name",
        )
        self._connected = meters.gauge("warren_client_connected", "1 while connected to the broker")
        self._lost = meters.counter("warren_client_disconnects", "times that the broker was lost")
        self._takes: Takes = {
            events.ModelReceived: self._has_come,
            events.UpdateTrained: self._trained,
            events.UpdateLate: lambda event: self._late.one(self._name(event)).inc(),
            events.UpdateConfirmed: self._is_confirmed,
            events.UpdateRejected: self._is_rejected,
            events.LinkConnected: lambda _: self._connected.set(1),
            events.LinkLost: lambda _: self._is_lost(),
        }
        if view is not None:
            view.show(meters.registry)

    def on_event(self, event: Event) -> None:
        """Count, set and observe."""
        if take := self._takes.get(type(event)):
            take(event)

    def close(self) -> None:
        """Show no more."""
        if self._view is not None:
            self._view.close()

    def _name(self, event: OfClient) -> str:
        return self._few.label(event.client)

    def _has_come(self, event: events.ModelReceived) -> None:
        self._version.one(self._name(event)).set(event.version)
        self._received.one(self._name(event)).inc(event.size_bytes)

    def _trained(self, event: events.UpdateTrained) -> None:
        client = self._name(event)
        self._training.one(client).observe(event.phases.seconds("train"))
        self._lag.one(client).set(event.lag)
        for name in sorted(event.metrics)[:MAX_METRICS]:
            self._figures.one(client, name).set(event.metrics[name])

    def _is_confirmed(self, event: events.UpdateConfirmed) -> None:
        client = self._name(event)
        self._publish.one(client).observe(event.phases.seconds("publish"))
        self._confirmed.one(client).inc()
        self._sent.one(client).inc(event.size_bytes)

    def _is_rejected(self, event: events.UpdateRejected) -> None:
        self._rejected.one(self._name(event), event.reason).inc()

    def _is_lost(self) -> None:
        self._connected.set(0)
        self._lost.inc()
