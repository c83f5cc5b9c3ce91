"""Who listens to a client, as its settings say; what is not enabled is not imported."""

from client_worker.runtime.events import Event
from client_worker.settings import ClientSettings
from warren_shared.config.listeners import from_words
from warren_shared.observability.event_bus import Listener as AnyListener
from warren_shared.observability.views import views

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
    if (seen := views(settings, "warren-client")) is not None:
        from client_worker.runtime.prometheus import Metrics

        found.append(Metrics(settings.federation, seen))
    return [*found, *from_words(settings.listen)]
