"""Breast cancer (Wisconsin, 569 patients, 30 features of cell nuclei) at four clinics.

The data comes with scikit-learn. The patients are dealt out so that the clinics differ in size
(239, 159, 108, 63) and in case mix: the larger the tumours, the later the clinic in the list, so
that a screening centre sees few cancers and a tumour centre hardly anything else.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer

from client_worker import KerasTask
from warren_examples.stage.study import Records, Site, hold_out

CLINICS = ("screening-centre", "city-hospital", "university-hospital", "tumour-centre")
SHARES = (0.42, 0.28, 0.19, 0.11)
HELD_OUT = 0.3
WORST_RADIUS = 20  # column by which patients find their clinic
CHANCE = 1.0  # standard deviations of noise on it: nobody is referred by radius alone
# Only a unit for each feature is agreed on beforehand, the power of ten that its values are counted
# in; finer constants would be the pooled patients' statistics in disguise. Standardising each
# clinic by itself would make the same cell nucleus look different at each.
UNITS = 10.0 ** np.array(
    [
        *(1, 1, 2, 3, -1, -1, -1, -1, -1, -2),  # mean of the nuclei
        *(0, 0, 1, 2, -2, -1, -1, -2, -2, -2),  # standard error
        *(1, 1, 2, 3, -1, 0, 0, -1, -1, -1),  # mean of the three largest
    ]
)


@cache
def sites(seed: int) -> tuple[Site, ...]:
    """Every clinic's patients; ``seed`` decides who is held out, never who is at which clinic."""
    data = load_breast_cancer()
    x = (data.data / UNITS - 1).astype(np.float32)
    y = (1 - data.target).astype(np.float32)  # 1: malignant
    radius = data.data[:, WORST_RADIUS]
    noise = np.random.default_rng(20261123).normal(0, CHANCE, len(y))
    order = np.argsort((radius - radius.mean()) / radius.std() + noise)
    ends = (np.cumsum(SHARES)[:-1] * len(y)).astype(int)
    return tuple(
        hold_out(name, (x[patients], y[patients]), HELD_OUT, seed, at_least=1)
        for name, patients in zip(CLINICS, np.split(order, ends), strict=True)
    )


def task(data: Records, seed: int, epochs: int, metrics: Sequence[Any] = ()) -> KerasTask:
    """Logistic regression; starts from zeros, so that it is the same everywhere."""
    keras.utils.set_random_seed(seed)
    output = keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((len(UNITS),)), output])
    # Several batches a call, with the same result: Python costs more than so small a model.
    model.compile("sgd", "binary_crossentropy", metrics=list(metrics), steps_per_execution=8)
    return KerasTask(model, data, epochs=epochs, batch_size=16)


def clinic(
    clinic: int = 0,
    shard: int | None = None,
    seed: int = 0,
    epochs: int = 2,
    learning_rate: float = 0.3,
) -> KerasTask:
    """The task of clinic number ``clinic``; in a fleet, of the clinic that ``shard`` falls to."""
    site = sites(seed)[(clinic if shard is None else shard) % len(CLINICS)]
    made = task(site.train, seed, epochs, [keras.metrics.AUC(name="auc")])
    made.learning_rate = learning_rate
    made.validation = site.held_out
    return made
