"""Where a worker's metrics are seen, as its settings say; what is not enabled is not imported."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from warren_shared.observability.prometheus import Endpoint, View, Views


class ViewSettings(Protocol):
    """What a worker's settings say of it."""

    metrics_port: int
    metrics_address: str
    otel_metrics: bool

    @property
    def federation(self) -> str:
        """Its name."""
        ...


def endpoint(settings: ViewSettings) -> "Endpoint | None":
    """The port that Prometheus asks, if there is to be one; raises ConfigError if it is taken."""
    if not settings.metrics_port:
        return None
    from warren_shared.observability.prometheus import Endpoint

    return Endpoint(settings.metrics_address, settings.metrics_port)


def views(
    settings: ViewSettings,
    service: str,
    asked: "Callable[[], Endpoint | None] | None" = None,
) -> "Views | None":
    """All of them for ``service``, its name at a collector; None if nobody looks.

    ``asked`` makes the port that Prometheus asks, if that is not `endpoint`.

    Raises:
        ConfigError: the port of the metrics is taken, or an extra is not installed.
    """
    port = endpoint(settings) if asked is None else asked()
    found: list[View] = [] if port is None else [port]
    if settings.otel_metrics:
        from warren_shared.observability.otlp_metrics import OtlpMetrics

        found.append(OtlpMetrics(service, settings.federation))
    if not found:
        return None
    from warren_shared.observability.prometheus import Views

    return Views(found)
