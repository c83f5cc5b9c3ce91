"""Keras in a federation. The only file that knows TensorFlow."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from client_worker.greetings import without_greetings

with without_greetings():
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices()  # looks for a GPU now, not in the middle of the first round

from client_worker.task import Task
from shared.errors import ConfigError
from shared.layout import Array

EVALUATION_BATCH: Final = 1024


class LinearRegressionModel(keras.Model):  # type: ignore[misc]
    """Linear regression y = x w + b by least squares: one Dense(1), compiled for mean square error.

    ``features``: how many inputs; without it the weights come into being with the first data.
    """

    def __init__(self, features: int | None = None) -> None:
        super().__init__()
        self.linear = keras.layers.Dense(1)
        self.compile(optimizer="sgd", loss="mse")
        if features is not None:
            self.build((None, features))

    def build(self, input_shape: Any) -> None:
        """Make the weights for inputs of shape (batch, features)."""
        self.linear.build(input_shape)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Predictions, shape (batch, 1)."""
        return self.linear(inputs)


class KerasModel:
    """A compiled Keras model as a TrainableModel.

    ``epochs`` and ``batch_size`` are those of local training; datasets bring batches of their own.
    The local optimizer starts afresh each round (McMahan et al. 2017): what its moments would
    remember belongs to another global model, and a client that restarted would differ from one
    that did not.
    """

    def __init__(
        self, model: Any, *, data: Any = None, epochs: int = 1, batch_size: int = 32
    ) -> None:
        if not model.compiled:
            raise ConfigError("the Keras model has no loss: call compile() on it, or give KerasTask"
                              " a loss")  # fmt: skip
        self.model = model
        self._epochs = epochs
        self._batch_size = batch_size
        if not model.built and data is not None:
            model.build((None, *_inputs(data).shape[1:]))
        if not model.built:
            raise ConfigError("the Keras model has no weights yet: call build() on it")
        self._resets: list[tuple[Any, Array]] | None = None
        self._made: dict[bool, tuple[Any, Any]] = {}

    def get_weights(self) -> Sequence[Array]:
        """Return the weights of all layers, trainable or not."""
        weights: list[Array] = self.model.get_weights()
        return weights

    def set_weights(self, weights: Sequence[Array]) -> None:
        """Take over the weights of all layers."""
        self.model.set_weights(weights)

    def fit(self, data: Any, learning_rate: float) -> Mapping[str, float]:
        """Train for ``epochs``; return the last epoch's metrics."""
        self._reset_optimizer()
        self.model.optimizer.learning_rate = learning_rate
        batches = self._batches(data, training=True)
        history = self.model.fit(batches, epochs=self._epochs, shuffle=False, verbose=0)
        return {name: values[-1] for name, values in history.history.items()}

    def evaluate(self, data: Any) -> Mapping[str, float]:
        """Metrics of the current weights on ``data``."""
        batches = self._batches(data, training=False)
        found: Mapping[str, float] = self.model.evaluate(batches, verbose=0, return_dict=True)
        return found

    def _batches(self, data: Any, *, training: bool) -> Any:
        """``data`` as a dataset of batches, made once.

        Given arrays, Keras builds such a dataset anew for each fit and each evaluate, which costs
        50 ms of a round: ten times the training itself where a site has a few hundred records.
        """
        if isinstance(data, tf.data.Dataset):
            return data
        made_for, batches = self._made.get(training, (None, None))
        if made_for is not data:
            count = len(data[0])
            batches = tf.data.Dataset.from_tensor_slices(data)
            if training:
                batches = batches.shuffle(count, reshuffle_each_iteration=True)
            batches = batches.batch(self._batch_size if training else EVALUATION_BATCH)
            self._made[training] = (data, batches)
        return batches

    def _reset_optimizer(self) -> None:
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        if self._resets is None:
            self._resets = [(variable, variable.numpy()) for variable in optimizer.variables]
        for variable, initial in self._resets:
            variable.assign(initial)


class KerasTask(Task):
    """A Keras model and its data as a task.

    ``loss`` and ``metrics`` compile the model, with ``optimizer`` (SGD unless told); leave ``loss``
    out if it is compiled already. ``data`` and ``validation`` are ``(x, y)`` or batched
    ``tf.data.Dataset``. ``epochs`` and ``batch_size`` are those of one round's local training.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        learning_rate: float = 0.1,
        *,
        validation: Any = None,
        loss: Any = None,
        metrics: Sequence[Any] = (),
        **options: Any,
    ) -> None:
        if loss is not None:
            optimizer = options.pop("optimizer", "sgd")
            model.compile(optimizer=optimizer, loss=loss, metrics=list(metrics))
        adapted = KerasModel(model, data=data, **options)
        super().__init__(adapted, data, learning_rate, validation)


def _inputs(data: Any) -> Any:
    return data[0] if isinstance(data, tuple) else next(iter(data))[0]
