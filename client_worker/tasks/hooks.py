"""What a task wants to hear of its client: the hooks of `client_worker.tasks.task.Task`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from client_worker.tasks.task import Task
from warren_shared.tensors.layout import Array, Weights
from warren_shared.tensors.update import Update
from warren_shared.weights_file import without_controls


class TaskHooks:
    """Calls the hooks that a task has, with arrays that they cannot change."""

    def __init__(self, task: Task | None) -> None:
        self._task = task

    def on_model(self, version: int, weights: Weights) -> None:
        """The global model ``version`` is here, and is trained from or the last one."""
        if (hook := self._hook("on_model")) is not None:
            hook(version, by_name(weights))

    def on_trained(self, update: Update) -> None:
        """An update is trained and not sent yet."""
        if (hook := self._hook("on_trained")) is not None:
            hook(replace(update, delta=[_read_only(array) for array in update.delta]))

    def on_finished(self, weights: Weights) -> None:
        """The model has taken over the last weights of the run."""
        if (hook := self._hook("on_finished")) is not None:
            hook(by_name(weights))

    def _hook(self, name: str) -> Callable[..., Any] | None:
        found: Callable[..., Any] | None = getattr(self._task, name, None)
        return found


def by_name(weights: Weights) -> Mapping[str, Array]:
    """The model's arrays, without control variates, by name of the tensor and in its order."""
    model = without_controls(weights)
    names = [tensor.name for tensor in model.layout.tensors]
    return dict(zip(names, map(_read_only, model), strict=True))


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


NO_HOOKS: Final = TaskHooks(None)
