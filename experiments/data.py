"""The public data sets that the experiments read, from a folder with a folder for each."""

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from warren_shared.errors import ConfigError

Array = np.ndarray[Any, Any]

WHERE: Final = (
    "--data names a folder that holds fashion-mnist/ (the four .gz files of the data set"
    " Fashion-MNIST), credit-default/UCI_Credit_Card.csv and heart-disease-4hospitals/ (the four"
    " files processed.*.data; both from the UCI Machine Learning Repository)"
)

FASHION: Final = "fashion-mnist"
CREDIT: Final = "credit-default"
HEART: Final = "heart-disease-4hospitals"
HOSPITALS: Final = ("cleveland", "hungarian", "switzerland", "va")
IMAGE_MAGIC, LABEL_MAGIC = 2051, 2049


@dataclass(frozen=True)
class Images:
    """Training and test data: ``x`` (n, 784) float32 in 0 to 1, ``y`` (n,) int64 classes."""

    x: Array
    y: Array
    test_x: Array
    test_y: Array


def fashion_mnist(folder: Path, train: int, test: int, seed: int = 0) -> Images:
    """``train`` and ``test`` images of Fashion-MNIST (Xiao et al. 2017), drawn by ``seed``.

    Raises ConfigError if ``folder``/fashion-mnist does not hold its files.
    """
    source, rng = folder / FASHION, np.random.default_rng(seed)
    parts: list[Array] = []
    for name, wanted in (("train", train), ("t10k", test)):
        x = _idx(source / f"{name}-images-idx3-ubyte.gz", IMAGE_MAGIC, 16)
        y = _idx(source / f"{name}-labels-idx1-ubyte.gz", LABEL_MAGIC, 8)
        chosen = rng.permutation(len(y))[:wanted]
        parts += [(x.reshape(len(y), -1)[chosen] / np.float32(255)), y[chosen].astype(np.int64)]
    return Images(*parts)


def _idx(path: Path, magic: int, header: int) -> Array:
    with gzip.open(_there(path)) as file:
        raw = file.read()
    if int.from_bytes(raw[:4], "big") != magic:
        raise ConfigError(f"{path} does not begin with {magic}: {WHERE}")
    return np.frombuffer(raw, np.uint8, offset=header)


def credit_default(folder: Path) -> tuple[Array, Array, Array]:
    """Features (n, 23), whether the client defaulted (n,), and EDUCATION (n,), as float64.

    Yeh and Lien 2009, "The comparisons of data mining techniques for the predictive accuracy of
    probability of default of credit card clients"; 30,000 rows.
    """
    with _there(folder / CREDIT / "UCI_Credit_Card.csv").open(newline="") as file:
        names, *rows = csv.reader(file)
    values = np.array(rows, np.float64)
    return values[:, 1:-1], values[:, -1], values[:, names.index("EDUCATION")]


def heart_disease(folder: Path) -> list[tuple[Array, Array]]:
    """Features (patients, 10) and ill or not (patients,) of each of the four hospitals, float64.

    As in FLamby (Ogier du Terrail et al. 2022), without the columns slope, ca and thal, then
    without the patients of whom anything else is missing.
    """
    found = []
    for hospital in HOSPITALS:
        lines = _there(folder / HEART / f"processed.{hospital}.data").read_text().split()
        rows = [[np.nan if v == "?" else float(v) for v in line.split(",")] for line in lines]
        values = np.array(rows)[:, [*range(10), 13]]
        values = values[~np.isnan(values).any(axis=1)]
        found.append((values[:, :10], (values[:, -1] > 0).astype(np.float64)))
    return found


def _there(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"there is no {path}: {WHERE}")
    return path
