"""NaN, infinity and labels that do not fit are found in whatever the data are nested in."""

import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from client_worker import KerasTask, Task
from client_worker.models import logistic_regression, softmax_regression
from client_worker.tasks.data_check import data_findings, not_finite
from tests.tasks import Line

X, Y = np.ones((6, 2)), np.zeros(6)
HOLE = np.where(np.arange(12).reshape(6, 2) == 5, np.nan, 1.0)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ((HOLE, Y), "x"),
        ((X, np.where(Y == 0, np.inf, 0)), "y"),
        (({"a": X, "b": {"c": HOLE}}, Y), r"x\['b'\]\['c'\]"),
        (((X, HOLE), Y), r"x\[1\]"),
        ({"x": X, "y": HOLE[:, 1]}, r"\['y'\]"),
        ((X, Y, HOLE[:, 1]), "sample_weight"),
        (HOLE.astype(np.float32), "x"),
        (([[1.0, float("nan")], [0.0, 1.0]], [0, 1]), r"x\[0\]|x"),
        ((HOLE.astype(object), Y), "x"),
    ],
)
def test_nan_is_found_and_named(data: Any, name: str) -> None:
    found = not_finite(data)
    assert found is not None
    assert re.match(rf"{name} holds NaN or infinity", found)


@pytest.mark.parametrize("data", [(X, Y), ({"a": X}, Y), [1, 2], (["a", "b"], [0, 1]), (X, None)])
def test_data_without_nan_are_fine(data: Any) -> None:
    assert not_finite(data) is None


def keras_task(data: Any, **options: Any) -> KerasTask:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    return KerasTask(model, data, 0.1, loss="mse", **options)


@pytest.mark.parametrize(
    ("task", "name", "what"),
    [
        (lambda: Task(Line(2), (HOLE, Y[:, None])), "data", "1 of 6 rows (the first is 2"),
        (lambda: Task(Line(2), (X, Y), validation=(HOLE, Y)), "validation", "NaN"),
        (lambda: Task(logistic_regression(2), (X, Y - 1)), "data", "map the labels"),
        (lambda: Task(softmax_regression(2, 3), (X, Y + 3)), "data", "map the labels"),
        (lambda: keras_task((HOLE, Y)), "data", "NaN"),
        (
            lambda: keras_task(tf.data.Dataset.from_tensor_slices((HOLE, Y)).batch(4)),
            "data",
            "NaN",
        ),
        (lambda: keras_task((X, Y), validation=(HOLE, Y)), "validation", "NaN"),
    ],
)
def test_a_check_finds_it_before_the_training(task: Any, name: str, what: str) -> None:
    findings = list(data_findings(task().client()))
    assert [finding.about for finding in findings] == [name]
    assert what in findings[0].message


def test_a_check_has_nothing_to_say_of_data_that_are_fine() -> None:
    assert not list(data_findings(keras_task((X, Y), validation=(X, Y)).client()))
