"""Who listens to a client, as its settings say; what is not enabled is not imported."""

from typing import TYPE_CHECKING

from client_worker.runtime.events import Event
from client_worker.settings import ClientSettings
from warren_shared.config.listeners import from_words
from warren_shared.observability.event_bus import Listener as AnyListener

if TYPE_CHECKING:
    from warren_shared.observability.prometheus import View

Listener = AnyListener[Event]


def from_settings(settings: ClientSettings) -> list[Listener]:
    """The listeners.

    Raises:
        ConfigError: the port of the metrics is taken, or an extra is not installed.
    """
    found: list[Listener] = []
    if settings.traces:
        from client_worker.runtime.traces import Spans

        found.append(Spans(settings.federation))
    views: list[View] = []
    if settings.metrics_port:
        from warren_shared.observability.prometheus import Endpoint

        views.append(Endpoint(settings.metrics_address, settings.metrics_port))
    if settings.otel_metrics:
        from warren_shared.observability.otlp_metrics import OtlpMetrics

        views.append(OtlpMetrics("warren-client", settings.federation))
    if views:
        from client_worker.runtime.prometheus import Metrics
        from warren_shared.observability.prometheus import Views

        found.append(Metrics(settings.federation, Views(views)))
    return [*found, *from_words(settings.listen)]
