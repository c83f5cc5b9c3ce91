"""Keras in a federation. The only file that knows TensorFlow."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from client_worker.models import keras_archive, keras_state
from client_worker.models.keras_backend import keras, tf
from client_worker.models.keras_data import (
    Batches,
    EpochLengths,
    Parts,
    a_batch,
    as_parts,
    check_dataset,
    quiet_at_the_end,
)
from client_worker.models.keras_gradients import MAX_SKIPPED, GradientChange, innermost
from client_worker.models.keras_loss import Labels, counts, labels_in_one_line
from client_worker.models.keras_records import NO_ARRAYS, RecordGradients, why_not_private
from client_worker.models.tensorflow_log import without_greetings
from client_worker.training.example_count import is_py_dataset, rows
from client_worker.training.plan import LOCAL_STEPS, TrainingPlan
from warren_shared.errors import ConfigError
from warren_shared.tensors.description import FROZEN
from warren_shared.tensors.evaluation import Evaluation
from warren_shared.tensors.layout import STATISTIC, TRAINABLE, Array

BATCH_SIZE: Final = 32


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
    ``shuffle`` shuffles arrays for each epoch, unless the model is stateful; ``steps_per_epoch``
    bounds an epoch of an endless dataset; ``callbacks`` and ``class_weight`` are those of Keras's
    ``fit``. The local optimizer starts afresh each round (McMahan et al. 2017): what its moments
    would remember belongs to another global model, and a client that restarted would differ from
    one that did not. For the same reason the states of recurrent layers are reset.

    Raises ConfigError for what could not be honoured.
    """

    def __init__(
        self,
        model: Any,
        *,
        data: Any = None,
        epochs: int = 1,
        batch_size: int | None = None,
        shuffle: bool | None = None,
        steps_per_epoch: int | None = None,
        callbacks: Sequence[Any] = (),
        class_weight: Mapping[int, float] | None = None,
    ) -> None:
        if not model.compiled:
            raise ConfigError("the Keras model has no loss: call compile() on it, or give KerasTask"
                              " a loss")  # fmt: skip
        _check_optimizer(model, callbacks)
        self.model = model
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._lengths = EpochLengths()
        self._fit_options: dict[str, Any] = {
            "callbacks": [*callbacks, self._lengths],
            "class_weight": class_weight,
        }
        self._known: list[tuple[Any, Any]] = []  # data as they were brought, and as we use them
        self._evaluated: tuple[Any, int] = (None, 0)
        if not model.built and data is not None:
            self._build(data)
        if not model.built or not model.weights:
            raise ConfigError("the Keras model has no weights yet: call build() on it")
        whole = _fixed_batch_size(model)
        if whole and batch_size not in (None, whole):
            raise ConfigError(f"the model takes batches of {whole}, not {batch_size}: give"
                              f" batch_size={whole}")  # fmt: skip
        self._stateful = [layer for layer in _layers(model) if getattr(layer, "stateful", False)]
        if self._stateful and shuffle:
            raise ConfigError("a stateful model's examples follow each other: leave shuffle out")
        self._shuffle = not self._stateful if shuffle is None else shuffle
        self._batch_size = batch_size or whole or BATCH_SIZE
        self._made = Batches(self._batch_size, shuffle=self._shuffle, whole=whole)
        self._labels = Labels(model)
        self._resets: list[tuple[Any, Array]] | None = None
        self._change: GradientChange | None = None
        self._records: RecordGradients | None = None
        self._tried: set[bool] = set()  # guided steps that were tried, with SCAFFOLD or without
        if data is not None:
            self.prepare(data)
            if isinstance(self.prepare(data), Parts) and steps_per_epoch is not None:
                raise ConfigError("steps_per_epoch is for datasets: leave it out, or have the"
                                  " coordinator ask for --local-steps")  # fmt: skip

    def get_weights(self) -> Sequence[Array]:
        """Return the weights of all layers, trainable or not."""
        weights: list[Array] = self.model.get_weights()
        return weights

    def set_weights(self, weights: Sequence[Array]) -> None:
        """Take over the weights of all layers, and forget the states of recurrent ones."""
        layers = keras_state.normalisers(self.model)
        before = [layer.get_weights() for layer in layers]
        self.model.set_weights(weights)
        keras_state.take_over(self.model, layers, before)
        self._reset_states()

    def weight_names(self) -> list[str]:
        """Return a name such as ``sequential/dense/kernel`` for each array of get_weights."""
        return [variable.path for variable in self.model.weights]

    def fixed_state(self) -> dict[str, str]:
        """Return digests of what has to be equal at every site and is not exchanged."""
        return keras_state.digests(self.model)

    def weight_roles(self) -> list[str]:
        """Return ``trainable``, ``statistic`` or ``frozen`` for each array of get_weights.

        What is frozen counts as a statistic while all is exchanged: averaged, not stepped.
        """
        trained = {id(variable) for variable in self.model.trainable_variables}
        frozen = keras_state.frozen(self.model)
        return [
            TRAINABLE if id(one) in trained else FROZEN if id(one) in frozen else STATISTIC
            for one in self.model.weights
        ]

    def adapters(self) -> list[tuple[str, int, int]]:
        """Return name and places of A and B of each low-rank adapter, whose product counts."""
        return keras_state.adapters(self.model)

    def prepare(self, data: Any) -> Any:
        """Return ``data`` as Keras is given them, checked; made once for each data set.

        Raises ConfigError for labels that the loss does not take, and for what is no data.
        """
        for brought, prepared in self._known:
            if brought is data:
                return prepared
        inputs = frozenset(getattr(self.model, "input_names", None) or _input_names(self.model))
        parts = as_parts(data, inputs)
        check_dataset(parts, self._steps_per_epoch)
        prepared = self._labels.checked(parts)
        self._known = [*self._known[-3:], (data, prepared)]
        return prepared

    def fit(
        self, data: Any, learning_rate: float, guide: TrainingPlan | None = None
    ) -> Mapping[str, float]:
        """Train for ``epochs``, or as ``guide`` says.

        Return the last epoch's metrics (with ``steps``, those of all steps) and the steps taken.

        Raises ConfigError if no step was taken, and if the guide cannot be heeded.
        """
        prepared = self.prepare(data)
        self._reset_optimizer()
        self.model.optimizer.learning_rate = learning_rate
        self._heed(guide, prepared)
        self._reset_states()
        batches = self._made.of(prepared, training=True)
        epochs = (guide.epochs if guide is not None else None) or self._epochs
        steps = self._steps_per_epoch
        if guide is not None and guide.steps is not None:
            batches, epochs, steps = self._made.first(guide.steps, batches), 1, None
        metrics = self._fit(batches, epochs, steps)
        self._check_rate(learning_rate)
        return metrics

    @property
    def epochs(self) -> int:
        """Passes over the data in a round, if the coordinator asks for no other number."""
        return self._epochs

    def why_not_private(self, data: Any) -> str:
        """What keeps this model from training on ``data`` record by record; empty if nothing."""
        callbacks = [each for each in self._fit_options["callbacks"] if each is not self._lengths]
        weighs = bool(self._fit_options["class_weight"])
        found = why_not_private(
            self.model, _layers(self.model), has_callbacks=bool(callbacks), weighs=weighs
        )
        return found or ("" if isinstance(self.prepare(data), Parts) else NO_ARRAYS)

    def per_example_gradients(self, data: Any) -> Iterator[Array]:
        """Each record's gradient by the trainable weights, in parts (records, parameters).

        Penalties of the weights (``kernel_regularizer``) are part of each record's.
        """
        if self._records is None:
            self._records = RecordGradients(self.model)
        with labels_in_one_line():
            yield from self._records.of(self.prepare(data))

    def begin_private(self) -> None:
        """Make the optimizer as it was at first."""
        self._reset_optimizer()

    def private_step(self, gradients: Sequence[Array], learning_rate: float) -> None:
        """Have the compiled optimizer take a step with these gradients."""
        trained = {id(variable) for variable in self.model.trainable_variables}
        variables = [each for each in self.model.weights if id(each) in trained]
        self.model.optimizer.learning_rate = learning_rate
        # The innermost: one that scales the loss would divide by a scale that is not in these.
        innermost(self.model.optimizer).apply(
            [tf.convert_to_tensor(gradient) for gradient in gradients], variables
        )

    def _fit(self, batches: Any, epochs: int, steps_per_epoch: int | None) -> dict[str, float]:
        """Keras's own fit; its last epoch's figures, and how many steps the optimizer took."""
        optimizer = innermost(self.model.optimizer)
        shuffle = self._shuffle and is_py_dataset(batches)
        steps, found = 0, None
        for _ in range(MAX_SKIPPED):
            with quiet_at_the_end(), labels_in_one_line():
                found = self.model.fit(
                    batches,
                    epochs=epochs,
                    steps_per_epoch=steps_per_epoch,
                    shuffle=shuffle,
                    verbose=0,
                    **self._fit_options,
                )
            steps = min(int(optimizer.iterations.numpy()), self._updates(optimizer))
            if steps or optimizer is self.model.optimizer or not found.history:
                break  # else every gradient overflowed; the loss scale has been halved meanwhile
        is_short = not self._lengths.are(steps_per_epoch) and not self.model.stop_training
        if not steps or found is None or is_short:
            raise ConfigError(_NO_STEP)
        metrics = {name: values[-1] for name, values in found.history.items() if values}
        return metrics | {LOCAL_STEPS: float(steps)}

    def _updates(self, optimizer: Any) -> int:
        """The most updates that the last training's batches can have made.

        TensorFlow counts one more where a dataset of unknown length ends: that needs no data.
        """
        return sum(self._lengths.batches) // (optimizer.gradient_accumulation_steps or 1)

    def _check_rate(self, learning_rate: float) -> None:
        """A callback that changed the learning rate took the round's from it."""
        found = float(self.model.optimizer.learning_rate)
        if abs(found - learning_rate) > 1e-5 * learning_rate:
            raise ConfigError(f"a callback set the learning rate to {found:g} while the round's is"
                              f" {learning_rate:g}: leave it out")  # fmt: skip

    def evaluate(self, data: Any) -> Evaluation:
        """Metrics of the current weights on ``data``.

        A classifier's also as counts, so that accuracy, AUC and the like can be pooled: a mean of
        the clients' AUCs would not be the AUC of all. Sample weights act on Keras's own metrics,
        not on the counts.
        """
        prepared = self.prepare(data)
        batches = self._made.of(prepared, training=False)
        self._reset_states()
        found: Mapping[str, float]
        with quiet_at_the_end(), labels_in_one_line():
            found = self.model.evaluate(batches, verbose=0, return_dict=True)
        self._reset_states()
        known, examples = self._evaluated
        if isinstance(prepared, Parts):
            known, examples = data, rows(tuple(prepared))
        counted, read = counts(self.model, batches, known=examples if known is data else None)
        self._reset_states()
        if not read:
            raise ConfigError(_NOT_READ)
        self._evaluated = (data, read)
        if counted is None:
            return Evaluation(read, found)
        return replace(counted, means=found)

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

    def _build(self, data: Any) -> None:
        """Make the weights of a model that has no input shape, by calling it on one batch."""
        batch = a_batch(as_parts(data), 2)
        try:
            self.model(keras.utils.unpack_x_y_sample_weight(batch)[0])
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"the Keras model cannot be built from the data: {_line(error)}; call"
                              " build() on it") from error  # fmt: skip

    def _heed(self, guide: TrainingPlan | None, prepared: Any) -> None:
        """Let the optimizer heed ``guide``; one that never was asked to is left as it is."""
        if guide is None:
            guide = TrainingPlan(())
        asked = {"proximal", "correction", "clip_norm"} & set(guide.asked())
        if self._change is None:
            if not asked:
                return
            self._change = GradientChange(self.model)
        scaffold = guide.correction is not None
        if asked and scaffold not in self._tried:
            with labels_in_one_line():
                batch = a_batch(prepared, self._batch_size)
            self._change.check(batch, scaffold=scaffold)
            self._tried |= {scaffold, False}
        self._change.heed(guide)

    def _reset_states(self) -> None:
        """Reset stateful layers: their states belong to the weights before."""
        for layer in self._stateful:
            for name in ("reset_state", "reset_states"):
                if hasattr(layer, name):
                    getattr(layer, name)()
                    break

    def _reset_optimizer(self) -> None:
        """Make the optimizer as it was at first, but for a loss scale, which is no memory of data.

        A scale that is too high costs steps until it is halved often enough, in each round.
        """
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        if self._resets is None:
            variables = innermost(optimizer).variables
            self._resets = [(variable, variable.numpy()) for variable in variables]
        for variable, initial in self._resets:
            variable.assign(initial)


