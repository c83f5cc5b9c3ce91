"""What Keras's users give to ``fit`` and ``compile``: it works, or is refused in one line.

The table of docs/bring-your-own.md is held against what happens here.
"""

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from client_worker import KerasTask
from client_worker.models import keras_backend
from tests.support.processes import ROOT
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining

L, OPT = keras.layers, keras.optimizers
R = np.random.default_rng(0)
X = R.normal(size=(64, 3)).astype("f4")
Y = (X[:, :1] > 0).astype("f4")
BCE = {"loss": "binary_crossentropy"}


def network(*first: Any) -> keras.Model:
    return keras.Sequential([keras.Input((3,)), *first, L.Dense(1, "sigmoid")])


class Unbuilt(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = L.Dense(4, "relu"), L.Dense(1, "sigmoid")

    def call(self, inputs: Any) -> Any:
        return self.head(self.body(inputs["x"] if isinstance(inputs, dict) else inputs))


class Setter(keras.callbacks.Callback):  # type: ignore[misc]
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = 0.001


def task(model: Any = None, data: Any = None, **options: Any) -> KerasTask:
    return KerasTask(model or network(), data or (X, Y), 0.1, **(BCE | options))


def adapted() -> keras.Model:
    layer = L.Normalization()
    layer.adapt(X)
    return network(layer)


def spread() -> KerasTask:
    model = network()
    model._distribute_strategy = TwoDevices()
    return task(model)


class TwoDevices:
    """Stands for a strategy over two cards, which no test machine has."""

    num_replicas_in_sync = 2


OPTIONS: dict[str, tuple[Callable[[], KerasTask], str]] = {
    "epochs": (lambda: task(epochs=2), "works"),
    "batch_size": (lambda: task(batch_size=16), "works"),
    "shuffle": (lambda: task(shuffle=False), "works"),
    "class_weight": (lambda: task(class_weight={0: 1.0, 1: 3.0}), "works"),
    "callbacks": (lambda: task(callbacks=[keras.callbacks.TerminateOnNaN()]), "works"),
    "steps_per_epoch": (
        lambda: task(
            data=tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat(),
            steps_per_epoch=3, num_examples=64,
        ),
        "works",
    ),
    "steps_per_epoch of arrays": (lambda: task(steps_per_epoch=3), "--local-steps"),
    "sample_weight": (lambda: task(sample_weight=np.ones(64)), "third part of data"),
    "validation_split": (lambda: task(validation_split=0.2), "validation="),
    "validation_data": (lambda: task(validation_data=(X, Y)), "validation="),
    "validation_steps": (lambda: task(validation_steps=2), "take"),
    "validation_batch_size": (lambda: task(validation_batch_size=2), "leave it out"),
    "validation_freq": (lambda: task(validation_freq=2), "leave it out"),
    "initial_epoch": (lambda: task(initial_epoch=1), "leave it out"),
    "verbose": (lambda: task(verbose=1), "leave it out"),
    "a misspelt option": (lambda: task(bach_size=16), "did you mean batch_size"),
    "LearningRateScheduler": (
        lambda: task(callbacks=[keras.callbacks.LearningRateScheduler(lambda n, r: r)]),
        "leave it out",
    ),
    "ReduceLROnPlateau": (
        lambda: task(callbacks=[keras.callbacks.ReduceLROnPlateau()]), "leave it out",
    ),
    "a callback that sets the learning rate": (
        lambda: task(callbacks=[Setter()]), "set the learning rate",
    ),
    "LearningRateSchedule": (
        lambda: task(optimizer=OPT.SGD(OPT.schedules.ExponentialDecay(0.1, 100, 0.9))),
        "--learning-rate-schedule",
    ),
    "loss_weights": (lambda: task(loss_weights=[2.0]), "works"),
    "weighted_metrics": (lambda: task(weighted_metrics=["accuracy"]), "works"),
    "run_eagerly": (lambda: task(run_eagerly=True), "works"),
    "jit_compile": (lambda: task(jit_compile=False), "works"),
    "steps_per_execution": (lambda: task(steps_per_execution=2), "works"),
    "options of compile without loss": (
        lambda: KerasTask(compiled(), (X, Y), 0.1, optimizer="adam"), "loss",
    ),
    "LossScaleOptimizer": (lambda: task(optimizer=OPT.LossScaleOptimizer(OPT.SGD())), "works"),
    "gradient_accumulation_steps": (
        lambda: task(optimizer=OPT.SGD(gradient_accumulation_steps=2)), "works",
    ),
    "use_ema": (lambda: task(optimizer=OPT.SGD(use_ema=True)), "works"),
    "clipnorm": (lambda: task(optimizer=OPT.SGD(clipnorm=1.0)), "works"),
    "weight_decay": (lambda: task(optimizer=OPT.AdamW()), "works"),
    "an unbuilt subclass": (lambda: task(Unbuilt()), "works"),
    "an unbuilt subclass of dict inputs": (lambda: task(Unbuilt(), ({"x": X}, Y)), "works"),
    "Normalization.adapt": (lambda: task(adapted()), "works"),
    "Dropout": (lambda: task(network(L.Dropout(0.5))), "works"),
    "BatchNormalization": (lambda: task(network(L.BatchNormalization())), "works"),
    "a distribution strategy": (spread, "client for each device"),
}  # fmt: skip


def compiled() -> keras.Model:
    model = network()
    model.compile("sgd", "binary_crossentropy")
    return model


@pytest.mark.parametrize("option", OPTIONS)
def test_it_works_or_is_refused_in_one_line(option: str) -> None:
    make, said = OPTIONS[option]

    def trained() -> None:
        client = make().client()
        update = client.train(client.weights())
        assert (update.local_steps or 0) > 0
        assert client.train(client.weights(), LocalTraining(steps=2)).delta is not None

    if said == "works":
        trained()
        return
    with pytest.raises(ConfigError, match=said) as refusal:
        trained()
    assert "\n" not in str(refusal.value)


def test_the_page_says_of_each_what_happens() -> None:
    page = (ROOT / "docs" / "bring-your-own.md").read_text()
    table = re.findall(r"^\| `?([^|`]+?)`? \| (works|refused)([^|]*)\|", page, re.MULTILINE)
    expected = {
        name: "works" if said == "works" else "refused" for name, (_, said) in OPTIONS.items()
    }
    assert {name: what for name, what, _ in table} == expected


def test_classes_are_weighed_as_keras_weighs_them() -> None:
    def delta(**options: Any) -> list[np.ndarray]:
        keras.utils.set_random_seed(0)
        client = task(batch_size=64, **options).client()
        return [np.array(array) for array in client.train(client.weights()).delta]

    weights = np.where(Y[:, 0] > 0, 3.0, 1.0)
    for one, other in zip(
        delta(class_weight={0: 1.0, 1: 3.0}), delta(data=(X, Y, weights)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_card_is_shared_by_several_processes() -> None:
    source = (ROOT / "client_worker" / "models" / "keras_backend.py").read_text()
    assert "set_memory_growth(_gpu, True)" in source
    assert keras_backend.tf is tf
