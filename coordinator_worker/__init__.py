"""The coordinator: validates updates, folds them, closes rounds, sends the global model."""

from coordinator_worker.aggregation.coordinator import FederatedCoordinator
from warren_shared.errors import ConfigError, WarrenError
from warren_shared.tensors.update import Update

__all__ = ["ConfigError", "FederatedCoordinator", "Update", "WarrenError"]
