"""Who listens to a coordinator, as its settings say; what is not enabled is not imported."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coordinator_worker.monitoring.events import Event
from coordinator_worker.settings import CoordinatorSettings
from warren_shared.config.listeners import from_words
from warren_shared.errors import ConfigError
from warren_shared.observability.event_bus import Listener as AnyListener
from warren_shared.observability.log import Log
from warren_shared.observability.views import endpoint, views

if TYPE_CHECKING:
    from warren_shared.observability.prometheus import Endpoint

Listener = AnyListener[Event]

log = Log(__name__)


def from_settings(settings: CoordinatorSettings) -> list[Listener]:
    """The listeners.

    Raises:
        ConfigError: the port of the metrics is taken, or an extra is not installed.
    """
    found = [_metrics(settings), _spans(settings), _curves(settings)]
    ours = [listener for listener in found if listener is not None]
    return [*ours, *_trackers(settings), *from_words(settings.listen)]


def _metrics(settings: CoordinatorSettings) -> Listener | None:
    seen = views(settings, "warren-coordinator", lambda: _endpoint(settings))
    if seen is None:
        return None
    from coordinator_worker.monitoring.prometheus import Metrics

    return Metrics.from_settings(settings, seen)


def _endpoint(settings: CoordinatorSettings) -> "Endpoint | None":
    try:
        return endpoint(settings)
    except ConfigError as error:
        if "metrics_port" in settings.model_fields_set:
            raise
        # A second coordinator on one machine is no reason not to coordinate.
        log.info("metrics_off", "no metrics: %s", error)
        return None


def _spans(settings: CoordinatorSettings) -> Listener | None:
    if not settings.traces:
        return None
    from coordinator_worker.monitoring.traces import Spans

    return Spans(settings.federation)


def _trackers(settings: CoordinatorSettings) -> Sequence[Listener]:
    if settings.mlflow is None and settings.wandb is None:
        return ()
    from coordinator_worker.monitoring import trackers

    return trackers.from_settings(settings)


def _curves(settings: CoordinatorSettings) -> Listener | None:
    if settings.tensorboard is None:
        return None
    from coordinator_worker.monitoring.tensorboard import Curves

    return Curves(settings.tensorboard, clients=settings.client_curves)
