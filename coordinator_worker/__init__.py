"""The coordinator: validates updates, folds them, closes rounds, sends the global model.

An aggregator or a server optimizer of your own is an `Aggregator` or a `ServerOptimizer`; a
`Listener` gets the events of `coordinator_worker.monitoring.events`.
"""

from coordinator_worker.aggregation.aggregators import Aggregator, Contribution
from coordinator_worker.aggregation.coordinator import FederatedCoordinator
from coordinator_worker.aggregation.optimizers import ServerOptimizer
from warren_shared.errors import ConfigError, WarrenError
from warren_shared.observability.event_bus import Listener
from warren_shared.tensors.update import Update

__all__ = [
    "Aggregator",
    "ConfigError",
    "Contribution",
    "FederatedCoordinator",
    "Listener",
    "ServerOptimizer",
    "Update",
    "WarrenError",
]
