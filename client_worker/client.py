"""The client of federated learning: trains a local model from a global one, on its own data."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Protocol, cast

import numpy as np

from shared.errors import ConfigError
from shared.evaluation import Evaluation
from shared.layout import Array, Layout, Weights
from shared.update import Update


class TrainableModel(Protocol):
    """All that a model needs to take part; a Keras model is wrapped into one by itself.

    It may also have ``evaluate(data)``, which is asked what the global model is worth on held-out
    data and returns figures by name, or an Evaluation.
    """

    def get_weights(self) -> Sequence[Array]:
        """Return the weights as float32 or float64 arrays, in an order that never changes."""
        ...

    def set_weights(self, weights: Sequence[Array], /) -> object:
        """Take over weights of the same shapes."""
        ...

    def fit(self, data: Any, learning_rate: float, /) -> Mapping[str, float] | None:
        """Train on ``data`` from the current weights; return metrics such as ``loss``."""
        ...


class FederatedClient:
    """One participant: a model, its own data, and how fast it learns.

    ``model``: a Keras model, or anything with the methods of TrainableModel. ``data``: what the
    model is fitted on, usually ``(x, y)`` arrays, or a ``tf.data.Dataset`` of batches; it never
    leaves this object. ``learning_rate``: of the local optimizer. ``validation``: held-out data
    of the same form, on which each global model is evaluated. ``num_examples``: the weight of
    this client's updates; counted from ``data`` if not given.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        learning_rate: float,
        *,
        validation: Any = None,
        num_examples: int | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.learning_rate = learning_rate
        self.validation = validation
        self.num_examples = num_examples if num_examples is not None else count_examples(data)
        if self.num_examples < 1:
            raise ConfigError(f"num_examples is {self.num_examples}; an update needs at least one")
        self._validation_examples: int | None = None
        self._trainable = _trainable(model, data)
        self.layout = Layout.of([np.asarray(array) for array in self._trainable.get_weights()])

    def weights(self) -> Weights:
        """The local model's weights, copied into one buffer."""
        return Weights.of(list(self._trainable.get_weights()), self.layout)

    def update(self, global_model: Sequence[Array]) -> None:
        """Replace the local model's weights by a copy of the global model's.

        A model may keep the arrays and train in place: views of the global model would change it.
        """
        weights = Weights.of(global_model, self.layout)
        self._trainable.set_weights([array.copy() for array in weights])

    def train(self, global_model: Sequence[Array]) -> Update:
        """Train from ``global_model`` on the local data; return what that changed.

        The update's ``delta`` is trained minus global weights; its metrics are what ``fit``
        returned and, with ``validation``, ``eval_…``: the *global* model on the held-out data.
        """
        start = Weights.of(global_model, self.layout)
        self.update(start)
        found = self.evaluation()
        metrics = {f"eval_{name}": v for name, v in found.metrics().items()} if found else {}
        metrics |= _figures(self._trainable.fit(self.data, self.learning_rate))
        trained = [np.asarray(array) for array in self._trainable.get_weights()]
        if difference := self.layout.difference(Layout.of(trained)):
            raise ConfigError(f"training changed the model's layout: {difference}")
        delta = Weights.uninitialized(self.layout)
        for changed, after, before in zip(delta, trained, start, strict=True):
            np.subtract(after, before, out=changed)
        return Update(delta, self.num_examples, metrics, evaluation=found)

    def evaluate(self) -> dict[str, float]:
        """Metrics of the local model's current weights on ``validation``; empty without any."""
        found = self.evaluation()
        return found.metrics() if found else {}

    def evaluation(self) -> Evaluation | None:
        """What the local model's current weights are worth on ``validation``; None without any.

        Figures that the model's ``evaluate`` returns are means over the validation's examples; a
        model that returns an Evaluation can be pooled with others' (`shared.evaluation`).
        """
        evaluate = getattr(self._trainable, "evaluate", None)
        if evaluate is None or self.validation is None:
            return None
        found = evaluate(self.validation)
        if isinstance(found, Evaluation):
            return found
        if self._validation_examples is None:
            self._validation_examples = count_examples(self.validation)
        return Evaluation(self._validation_examples, _figures(found))


def count_examples(data: Any) -> int:
    """Length of ``x`` in ``(x, y)``, of any other sized ``data``, or of a dataset of batches."""
    if hasattr(data, "unbatch"):
        found = int(data.unbatch().reduce(np.int64(0), lambda count, *_: count + 1))
    else:
        first = data[0] if isinstance(data, tuple) and data else data
        if not hasattr(first, "__len__"):
            raise ConfigError(
                f"how many examples a {type(first).__name__} holds is unclear: give num_examples"
            )
        found = len(first)
    if found < 1:
        raise ConfigError("this client has no training data")
    return found


def _trainable(model: Any, data: Any) -> TrainableModel:
    if any(base.__module__.partition(".")[0] == "keras" for base in type(model).__mro__):
        from client_worker.keras_model import KerasModel

        return KerasModel(model, data=data)
    missing = [name for name in ("get_weights", "set_weights", "fit") if not hasattr(model, name)]
    if missing:
        raise ConfigError(f"the model has no {', '.join(missing)}: see TrainableModel")
    return cast("TrainableModel", model)


def _figures(metrics: Mapping[str, float] | None) -> dict[str, float]:
    """Metrics as plain finite floats; a NaN says nothing and JSON has no word for it."""
    figures = {name: float(value) for name, value in (metrics or {}).items()}
    return {name: value for name, value in figures.items() if isfinite(value)}
