"""The client: takes the global model, trains on its own data, sends what training changed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from client_worker.client import FederatedClient, TrainableModel
from client_worker.models.numpy_model import NumpyModel
from client_worker.tasks.task import Task
from client_worker.training.plan import TrainingPlan
from client_worker.training.update_rules import interpolate, replace

if TYPE_CHECKING:
    from client_worker.models.keras_model import LinearRegressionModel
    from client_worker.tasks.keras_task import KerasTask

__all__ = [
    "FederatedClient",
    "KerasTask",
    "LinearRegressionModel",
    "NumpyModel",
    "Task",
    "TrainableModel",
    "TrainingPlan",
    "interpolate",
    "replace",
]

_NEEDS_TENSORFLOW = {
    "KerasTask": "client_worker.tasks.keras_task",
    "LinearRegressionModel": "client_worker.models.keras_model",
}


def __getattr__(name: str) -> Any:
    """Import TensorFlow only when something of it is asked for: it takes seconds."""
    if name in _NEEDS_TENSORFLOW:
        return getattr(import_module(_NEEDS_TENSORFLOW[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
