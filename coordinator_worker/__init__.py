"""The coordinator: validates updates, folds them, closes rounds, sends the global model."""

from coordinator_worker.aggregation.coordinator import FederatedCoordinator

__all__ = ["FederatedCoordinator"]
