"""Mini-batch gradient descent in plain numpy, for models that are a loss and its gradient."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from client_worker.models import sklearn_file
from client_worker.models.sklearn_file import AsEstimator
from client_worker.training.descent import descend
from client_worker.training.example_count import rows
from client_worker.training.plan import LOCAL_STEPS, TrainingPlan
from warren_shared.errors import ConfigError
from warren_shared.tensors.evaluation import Evaluation
from warren_shared.tensors.layout import Array

Gradient = Callable[[Sequence[Array], Array, Array], tuple[float, list[Array]]]
Check = Callable[[Array], None]
Evaluate = Callable[[Sequence[Array], Array, Array], Mapping[str, float] | Evaluation]

PART_SIZE: Final = 1 << 20  # numbers in a part of the records' gradients


class NumpyModel:
    """A TrainableModel of weights and ``gradient(weights, x, y) -> (loss, gradients)``.

    The loss is a mean over the examples of the mini-batch, the gradients are one array for each of
    ``weights``, of its shape and dtype, that the caller may write to. ``batch_size`` None takes all
    examples at once. Batches are drawn again each epoch, by ``seed``, without replacement.
    ``evaluate(weights, x, y)`` returns figures by name or an Evaluation; without it, the loss.
    ``labels(y)`` raises ConfigError for labels that the loss does not take. ``estimator(weights)``
    makes a fitted scikit-learn estimator that predicts the same, for files of its own.

    The order of the batches goes on from round to round; a restart begins it again.
    """

    def __init__(
        self,
        weights: Sequence[Array],
        gradient: Gradient,
        *,
        epochs: int = 1,
        batch_size: int | None = 32,
        seed: int = 0,
        evaluate: Evaluate | None = None,
        labels: Check | None = None,
        estimator: AsEstimator | None = None,
    ) -> None:
        if epochs < 1 or (batch_size is not None and batch_size < 1):
            raise ConfigError(f"epochs={epochs}, batch_size={batch_size}: both are 1 or more")
        self.weights = [np.array(array) for array in weights]
        self.gradient = gradient
        self.epochs = epochs
        self.batch_size = batch_size
        self._draw = np.random.default_rng(seed)
        self._evaluate = evaluate
        self._labels = labels
        self._estimator = estimator
        self._checked: list[tuple[Any, Any, tuple[Array, Array]]] = []  # data found right

    def get_weights(self) -> list[Array]:
        """Return the weights themselves, not copies."""
        return self.weights

    def set_weights(self, weights: Sequence[Array], /) -> None:
        """Copy ``weights`` in."""
        for mine, new in zip(self.weights, weights, strict=True):
            np.copyto(mine, new)

    def fit(
        self, data: tuple[Array, Array], learning_rate: float, guide: TrainingPlan | None = None
    ) -> dict[str, float]:
        """Take the steps; return ``loss``, its mean over the last epoch, and ``local_steps``.

        With n examples and batches of B an epoch is ceil(n / B) steps.
        """
        guide = guide or TrainingPlan(self.weights)
        x, y = self.prepare(data)
        size = min(self.batch_size or len(x), len(x))
        epoch = -(-len(x) // size)
        wanted = guide.steps or (guide.epochs or self.epochs) * epoch
        losses, sizes = [], []
        for batch_x, batch_y in self._batches(x, y, size, wanted):
            loss, gradients = self.gradient(self.weights, batch_x, batch_y)
            descend(self.weights, gradients, learning_rate, guide)
            losses.append(loss)
            sizes.append(len(batch_x))
        last = slice(-epoch, None)
        mean = float(np.average(losses[last], weights=sizes[last]))
        return {"loss": mean, LOCAL_STEPS: float(wanted)}

    def per_example_gradients(self, data: tuple[Array, Array]) -> Iterator[Array]:
        """Each record's gradient by all weights, in parts of shape (records, parameters).

        Each is computed alone and in the same place: in a product of matrices how a row is rounded
        depends on how many others there are, and a record must not change another's gradient.
        """
        x, y = self.prepare(data)
        one_x, one_y = np.empty_like(x[:1]), np.empty_like(y[:1])
        size = sum(array.size for array in self.weights)
        at_once = max(1, PART_SIZE // size)
        for start in range(0, len(x), at_once):
            part = np.empty((min(at_once, len(x) - start), size))
            for place, row in enumerate(part, start):
                one_x[0], one_y[0] = x[place], y[place]
                _, gradients = self.gradient(self.weights, one_x, one_y)
                np.concatenate([array.ravel() for array in gradients], out=row)
            yield part

    def evaluate(self, data: tuple[Array, Array]) -> Mapping[str, float] | Evaluation:
        """What the current weights are worth on ``data``."""
        x, y = self.prepare(data)
        if self._evaluate is not None:
            return self._evaluate(self.weights, x, y)
        return {"loss": self.gradient(self.weights, x, y)[0]}

    @property
    def write_sklearn(self) -> Callable[[Path], None] | None:
        """Writes an estimator that predicts the same to a file; None if there is no such one."""
        if (make := self._estimator) is None:
            return None
        return lambda path: sklearn_file.write(make(self.weights), path)

    def prepare(self, data: Any) -> tuple[Array, Array]:
        """Return x and y of ``data``, looked at once.

        Raises ConfigError if they are no pair of arrays of one length, or if labels are wrong.
        """
        if isinstance(data, Mapping) and set(data) == {"x", "y"}:
            data = data["x"], data["y"]
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise ConfigError("this model takes data of two arrays, (x, y); sample weights need a"
                              " model of your own")  # fmt: skip
        x, y = data
        for known_x, known_y, arrays in self._checked:
            if x is known_x and y is known_y:
                return arrays
        rows((x, y))
        arrays = np.asarray(x), np.asarray(y)
        if any(array.dtype.kind not in "biuf" for array in arrays):
            raise ConfigError("the data hold something else than numbers: encode it first")
        if self._labels is not None:
            self._labels(arrays[1])
        self._checked = [*self._checked[-3:], (x, y, arrays)]
        return arrays

    def _batches(self, x: Array, y: Array, size: int, count: int) -> Iterator[tuple[Array, Array]]:
        left = count
        while left > 0:
            if size == len(x):  # in any order the same, and not worth a copy
                yield x, y
                left -= 1
                continue
            order = self._draw.permutation(len(x))
            for start in range(0, min(len(x), left * size), size):
                chosen = order[start : start + size]
                yield x[chosen], y[chosen]
                left -= 1


def classes_from_zero(classes: int) -> Check:
    """Return a check that raises ConfigError unless labels are whole numbers below ``classes``."""

    def check(y: Array) -> None:
        if y.size != len(y):
            raise ConfigError(f"labels have shape {y.shape}: give one class for each example")
        wrong = y[~np.isin(y, np.arange(classes))]
        if wrong.size:
            found = ", ".join(f"{value:g}" for value in np.unique(wrong)[:3])
            raise ConfigError(f"{wrong.size} labels such as {found} are not from 0 to"
                              f" {classes - 1}: map the labels to that")  # fmt: skip

    return check


def flat_labels(y: Any) -> Array:
    """Labels as a vector: shape (n,) or (n, 1) becomes (n,)."""
    return np.asarray(y).reshape(len(y))
