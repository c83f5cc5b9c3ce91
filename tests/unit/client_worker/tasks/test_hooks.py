"""Hooks of a task: given with it or methods of its class, and their arrays cannot be changed."""

from collections.abc import Mapping

import numpy as np
import pytest

from client_worker import Task
from client_worker.models import linear_regression
from client_worker.tasks.hooks import NO_HOOKS, TaskHooks
from warren_shared.tensors.layout import Layout, Weights
from warren_shared.tensors.update import Update

ARRAYS = [np.arange(3.0).reshape(3, 1), np.ones(1)]
DATA = (np.zeros((4, 3)), np.zeros((4, 1)))


def plain() -> Weights:
    return Weights.of(ARRAYS, Layout.of(ARRAYS, ["kernel", "bias"]))


def test_hooks_that_were_given_are_called_with_arrays_by_name() -> None:
    told: list[tuple[str, object]] = []
    task = Task(
        linear_regression(3), DATA,
        on_model=lambda version, found: told.append((f"model {version}", list(found))),
        on_trained=lambda update: told.append(("trained", update.num_examples)),
        on_finished=lambda found: told.append(("finished", found["kernel"].tolist())),
    )  # fmt: skip
    hooks = TaskHooks(task)
    hooks.on_model(3, plain())
    hooks.on_trained(Update(ARRAYS, 4))
    hooks.on_finished(plain())
    assert told == [
        ("model 3", ["kernel", "bias"]), ("trained", 4), ("finished", [[0.0], [1.0], [2.0]]),
    ]  # fmt: skip


def test_control_variates_are_no_part_of_the_model() -> None:
    layout = Layout.of(ARRAYS, ["kernel", "bias"]).with_controls
    found: list[list[str]] = []
    task = Task(linear_regression(3), DATA, on_finished=lambda model: found.append(list(model)))
    TaskHooks(task).on_finished(Weights.empty(layout))
    assert found == [["kernel", "bias"]]


def test_hooks_may_be_methods_of_a_subclass() -> None:
    class Mine(Task):
        versions: list[int] = []  # noqa: RUF012

        def on_model(self, version: int, weights: Mapping[str, np.ndarray]) -> None:  # type: ignore[override]
            self.versions.append(version)

    hooks = TaskHooks(Mine(linear_regression(3), DATA))
    hooks.on_model(1, plain())
    hooks.on_trained(Update(ARRAYS, 4))
    assert Mine.versions == [1]


def test_a_hook_cannot_change_what_is_sent_or_shared() -> None:
    def spoil(update: Update) -> None:
        update.delta[0][:] = 7

    def spoil_model(_version: int, found: Mapping[str, np.ndarray]) -> None:
        found["kernel"][:] = 7

    hooks = TaskHooks(Task(linear_regression(3), DATA, on_model=spoil_model, on_trained=spoil))
    with pytest.raises(ValueError, match="read-only"):
        hooks.on_trained(Update(ARRAYS, 4))
    with pytest.raises(ValueError, match="read-only"):
        hooks.on_model(0, plain())
    assert ARRAYS[0].max() == 2


def test_a_task_without_hooks_has_none() -> None:
    TaskHooks(Task(linear_regression(3), DATA)).on_model(0, plain())
    NO_HOOKS.on_finished(plain())
