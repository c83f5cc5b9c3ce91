"""scikit-learn's linear estimators in a federation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shared.errors import ConfigError
from shared.evaluation import Evaluation, of_classes
from shared.layout import Array


class SklearnModel:
    """A scikit-learn estimator with ``coef_`` and ``intercept_`` as a TrainableModel.

    ``classes``: all labels there are, for classifiers: a client may not have seen each of them.
    ``features``: how many inputs. One that has ``partial_fit`` goes on from the global weights for
    ``epochs`` passes over the data, with the client's learning rate if it has an ``eta0``; any
    other is fitted, from the global weights if it has ``warm_start`` set, and averaged. Only numpy
    is imported here: whoever made the estimator has scikit-learn.
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
        if "eta0" in estimator.get_params() and self._in_part:
            estimator.set_params(learning_rate="constant")
        elif "warm_start" in estimator.get_params() and not self._in_part:
            estimator.set_params(warm_start=True)
        # Only training makes the arrays, so it is trained on nothing that it could remember.
        labels = np.zeros(2) if self.classes is None else self.classes
        if len(labels) < 2:
            raise ConfigError(f"classes={classes}: a classifier needs two at least")
        self._train(np.zeros((len(labels), features)), labels)
        if not (hasattr(estimator, "coef_") and hasattr(estimator, "intercept_")):
            raise ConfigError(f"{type(estimator).__name__} has no coef_ and intercept_ to federate")
        self.set_weights([np.zeros_like(array) for array in self.get_weights()])

    def get_weights(self) -> list[Array]:
        """Return ``coef_`` and ``intercept_``, at least one-dimensional."""
        return [
            np.array(self.estimator.coef_, ndmin=1),
            np.array(self.estimator.intercept_, ndmin=1),
        ]

    def set_weights(self, weights: Sequence[Array], /) -> None:
        """Take over both."""
        for name, array in zip(("coef_", "intercept_"), weights, strict=True):
            shape = np.shape(getattr(self.estimator, name))
            value = np.array(array).reshape(shape)
            setattr(self.estimator, name, value if shape else float(value))

    def fit(self, data: tuple[Array, Array], learning_rate: float) -> Mapping[str, float]:
        """Train on ``(x, y)``; reports nothing, for no two estimators have the same loss."""
        if "eta0" in self.estimator.get_params():
            self.estimator.set_params(eta0=learning_rate)
        for _ in range(self._epochs if self._in_part else 1):
            self._train(np.asarray(data[0]), np.asarray(data[1]).reshape(len(data[1]), -1))
        return {}

    def evaluate(self, data: tuple[Array, Array]) -> Mapping[str, float] | Evaluation:
        """Counts of right and wrong classes, or a regression's mean square error."""
        x, y = np.asarray(data[0]), np.asarray(data[1]).ravel()
        guess = self.estimator.predict(x)
        if self.classes is None:
            return {"loss": float(np.mean((guess.ravel() - y) ** 2))}
        truth, taken = (np.searchsorted(self.classes, labels) for labels in (y, guess))
        return of_classes(truth, taken, len(self.classes))

    def _train(self, x: Array, y: Array) -> None:
        labels = y.ravel() if y.ndim == 1 or y.shape[1] == 1 else y
        if not self._in_part:
            self.estimator.fit(x, labels)
        elif self.classes is None:
            self.estimator.partial_fit(x, labels)
        else:
            self.estimator.partial_fit(x, labels, classes=self.classes)
