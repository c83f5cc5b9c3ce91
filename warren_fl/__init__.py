"""A federation from Python: a broker, a coordinator and clients, as long as a block lasts.

    from warren_fl import Federation

    with Federation("my_task:site", clients=4, quorum=3) as federation:
        result = federation.run(rounds=20)

Tasks are made with what `client_worker` exports; events are those of
`coordinator_worker.monitoring.events`.
"""

from typing import TYPE_CHECKING, Any

from warren_shared.errors import ConfigError, WarrenError
from warren_shared.observability.event_bus import Listener

if TYPE_CHECKING:
    from warren_fl.federation import Federation
    from warren_fl.result import Result
    from warren_fl.run import FederationFailed, Run

__all__ = [
    "ConfigError",
    "Federation",
    "FederationFailed",
    "Listener",
    "Result",
    "Run",
    "WarrenError",
]

_ON_DEMAND = {
    "Federation": "warren_fl.federation",
    "FederationFailed": "warren_fl.run",
    "Result": "warren_fl.result",
    "Run": "warren_fl.run",
}


def __getattr__(name: str) -> Any:
    """Import on demand, since the processes that are started here need little of it."""
    if name in _ON_DEMAND:
        from importlib import import_module

        return getattr(import_module(_ON_DEMAND[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
