"""Who listens to a keeper, as its settings say; what is not enabled is not imported."""

from keeper_worker.runtime.events import Event
from keeper_worker.settings import KeeperSettings
from warren_shared.observability.event_bus import Listener as AnyListener
from warren_shared.observability.views import views

Listener = AnyListener[Event]


def from_settings(settings: KeeperSettings) -> list[Listener]:
    """The listeners.

    Raises:
        ConfigError: the port of the metrics is taken, or an extra is not installed.
    """
    if (seen := views(settings, "warren-keeper")) is None:
        return []
    from keeper_worker.runtime.prometheus import Metrics

    return [Metrics(settings.federation, seen)]
