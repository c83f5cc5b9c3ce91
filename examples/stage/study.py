"""What a hospital example consists of: its sites' data, its model, and how it is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from client_worker.models.tensorflow_log import without_greetings

if TYPE_CHECKING:
    from client_worker import KerasTask

Records = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Features, shape (patients, features), and labels 0 or 1, shape (patients,)."""


@dataclass(frozen=True)
class Site:
    """One hospital's patients: those it trains on, and those it holds out."""

    name: str
    train: Records
    held_out: Records


def hold_out(name: str, records: Records, share: float, seed: int, at_least: int = 0) -> Site:
    """Split a site's records; the same ``share`` of the ill and the healthy is held out."""
    x, y = records
    draw = np.random.default_rng([seed, len(y)])
    train: list[int] = []
    held_out: list[int] = []
    for label in (0, 1):
        shuffled = draw.permutation(np.flatnonzero(y == label))
        count = max(at_least, round(share * len(shuffled)))
        held_out += list(shuffled[:count])
        train += list(shuffled[count:])
    return Site(name, (x[train], y[train]), (x[held_out], y[held_out]))


@dataclass(frozen=True)
class Study:
    """A comparison of local, federated and pooled training over the same sites.

    ``module`` has ``sites(seed)``, which splits the data, ``task(data, seed, epochs)``, which makes
    the one model that all three kinds of training use, and ``clinic``, the client workers' task;
    ``arguments(number)`` is what distinguishes them. It is imported when first asked for, since
    TensorFlow takes seconds. Every kind of training sees its records ``rounds * epochs`` times.
    """

    title: str
    description: str
    names: Sequence[str]
    module: str
    arguments: Callable[[int], list[str]]
    rounds: int
    epochs: int
    learning_rate: float
    batch_size: int = 16
    options: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[str, ...] = ("auc", "accuracy")
    people: str = "patients"
    clip: float = 10.0  # the longest that an update may be, where it is masked

    @cached_property
    def _module(self) -> Any:
        with without_greetings():
            return import_module(self.module)

    def sites(self, seed: int) -> Sequence[Site]:
        """The sites' patients, split for ``seed``."""
        found: Sequence[Site] = self._module.sites(seed, **self.options)
        return found

    def task(self, data: Records, seed: int, epochs: int) -> "KerasTask":
        """The study's model, to be trained on ``data``."""
        made: KerasTask = self._module.task(data, seed, epochs)
        return made


def pooled(parts: Sequence[Records]) -> Records:
    """The records of several sites as one."""
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def score(model: "KerasTask", records: Records) -> dict[str, float]:
    """Area under the ROC curve and accuracy of ``model`` on ``records``."""
    from sklearn.metrics import accuracy_score, roc_auc_score

    x, y = records
    probability = np.asarray(model.model.model(x)).ravel()
    both = 0 < y.mean() < 1  # a ward of ill people only has no ROC curve
    return {
        "auc": float(roc_auc_score(y, probability)) if both else nan,
        "accuracy": float(accuracy_score(y, probability > 0.5)),
    }
