"""The client: takes the global model, trains on its own data, sends what training changed."""

from typing import TYPE_CHECKING, Any

from client_worker.client import FederatedClient, TrainableModel
from client_worker.guide import Guide
from client_worker.numpy_model import NumpyModel
from client_worker.rules import interpolate, replace
from client_worker.task import Task

if TYPE_CHECKING:
    from client_worker.keras_model import KerasTask, LinearRegressionModel

__all__ = [
    "FederatedClient",
    "Guide",
    "KerasTask",
    "LinearRegressionModel",
    "NumpyModel",
    "Task",
    "TrainableModel",
    "interpolate",
    "replace",
]

_NEEDS_TENSORFLOW = {"KerasTask", "LinearRegressionModel"}


def __getattr__(name: str) -> Any:
    """Import TensorFlow only when something of it is asked for: it takes seconds."""
    if name in _NEEDS_TENSORFLOW:
        from client_worker import keras_model

        return getattr(keras_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
