"""Keras in a federation. The only file that knows TensorFlow."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from client_worker.greetings import without_greetings

with without_greetings():
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices()  # looks for a GPU now, not in the middle of the first round

from client_worker.guide import LOCAL_STEPS, Guide
from client_worker.models import keras_archive, keras_state
from client_worker.task import Task
from shared.errors import ConfigError
from shared.layout import STATISTIC, TRAINABLE, Array
from shared.evaluation import MOST_CLASSES, Evaluation, most_likely, of_classes, of_scores

EVALUATION_BATCH: Final = 1024
OWN: Final = ("num_examples", "update_rule", "local", "ditto")  # options that are the client's


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
        self._repeated: dict[int, tuple[Any, Any]] = {}
        self._directed: _Directed | None = None

    def get_weights(self) -> Sequence[Array]:
        """Return the weights of all layers, trainable or not."""
        weights: list[Array] = self.model.get_weights()
        return weights

    def set_weights(self, weights: Sequence[Array]) -> None:
        """Take over the weights of all layers."""
        layers = keras_state.normalisers(self.model)
        before = [layer.get_weights() for layer in layers]
        self.model.set_weights(weights)
        keras_state.take_over(self.model, layers, before)

    def weight_names(self) -> list[str]:
        """Return a name such as ``sequential/dense/kernel`` for each array of get_weights."""
        return [variable.path for variable in self.model.weights]

    def fixed_state(self) -> dict[str, str]:
        """Return digests of what has to be equal at every site and is not exchanged."""
        return keras_state.digests(self.model)

    def weight_roles(self) -> list[str]:
        """Return ``trainable`` or ``statistic`` for each array of get_weights.

        A frozen layer's weights count as statistics: they are averaged, not stepped.
        """
        trained = {id(variable) for variable in self.model.trainable_variables}
        return [
            TRAINABLE if id(variable) in trained else STATISTIC for variable in self.model.weights
        ]

    def fit(
        self, data: Any, learning_rate: float, guide: Guide | None = None
    ) -> Mapping[str, float]:
        """Train for ``epochs``, or as ``guide`` says.

        Return the last epoch's metrics (with ``steps``, those of all steps) and the steps taken.
        """
        self._reset_optimizer()
        self.model.optimizer.learning_rate = learning_rate
        self._direct(guide)
        batches = self._batches(data, training=True)
        epochs = (guide.epochs if guide is not None else None) or self._epochs
        if guide is not None and guide.steps is not None:
            batches, epochs = self._first(guide.steps, batches), 1
        history = self.model.fit(batches, epochs=epochs, shuffle=False, verbose=0)
        metrics = {name: values[-1] for name, values in history.history.items()}
        return metrics | {LOCAL_STEPS: float(self.model.optimizer.iterations.numpy())}

    def evaluate(self, data: Any) -> Mapping[str, float] | Evaluation:
        """Metrics of the current weights on ``data``.

        A classifier's also as counts, so that accuracy, AUC and the like can be pooled: a mean of
        the clients' AUCs would not be the AUC of all.
        """
        batches = self._batches(data, training=False)
        found: Mapping[str, float] = self.model.evaluate(batches, verbose=0, return_dict=True)
        counts = _counts(self.model, batches)
        if counts is None:
            return found
        return replace(counts, means=found)

    def write_keras(self, to: Path) -> None:
        """Write architecture and weights: to a ``.keras``, else to a folder as a SavedModel.

        Raises ConfigError if the model cannot be written so, such as one of classes that Keras does
        not know how to make again; OSError if the disk does not take it.
        """
        try:
            if to.suffix:
                self.model.save(to)
            else:
                with without_greetings():
                    self.model.export(to, verbose=False)
        except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
            raise ConfigError(f"this Keras model cannot be written: {_line(error)}") from None

    def read_keras(self, path: Path, named: str) -> None:
        """Take over the weights in a ``.keras``, and nothing else that is in it: no code is run.

        Raises ConfigError, calling the file ``named``, if they are not of this model.
        """
        if not zipfile.is_zipfile(path):
            raise ConfigError(f"{named} is not a readable .keras")
        try:
            if other := keras_archive.difference(path, self.model):
                raise ConfigError(f"{named} is of another model: {other}")
            optimizer, self.model.optimizer = self.model.optimizer, None
            try:
                self.model.load_weights(path)  # with an optimizer it would want the file's to fit
            finally:
                self.model.optimizer = optimizer
        except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{named} does not fit the task's model: {_line(error)}") from None

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

    def _first(self, steps: int, batches: Any) -> Any:
        """``steps`` batches, from the beginning again whenever they are through; made once."""
        made_of, found = self._repeated.get(steps, (None, None))
        if made_of is not batches:
            found = batches.repeat().take(steps)
            self._repeated = {steps: (batches, found)}
        return found

    def _direct(self, guide: Guide | None) -> None:
        """Let the optimizer heed ``guide``; one that never was asked to is left as it is."""
        if guide is None:
            guide = Guide(())
        if self._directed is None:
            if not {"proximal", "correction", "clip_norm"} & set(guide.asked()):
                return
            self._directed = _Directed(self.model)
        self._directed.heed(guide)

    def _reset_optimizer(self) -> None:
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        if self._resets is None:
            self._resets = [(variable, variable.numpy()) for variable in optimizer.variables]
        for variable, initial in self._resets:
            variable.assign(initial)


class _Directed:
    """Changes each gradient of ``model`` on its way to the optimizer, as a Guide says.

    The step that Keras compiles goes through ``optimizer.apply``, whoever wrote the step, so that
    is where the gradients are changed. What a round brings is read from variables: only another
    *kind* of guide has the step compiled again.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._apply = model.optimizer.apply
        self._variables = list(model.trainable_variables)
        place = {id(variable): number for number, variable in enumerate(model.weights)}
        self._places = [place[id(variable)] for variable in self._variables]
        self._proximal, self._clip_norm = tf.Variable(0.0), tf.Variable(1.0)
        self._anchor: list[Any] = []
        self._correction: list[Any] = []
        self._kinds = (False, False, False)
        model.optimizer.apply = self.apply

    def heed(self, guide: Guide) -> None:
        """Take over what ``guide`` asks for from now on."""
        self._anchor = self._filled(self._anchor, guide.anchor if guide.proximal else None)
        self._correction = self._filled(self._correction, guide.correction)
        self._proximal.assign(guide.proximal)
        self._clip_norm.assign(guide.clip_norm or 1.0)
        if guide.correction is not None and not _is_plain(self._model.optimizer):
            raise ConfigError(
                "SCAFFOLD takes (x - y) / (steps * learning rate) for the mean gradient, which it"
                " is for plain SGD only: give the task optimizer='sgd', without momentum"
            )
        kinds = (guide.proximal > 0, guide.correction is not None, guide.clip_norm is not None)
        if kinds != self._kinds:
            self._kinds = kinds
            self._model.train_function = None  # or the compiled step would go on as it was

    def apply(self, gradients: Any, trainable_variables: Any = None) -> Any:
        """Change ``gradients`` and hand them to the optimizer."""
        pulled, corrected, clipped = self._kinds
        changed = list(gradients)
        if clipped:
            changed, _ = tf.clip_by_global_norm(changed, self._clip_norm)
        for place, gradient in enumerate(changed):
            if gradient is None:
                continue
            found = tf.convert_to_tensor(gradient)
            if pulled:
                away = self._variables[place] - self._anchor[place]
                found += tf.cast(self._proximal, found.dtype) * away
            if corrected:
                found += self._correction[place]
            changed[place] = found
        return self._apply(changed, trainable_variables)

    def _filled(self, variables: list[Any], arrays: Sequence[Array] | None) -> list[Any]:
        if arrays is None:
            return variables
        chosen = [arrays[place] for place in self._places]
        if not variables:
            return [tf.Variable(array, trainable=False) for array in chosen]
        for variable, array in zip(variables, chosen, strict=True):
            variable.assign(array)
        return variables


