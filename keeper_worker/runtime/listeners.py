"""Who listens to a keeper, as its settings say; what is not enabled is not imported."""

from keeper_worker.runtime.events import Event
from keeper_worker.settings import KeeperSettings
from warren_shared.observability.event_bus import Listener as AnyListener

Listener = AnyListener[Event]


def from_settings(settings: KeeperSettings) -> list[Listener]:
    """The listeners.

    Raises:
        ConfigError: the port of the metrics is taken.
    """
    if not settings.metrics_port:
        return []
    from keeper_worker.runtime.prometheus import Metrics
    from warren_shared.observability.prometheus import Endpoint

    endpoint = Endpoint(settings.metrics_address, settings.metrics_port)
    return [Metrics(settings.federation, endpoint)]
