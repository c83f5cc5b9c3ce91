"""The gradient of each single record by the weights of a Keras model."""

import os
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from client_worker.models.keras_backend import keras, tf
from client_worker.models.keras_data import Parts, sliced
from client_worker.models.keras_gradients import called, has_own_step, innermost
from client_worker.privacy.terms import RECORD_PRIVACY, Refused
from warren_shared.tensors.layout import Array

PART_SIZE: Final = 1 << 22  # numbers in a part of the gradients


class RecordGradients:
    """Computes them one after another, each in a batch of its own, so that none knows of another.

    What a layer draws at random (dropout) it draws alike for all records of a step: the generators
    have the same state before each, or a record that was left out would give all later ones others.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        trained = {id(variable) for variable in model.trainable_variables}
        self._trained = [each for each in model.weights if id(each) in trained]
        self._fixed = [each for each in model.weights if id(each) not in trained]
        known = {id(each) for each in (*model.weights, *model.metrics_variables)}
        self._generators = [each for each in model.variables if id(each) not in known]
        self._size = sum(int(np.prod(each.shape)) for each in self._trained)
        self._made: tuple[Any, Any] = (None, None)
        self._of_part = tf.function(self._gradients, reduce_retracing=True)

    def of(self, data: Any) -> Iterator[Array]:
        """Parts of shape (records, parameters), of ``data`` in Parts.

        Raises Refused if a layer remembers what it has seen.
        """
        if not isinstance(data, Parts):
            raise Refused(_NO_ARRAYS)
        made_of, batches = self._made
        if made_of is not data:
            batches = sliced(tuple(data)).batch(max(1, PART_SIZE // self._size))
            self._made = data, batches
        before = [variable.numpy() for variable in self._fixed]
        seed = tf.constant(np.frombuffer(os.urandom(8), np.uint32))
        for batch in batches:
            yield self._of_part(batch, seed).numpy()
            for variable, value in zip(self._fixed, before, strict=True):
                if variable.numpy().tobytes() != value.tobytes():
                    variable.assign(value)
                    raise Refused(
                        f"{RECORD_PRIVACY}: training changes {variable.path}, which is no trainable"
                        " weight, with what it sees of the data: use a layer that does not"
                    )

    def _gradients(self, batch: Any, seed: Any) -> Any:
        return tf.map_fn(
            lambda record: self._gradient(record, seed),
            batch,
            fn_output_signature=tf.TensorSpec((self._size,), tf.float32),
            parallel_iterations=1,
        )

    def _gradient(self, record: Any, seed: Any) -> Any:
        for generator in self._generators:
            generator.assign(tf.cast(seed, generator.dtype))
        alone = tf.nest.map_structure(lambda part: tf.expand_dims(part, 0), record)
        x, y, weights = keras.utils.unpack_x_y_sample_weight(alone)
        with tf.GradientTape() as tape:
            output = called(self._model, x)
            loss = self._model.compute_loss(
                x=x, y=y, y_pred=output, sample_weight=weights, training=True
            )
        found = tape.gradient(loss, [variable.value for variable in self._trained])
        flat = [
            tf.zeros(variable.shape, tf.float32) if gradient is None
            else tf.cast(tf.convert_to_tensor(gradient), tf.float32)
            for gradient, variable in zip(found, self._trained, strict=True)
        ]  # fmt: skip
        return tf.concat([tf.reshape(each, [-1]) for each in flat], axis=0)


def why_not_private(model: Any, layers: list[Any], *, has_callbacks: bool, weighs: bool) -> str:
    """What keeps ``model`` from private training; empty if nothing does."""
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            return (
                f"{layer.name} (BatchNormalization) mixes the records of a batch and keeps their"
                " statistics: use GroupNormalization or LayerNormalization, or freeze it"
            )
        if getattr(layer, "stateful", False):
            return f"{layer.name} is stateful, so a record changes the gradients of the next ones"
    sizes = {one.shape[0] for one in tf.nest.flatten(getattr(model, "inputs", None) or [])}
    optimizer = innermost(model.optimizer)
    reasons = {
        "the model has a train_step of its own, which would not be called": has_own_step(model),
        "callbacks would not be heeded: leave them out": has_callbacks,
        "class_weight would not be heeded: leave it out": weighs,
        "the model takes batches of one size, and gradients are of single records": bool(
            sizes - {None, 1}
        ),
        "the optimizer accumulates gradients or averages weights: use one that does not": bool(
            optimizer.gradient_accumulation_steps or optimizer.use_ema
        ),
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


NO_ARRAYS: Final = (
    "a dataset may give a record more than once in an epoch: give arrays, (x, y), with a row for"
    " each record"
)
_NO_ARRAYS: Final = f"{RECORD_PRIVACY}: {NO_ARRAYS}"
