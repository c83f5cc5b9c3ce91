"""Heart disease at four real hospitals: Cleveland, Budapest (Hungary), Zurich and Basel, VA.

The data is the UCI Machine Learning Repository's "Heart Disease" (Janosi et al., 1988), the four
files ``processed.<hospital>.data``. As in FLamby (Ogier du Terrail et al., 2022) the columns slope,
ca and thal are left out, which three of the hospitals hardly ever recorded, then the patients of
whom anything else is missing: 740 remain. The question: is there any heart disease?
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from client_worker import KerasTask
from warren_examples.heart_disease import HOSPITALS, WHERE
from warren_examples.stage.study import Records, Site, hold_out

HELD_OUT = 1 / 3
COLUMNS = 14
KEPT = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13)


def read(folder: Path, hospital: str) -> Records:
    """Features (patients, 16) and labels of one hospital."""
    path = folder / f"processed.{hospital}.data"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: {WHERE}")
    rows = [line.split(",") for line in path.read_text().split()]
    if any(len(row) != COLUMNS for row in rows):
        raise ValueError(f"{path} does not have {COLUMNS} columns: {WHERE}")
    values = np.array([[np.nan if v == "?" else float(v) for v in row] for row in rows])[:, KEPT]
    values = values[~np.isnan(values).any(axis=1)]
    return features(values), (values[:, -1] > 0).astype(np.float32)


def features(values: np.ndarray) -> np.ndarray:
    """Centred and scaled by what a doctor calls normal, not by any hospital's statistics."""
    age, sex, pain, pressure, cholesterol, sugar, ecg, rate, angina, depression = values[:, :10].T
    columns = [
        *((age - 50) / 15, sex - 0.5, (pressure - 130) / 20, (cholesterol - 200) / 100),
        *(sugar - 0.5, (rate - 140) / 25, angina - 0.5, depression - 1),
        *(pain == kind for kind in (1, 2, 3, 4)),
        *(ecg == kind for kind in (0, 1, 2)),
        cholesterol == 0,  # how Switzerland and the VA wrote "not measured"
    ]
    return np.stack(columns, axis=1).astype(np.float32)


@cache
def sites(seed: int, data: str) -> tuple[Site, ...]:
    """Every hospital's patients; a third of each, ill and healthy alike, is held out."""
    return tuple(hold_out(name, read(Path(data), name), HELD_OUT, seed) for name in HOSPITALS)


def task(data: Records, seed: int, epochs: int, metrics: Sequence[Any] = ()) -> KerasTask:
    """Logistic regression; starts from zeros, so that it is the same everywhere."""
    keras.utils.set_random_seed(seed)
    output = keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((data[0].shape[1],)), output])
    # Several batches a call, with the same result: Python costs more than so small a model.
    model.compile("sgd", "binary_crossentropy", metrics=list(metrics), steps_per_execution=8)
    return KerasTask(model, data, epochs=epochs, batch_size=16)


def clinic(
    data: str,
    hospital: str = "cleveland",
    seed: int = 0,
    epochs: int = 2,
    learning_rate: float = 0.05,
) -> KerasTask:
    """The task of one hospital, from the folder ``data``."""
    if hospital not in HOSPITALS:
        raise ValueError(f"no hospital {hospital}; there are {', '.join(HOSPITALS)}")
    site = sites(seed, data)[HOSPITALS.index(hospital)]
    made = task(site.train, seed, epochs, [keras.metrics.AUC(name="auc")])
    made.learning_rate = learning_rate
    made.validation = site.held_out if 0 < site.held_out[1].mean() < 1 else None
    return made
