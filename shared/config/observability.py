"""Settings of those who watch a worker from outside: Prometheus, OpenTelemetry."""

from typing import Annotated, ClassVar, Final

from pydantic import BeforeValidator, Field

from warren_shared.config.settings_model import Settings, Words

TITLE: Final = "metrics and traces"


OTEL_METRICS: Final = (
    "send the metrics that Prometheus finds to that collector, too, every"
    " OTEL_METRIC_EXPORT_INTERVAL milliseconds (default there: 60000); needs the extra `traces`"
)


def _off_as_zero(value: object) -> object:
    return 0 if isinstance(value, str) and value.lower() in ("off", "none") else value


# 0 or off: no endpoint.
MetricsPort = Annotated[int, BeforeValidator(_off_as_zero)]


class ObservingSettings(Settings):
    """What both workers are told beside the port, whose default is each one's own."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        TITLE: ("metrics_port", "metrics_address", "traces", "otel_metrics", "listen")
    }

    metrics_address: str = Field(
        "127.0.0.1",
        description="address on which Prometheus may ask, such as 0.0.0.0 for any; all who reach"
        " it read the metrics, names of clients included",
    )
    traces: bool = Field(
        False,
        description="send spans of each round to the OpenTelemetry collector that"
        " OTEL_EXPORTER_OTLP_ENDPOINT names (default there: http://localhost:4318); needs the extra"
        " `traces`",
    )
    otel_metrics: bool = Field(False, description=OTEL_METRICS)
    listen: Words = Field(
        (),
        description="a listener of your own, as package.module:attribute, that gets this worker's"
        " events (docs/hooks.md); repeatable",
        json_schema_extra={"metavar": "MODULE:ATTRIBUTE"},
    )
