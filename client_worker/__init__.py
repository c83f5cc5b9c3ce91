"""The client: takes the global model, trains on its own data, sends what training changed.

What a task needs is imported from here; models without TensorFlow are in `client_worker.models`,
ways to deal data out in `client_worker.partition`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from client_worker.client import FederatedClient, TrainableModel
from client_worker.models.numpy_model import NumpyModel
from client_worker.tasks.task import Task
from client_worker.training.plan import TrainingPlan
from client_worker.training.update_rules import interpolate, replace
from warren_shared.errors import ConfigError, WarrenError
from warren_shared.observability.event_bus import Listener
from warren_shared.tensors.evaluation import Evaluation, of_classes, of_scores
from warren_shared.tensors.update import Update

if TYPE_CHECKING:
    from client_worker.models.keras_model import LinearRegressionModel
    from client_worker.models.lora import enable_lora
    from client_worker.tasks.feature_statistics import statistics_task
    from client_worker.tasks.keras_task import KerasTask
    from client_worker.tasks.torch_task import TorchTask

__all__ = [
    "ConfigError",
    "Evaluation",
    "FederatedClient",
    "KerasTask",
    "LinearRegressionModel",
    "Listener",
    "NumpyModel",
    "Task",
    "TorchTask",
    "TrainableModel",
    "TrainingPlan",
    "Update",
    "WarrenError",
    "enable_lora",
    "interpolate",
    "of_classes",
    "of_scores",
    "replace",
    "statistics_task",
]

_ON_DEMAND = {
    "KerasTask": "client_worker.tasks.keras_task",
    "TorchTask": "client_worker.tasks.torch_task",
    "LinearRegressionModel": "client_worker.models.keras_model",
    "enable_lora": "client_worker.models.lora",
    "statistics_task": "client_worker.tasks.feature_statistics",
}


def __getattr__(name: str) -> Any:
    """Import on demand what takes its time: TensorFlow takes seconds."""
    if name in _ON_DEMAND:
        return getattr(import_module(_ON_DEMAND[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
