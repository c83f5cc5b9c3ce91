"""What Prometheus is shown of a keeper: a listener."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from keeper_worker.runtime import events
from keeper_worker.runtime.events import Event
from warren_shared.observability.prometheus import Meters, View

Takes = Mapping[type[Event], Callable[[Any], None]]  # each takes events of its class

SUM_S: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """The metrics of a keeper; ``meters`` has them."""

    def __init__(self, federation: str, view: View | None = None) -> None:
        self.meters = meters = Meters({"federation": federation})
        self._view = view
        self._sums = meters.counter("warren_keeper_sums", "sums of masks that were given away")
        self._updates = meters.counter("warren_keeper_updates", "updates whose masks are in sums")
        self._bytes = meters.counter("warren_keeper_sum_bytes", "bytes of the sums")
        self._seconds = meters.histogram(
            "warren_keeper_sum_duration_seconds", "adding up the masks of a sum, with noise", SUM_S
        )
        self._refused = meters.counters(
            "warren_keeper_requests_refused", "requests that got no sum, by reason", "reason"
        )
        self._dropped = meters.counters(
            "warren_keeper_seeds_dropped", "seeds that are of no use, by reason", "reason"
        )
        self._waiting = meters.gauge(
            "warren_keeper_seeds_waiting", "seeds that are in no sum yet, or in the newest"
        )
        self._connected = meters.gauge("warren_keeper_connected", "1 while connected to the broker")
        self._lost = meters.counter("warren_keeper_disconnects", "times that the broker was lost")
        self._takes: Takes = {
            events.SumGiven: self._given,
            events.RequestRefused: lambda event: self._refused.one(event.reason).inc(),
            events.SeedDropped: lambda event: self._dropped.one(event.reason).inc(),
            events.SeedsWaiting: lambda event: self._waiting.set(event.count),
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

    def _given(self, event: events.SumGiven) -> None:
        self._sums.inc()
        self._updates.inc(event.updates)
        self._bytes.inc(event.size_bytes)
        self._seconds.observe(event.seconds)

    def _is_lost(self) -> None:
        self._connected.set(0)
        self._lost.inc()
