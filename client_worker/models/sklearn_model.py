"""scikit-learn's linear estimators in a federation."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from client_worker.models import sklearn_file
from client_worker.training.example_count import rows
from warren_shared.errors import ConfigError
from warren_shared.tensors.evaluation import Evaluation, of_classes
from warren_shared.tensors.layout import Array

UNSEEN_WEIGHT: Final = 1e-9  # of the example that stands for a class which a site lacks


class SklearnModel:
    """A scikit-learn estimator with ``coef_`` and ``intercept_`` as a TrainableModel.

    ``classes``: all labels there are, for classifiers: a client may not have seen each of them.
    ``features``: how many inputs. One that has ``partial_fit`` goes on from the global weights for
    ``epochs`` passes over the data, with the client's learning rate, constant, if it has an
    ``eta0``; any other is fitted, from the global weights if it has a ``warm_start``, and averaged.
    A class that a site lacks stands in its ``fit`` with a weight of nearly nothing. Whatever else
    the estimator remembers is as at first whenever weights are set. Only numpy is imported here:
    the user who made the estimator has scikit-learn.

    Raises ConfigError for an estimator that keeps averages beside its weights.
    """

    def __init__(
        self,
        estimator: Any,
        classes: Sequence[Any] | None = None,
        *,
        features: int,
        epochs: int = 1,
    ) -> None:
        self.estimator = estimator
        self.classes = None if classes is None else np.unique(np.asarray(classes))
        self._epochs = epochs
        self._in_part = hasattr(estimator, "partial_fit")
        known = estimator.get_params()
        if known.get("average"):
            named = f"{type(estimator).__name__} with average={known['average']}"
            raise ConfigError(f"{named} goes on from other weights than it shows: set"
                              " average=False")  # fmt: skip
        if {"eta0", "learning_rate"} <= set(known) and self._in_part:
            estimator.set_params(learning_rate="constant")
        elif "warm_start" in known and not self._in_part:
            estimator.set_params(warm_start=True)
        # Only training makes the arrays, so it is trained on nothing that it could remember.
        labels = np.zeros(2) if self.classes is None else self.classes
        if len(labels) < 2:
            raise ConfigError(f"classes={classes}: a classifier needs two at least")
        try:
            self._train(np.zeros((len(labels), features)), labels)
        except (ValueError, TypeError) as error:
            said = " ".join(str(error).split())[:200]
            raise ConfigError(f"{type(estimator).__name__} cannot be trained: {said}") from error
        if not (hasattr(estimator, "coef_") and hasattr(estimator, "intercept_")):
            raise ConfigError(f"{type(estimator).__name__} has no coef_ and intercept_ to federate")
        self._first = {
            name: copy.deepcopy(value)
            for name, value in vars(estimator).items()
            if name not in estimator.get_params()
        }
        self.set_weights([np.zeros_like(array) for array in self.get_weights()])

    def get_weights(self) -> list[Array]:
        """Return ``coef_`` and ``intercept_``, at least one-dimensional."""
        return [
            np.array(self.estimator.coef_, ndmin=1),
            np.array(self.estimator.intercept_, ndmin=1),
        ]

    def set_weights(self, weights: Sequence[Array], /) -> None:
        """Take over both, and forget all else that training left in the estimator."""
        for name in [name for name in vars(self.estimator) if name not in self._first]:
            if name not in self.estimator.get_params():
                delattr(self.estimator, name)
        for name, value in self._first.items():
            setattr(self.estimator, name, copy.deepcopy(value))
        for name, array in zip(("coef_", "intercept_"), weights, strict=True):
            shape = np.shape(getattr(self.estimator, name))
            value = np.array(array).reshape(shape)
            setattr(self.estimator, name, value if shape else float(value))

    def fit(self, data: tuple[Array, Array], learning_rate: float) -> Mapping[str, float]:
        """Train on ``(x, y)``; reports nothing, for no two estimators have the same loss.

        Raises ConfigError for labels that ``classes`` lacks, and for a class that this site lacks
        if the estimator cannot be told of it.
        """
        x, y = self._parts(data)
        if "eta0" in self.estimator.get_params():
            self.estimator.set_params(eta0=learning_rate)
        for _ in range(self._epochs if self._in_part else 1):
            self._train(x, y)
        return {}

    def evaluate(self, data: tuple[Array, Array]) -> Mapping[str, float] | Evaluation:
        """Counts of right and wrong classes, or a regression's mean square error."""
        x, y = self._parts(data)
        y = y.ravel()
        guess = self.estimator.predict(x)
        if self.classes is None:
            return {"loss": float(np.mean((guess.ravel() - y) ** 2))}
        truth, taken = (np.searchsorted(self.classes, labels) for labels in (y, guess))
        return of_classes(truth, taken, len(self.classes))

    def write_sklearn(self, path: Path) -> None:
        """Write the estimator with its weights to ``path``, as joblib loads it."""
        sklearn_file.write(self.estimator, path)

    def _parts(self, data: Any) -> tuple[Array, Array]:
        """x, and y of shape (n,) or (n, outputs); every label is one of ``classes``."""
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise ConfigError("this model takes data of two arrays, (x, y)")
        rows((data[0], data[1]))
        x, y = data[0], np.asarray(data[1])
        if not hasattr(x, "tocsr"):
            x = np.asarray(x)
        if self.classes is not None:
            unknown = np.unique(y[~np.isin(y, self.classes)].astype(str))
            if len(unknown):
                raise ConfigError(f"labels {', '.join(unknown[:3])} are none of classes"
                                  f" {self.classes.tolist()}: name every label there")  # fmt: skip
        return x, y.reshape(len(y), -1)

    def _train(self, x: Array, y: Array) -> None:
        labels = y.ravel() if y.ndim == 1 or y.shape[1] == 1 else y
        if not self._in_part:
            self._fit(x, labels)
        elif self.classes is None:
            self.estimator.partial_fit(x, labels)
        else:
            self.estimator.partial_fit(x, labels, classes=self.classes)

    def _fit(self, x: Array, labels: Array) -> None:
        """The estimator's ``fit``, which makes its classes from the labels that it sees."""
        missing = () if self.classes is None else np.setdiff1d(self.classes, labels)
        if not len(missing):
            self.estimator.fit(x, labels)
            return
        told = ", ".join(map(str, missing))
        if "sample_weight" not in inspect.signature(self.estimator.fit).parameters:
            raise ConfigError(f"this site has no example of class {told}, and"
                              f" {type(self.estimator).__name__} cannot be told of it: use an"
                              " estimator with partial_fit, such as SGDClassifier")  # fmt: skip
        # A row of zeros that counts for nearly nothing: liblinear leaves out what weighs nothing.
        if hasattr(x, "toarray"):
            x = x.toarray()
        more = np.zeros((len(missing), x.shape[1]), x.dtype)
        weights = np.concatenate([np.ones(len(x)), np.full(len(missing), UNSEEN_WEIGHT)])
        self.estimator.fit(
            np.concatenate([x, more]), np.concatenate([labels, missing]), sample_weight=weights
        )