_NO_STEP: Final = (
    "training took no optimizer step, or fewer than asked for, so there is no update: the data gave"
    " too few batches (a generator that was used up?), gradient_accumulation_steps is more than the"
    " batches of a round, or the model's train_step does not use the compiled optimizer"
)
_NOT_READ: Final = (
    "the held-out data gave no batch: they hold nothing, or can be read only once; give arrays"
)


def _check_optimizer(model: Any, callbacks: Sequence[Any]) -> None:
    """Raise ConfigError if the learning rate of a round could not be set, or on many devices."""
    schedules = keras.optimizers.schedules.LearningRateSchedule
    if isinstance(getattr(innermost(model.optimizer), "_learning_rate", None), schedules):
        raise ConfigError("the optimizer's learning rate is a schedule, which would begin again in"
                          " every round: give a number, and --learning-rate-schedule to the"
                          " coordinator")  # fmt: skip
    changing = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)
    for callback in callbacks:
        if isinstance(callback, changing):
            raise ConfigError(f"{type(callback).__name__} changes the learning rate, which is the"
                              " round's: leave it out")  # fmt: skip
    strategy = getattr(model, "distribute_strategy", None)
    if getattr(strategy, "num_replicas_in_sync", 1) > 1:
        raise ConfigError("a distribution strategy spreads the model over several devices: make it"
                          " without, and start a client for each device")  # fmt: skip


def _layers(model: Any) -> list[Any]:
    """Every layer of ``model``, also inside others."""
    return list(model._flatten_layers())  # model.layers does not look inside


def _fixed_batch_size(model: Any) -> int | None:
    """Return the number of examples that every batch must have, if the model is built for one."""
    inputs = tf.nest.flatten(getattr(model, "inputs", None) or [])
    sizes = {one.shape[0] for one in inputs if one.shape[0] is not None}
    return int(sizes.pop()) if len(sizes) == 1 else None


def _input_names(model: Any) -> list[str]:
    return [one.name for one in tf.nest.flatten(getattr(model, "inputs", None) or [])]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
