"""The coordinator: validates updates, folds them, closes rounds, sends the global model."""

from coordinator_worker.coordinator import FederatedCoordinator

__all__ = ["FederatedCoordinator"]
