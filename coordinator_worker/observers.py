"""Who hears of a federation's events in this process: metrics, traces."""

from typing import TYPE_CHECKING, Any

from coordinator_worker.settings import CoordinatorSettings

if TYPE_CHECKING:
    from coordinator_worker.events import Observe


class Observers:
    """Those that ``settings`` ask for; their libraries are imported only then.

    Raises ConfigError if one is not installed, or the port for metrics that was named is taken.
    """

    def __init__(self, settings: CoordinatorSettings) -> None:
        self._traces: Any = None
        self.observe: list[Observe] = []
        if settings.metrics_port:
            self._serve_metrics(settings)
        if settings.traces:
            from coordinator_worker.spans import Spans

            self._traces = Spans(settings.federation)
            self.observe.append(self._traces.feed)

    def _serve_metrics(self, settings: CoordinatorSettings) -> None:
        from coordinator_worker.metrics import Metrics
        from shared.metrics import serve

        metrics = Metrics()
        needed = "metrics_port" in settings.model_fields_set
        if serve(metrics.registry, settings.metrics_address, settings.metrics_port, needed=needed):
            self.observe.append(metrics.feed)

    def close(self) -> None:
        """Nothing more will come."""
        if self._traces is not None:
            self._traces.close()
