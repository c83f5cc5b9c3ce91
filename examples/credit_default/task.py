"""Credit default at four banks, whose customers differ in their education.

The data is the UCI Machine Learning Repository's "Default of Credit Card Clients" (Yeh 2016): the
limit, the person, and six months of delays, bills and payments. A customer belongs to the bank of
his education (graduate school 10,585, university 14,030, high school 4,917, other or unknown 468),
so that sizes and clientele differ as they do between real banks.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from client_worker import KerasTask
from warren_examples.credit_default import BANKS, FILE, WHERE
from warren_examples.stage.study import Records, Site, hold_out

HELD_OUT = 1 / 3
COLUMNS = 25
EDUCATION, DELAYS, BILLS, PAYMENTS, DEFAULT = 3, slice(6, 12), slice(12, 18), slice(18, 24), 24


@cache
def read(folder: Path) -> np.ndarray:
    """The file as numbers, one row for each customer."""
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: {WHERE}")
    values = np.genfromtxt(path, delimiter=",", skip_header=1)
    if values.ndim != 2 or values.shape[1] != COLUMNS or np.isnan(values).any():
        raise ValueError(f"{path} does not have {COLUMNS} columns of numbers: {WHERE}")
    return values


def features(values: np.ndarray) -> np.ndarray:
    """Counted in units that any banker would choose, not by any bank's statistics."""
    limit = values[:, 1]
    columns = [
        *(np.log10(limit) - 5, values[:, 2] - 1.5, (values[:, 5] - 40) / 10),
        *(values[:, 4] == kind for kind in (1, 2)),  # married, single
        *(np.clip(values[:, DELAYS].T, -2, 4) / 2),  # months of delay
        *(values[:, DELAYS].T > 0),
        *np.clip(values[:, BILLS].T / limit, -0.5, 1.5),
        *(np.log10(1 + values[:, PAYMENTS].T) - 3),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


@cache
def sites(seed: int, data: str) -> tuple[Site, ...]:
    """Every bank's customers; a third of each, defaulting or not alike, is held out."""
    values = read(Path(data))
    x, y = features(values), values[:, DEFAULT].astype(np.float32)
    banks = np.where(np.isin(values[:, EDUCATION], (1, 2, 3)), values[:, EDUCATION] - 1, 3)
    return tuple(
        hold_out(name, (x[banks == number], y[banks == number]), HELD_OUT, seed)
        for number, name in enumerate(BANKS)
    )


def task(data: Records, seed: int, epochs: int, metrics: Sequence[Any] = ()) -> KerasTask:
    """A small network with one hidden layer."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((data[0].shape[1],)),
            keras.layers.Dense(16, "relu"),
            keras.layers.Dense(1, "sigmoid"),
        ]
    )
    # Several batches a call, with the same result: Python costs more than so small a model.
    model.compile("sgd", "binary_crossentropy", metrics=list(metrics), steps_per_execution=8)
    return KerasTask(model, data, epochs=epochs, batch_size=32)


def clinic(
    data: str,
    bank: str = BANKS[0],
    seed: int = 0,
    epochs: int = 1,
    learning_rate: float = 0.1,
) -> KerasTask:
    """The task of one bank, from the folder ``data``."""
    if bank not in BANKS:
        raise ValueError(f"no bank {bank}; there are {', '.join(BANKS)}")
    site = sites(seed, data)[BANKS.index(bank)]
    made = task(site.train, seed, epochs, [keras.metrics.AUC(name="auc")])
    made.learning_rate, made.validation = learning_rate, site.held_out
    return made
