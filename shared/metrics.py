"""An endpoint for Prometheus, on a thread of its own."""

from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from shared.errors import ConfigError
from shared.log import Log

log = Log(__name__)

# The round times, trainings and checkpoints that people have: a millisecond to an hour.
SECONDS: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3600)


def registry() -> CollectorRegistry:
    """A new registry, with what the operating system says of this process."""
    found = CollectorRegistry()
    ProcessCollector(registry=found)
    return found


def serve(found: CollectorRegistry, address: str, port: int, *, needed: bool) -> bool:
    """Serve ``found`` at http://address:port/metrics; whether that could be done.

    Raises ConfigError if it is ``needed`` and cannot.
    """
    try:
        start_http_server(port, address, found)
    except OSError as error:
        said = f"metrics cannot be served at {address}:{port} ({error.strerror or error})"
        if needed:
            raise ConfigError(f"{said}: give another --metrics-port, or 0 for none") from None
        log.info("metrics_off", "%s; going on without, see --metrics-port", said)
        return False
    log.info("metrics_on", "metrics are at http://%s:%d/metrics", address, port, port=port)
    return True
