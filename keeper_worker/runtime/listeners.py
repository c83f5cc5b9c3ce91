"""Who listens to a keeper, as its settings say; what is not enabled is not imported."""

from typing import TYPE_CHECKING

from keeper_worker.runtime.events import Event
from keeper_worker.settings import KeeperSettings
from warren_shared.observability.event_bus import Listener as AnyListener

if TYPE_CHECKING:
    from warren_shared.observability.prometheus import View

Listener = AnyListener[Event]


def from_settings(settings: KeeperSettings) -> list[Listener]:
    """The listeners.

    Raises:
        ConfigError: the port of the metrics is taken, or an extra is not installed.
    """
    views: list[View] = []
    if settings.metrics_port:
        from warren_shared.observability.prometheus import Endpoint

        views.append(Endpoint(settings.metrics_address, settings.metrics_port))
    if settings.otel_metrics:
        from warren_shared.observability.otlp_metrics import OtlpMetrics

        views.append(OtlpMetrics("warren-keeper", settings.federation))
    if not views:
        return []
    from keeper_worker.runtime.prometheus import Metrics
    from warren_shared.observability.prometheus import Views

    return [Metrics(settings.federation, Views(views))]