def _is_plain(optimizer: Any) -> bool:
    return isinstance(optimizer, keras.optimizers.SGD) and not optimizer.momentum


def _counts(model: Any, batches: Any) -> Evaluation | None:
    """Right and wrong predictions of a model that answers one question; None of any other."""
    loss = model.loss
    name = loss if isinstance(loss, str) else getattr(loss, "name", "")
    if "crossentropy" not in str(name):
        return None
    labels, outputs = [], []
    for x, y, *_weights in batches:
        output = model.predict_on_batch(x)
        if not hasattr(output, "ndim") or output.ndim != 2 or output.shape[1] > MOST_CLASSES:
            return None
        labels.append(np.asarray(y))
        outputs.append(output)
    truth, guess = np.concatenate(labels), np.concatenate(outputs)
    if guess.shape[1] == 1:
        is_logit = getattr(loss, "_fn_kwargs", {}).get("from_logits", False)
        return of_scores(truth, guess, 0.0 if is_logit else 0.5)
    if "binary" in str(name):
        return None  # several questions at once
    if truth.ndim == 2 and truth.shape[1] > 1:
        truth = truth.argmax(axis=1)
    return of_classes(truth, most_likely(guess), guess.shape[1])


class KerasTask(Task):
    """A Keras model and its data as a task.

    ``loss`` and ``metrics`` compile the model, with ``optimizer`` (SGD unless told); leave ``loss``
    out if it is compiled already. ``data`` and ``validation`` are ``(x, y)`` or batched
    ``tf.data.Dataset``. ``epochs`` and ``batch_size`` are those of one round's local training.
    ``num_examples``, ``update_rule``, ``local`` (by name: ``dense_1``, ``dense_1/bias``) and
    ``ditto`` are FederatedClient's.
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
        own = {name: options.pop(name) for name in OWN if name in options}
        adapted = KerasModel(model, data=data, **options)
        super().__init__(adapted, data, learning_rate, validation, **own)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _inputs(data: Any) -> Any:
    return data[0] if isinstance(data, tuple) else next(iter(data))[0]
