"""Changes a Keras model's gradients as a TrainingPlan says, and proves that the change takes place.

The step that Keras compiles, a user's own too, ends in the optimizer's update of the weights. That
is where the gradients are changed: in the *innermost* optimizer (LossScaleOptimizer wraps another),
after its loss scale is divided out, where sparse gradients and subsets of the variables arrive as
they are. Whether a model's training really comes through there, with the gradients of its loss, is
tried with one step before the first guided round (``check``).
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from client_worker.models.keras_backend import keras, tf
from client_worker.training.plan import TrainingPlan
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Array

MAX_SKIPPED: Final = 30  # steps that a loss scale which is too high may cost
TOLERANCE: Final = 0.05  # relative, of norms; a gradient that is scaled differs by a factor
PROBE_SCALE: Final = 1024.0  # keeps 16-bit gradients from vanishing


def innermost(optimizer: Any) -> Any:
    """The optimizer that changes the weights, inside whatever wraps it."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


class GradientChange:
    """d = clip(g) + proximal * (w - anchor) + correction in place of each gradient g.

    What a round brings is read from variables: only another *kind* of guide has the training step
    compiled again.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._optimizer = innermost(model.optimizer)
        self._update = self._optimizer._backend_apply_gradients  # no public place
        self._optimizer._backend_apply_gradients = self._changed_update
        self._variables = list(model.trainable_variables)
        self._number = {id(variable): n for n, variable in enumerate(self._variables)}
        place = {id(variable): number for number, variable in enumerate(model.weights)}
        self._places = [place[id(variable)] for variable in self._variables]
        self._proximal, self._clip_norm = tf.Variable(0.0), tf.Variable(1.0)
        self._anchor: list[Any] = []
        self._correction: list[Any] = []
        self._kinds = (False, False, False)
        self._seen: list[tuple[list[Any], list[Any]]] | None = None  # gradients of a trial step

    def heed(self, guide: TrainingPlan) -> None:
        """Take over what ``guide`` asks for from now on."""
        self._anchor = self._filled(self._anchor, guide.anchor if guide.proximal else None)
        self._correction = self._filled(self._correction, guide.correction)
        self._proximal.assign(guide.proximal)
        self._clip_norm.assign(guide.clip_norm or 1.0)
        kinds = (guide.proximal > 0, guide.correction is not None, guide.clip_norm is not None)
        if kinds != self._kinds:
            self._kinds = kinds
            self._model.train_function = None  # or the compiled step would go on as it was

    def _changed_update(self, gradients: Any, trainable_variables: Any) -> Any:
        """In place of the optimizer's update: change ``gradients`` and hand them to it."""
        pulled, corrected, clipped = self._kinds
        if not any(self._kinds):
            return self._update(gradients, trainable_variables)
        # Dense, for a sparse gradient may name a row twice: its norm is not that of its values.
        changed = [tf.convert_to_tensor(gradient) for gradient in gradients]
        variables = list(trainable_variables)
        if self._seen is not None:
            self._seen.append((list(changed), variables))
        if clipped:
            changed = _clipped(changed, self._clip_norm)
        for number, variable in enumerate(variables):
            place, dtype = self._number.get(id(variable)), changed[number].dtype
            if place is None:
                raise ConfigError(f"training steps {variable.path}, which is none of the model's"
                                  " trainable variables: train it apart")  # fmt: skip
            if pulled:
                away = tf.convert_to_tensor(variable) - self._anchor[place]
                changed[number] += tf.cast(self._proximal, dtype) * tf.cast(away, dtype)
            if corrected:
                changed[number] += tf.cast(self._correction[place], dtype)
        return self._update(changed, trainable_variables)

    def _filled(self, variables: list[Any], arrays: Sequence[Array] | None) -> list[Any]:
        if arrays is None:
            return variables
        chosen = [arrays[place] for place in self._places]
        if not variables:
            pairs = zip(chosen, self._variables, strict=True)
            return [_like(variable, array) for array, variable in pairs]
        for variable, array in zip(variables, chosen, strict=True):
            variable.assign(tf.cast(array, variable.dtype))
        return variables

    # --- the trial ------------------------------------------------------------------------------

    def check(self, batch: Any, *, scaffold: bool) -> None:
        """Try one guided step on ``batch``, a tuple of tensors; leave the model as it was.

        Raises ConfigError unless the gradients that arrive are those of the model's loss and, for
        SCAFFOLD, the weights move by exactly learning rate times the changed gradients.
        """
        if scaffold:
            self._check_plain()
        kept = [(variable, variable.numpy()) for variable in _state(self._model)]
        kinds, self._kinds = self._kinds, (True, True, True)
        try:
            true = None if has_own_step(self._model) else self._true_gradients(batch)
            _restore(kept)
            before = [variable.numpy().astype(np.float64) for variable in self._variables]
            self._shift(before)
            gradients, variables = self._trial_step(batch)
            if true is not None:
                self._compare(gradients, variables, true)
            accumulates = self._optimizer.gradient_accumulation_steps
            if scaffold and not accumulates:
                self._check_moved(before, gradients, variables)
        finally:
            self._seen, self._kinds = None, kinds
            self._anchor, self._correction = [], []
            _restore(kept)
            self._model.reset_metrics()
            self._model.train_function = None

    def _shift(self, before: list[Array]) -> None:
        """Let every term of the change be there, of the size of the weights."""
        pairs = list(zip(before, self._variables, strict=True))
        self._anchor = [_like(variable, array + 0.5) for array, variable in pairs]
        self._correction = [_like(v, np.full(array.shape, 0.5)) for array, v in pairs]
        self._proximal.assign(0.5)
        self._clip_norm.assign(0.125)

    def _trial_step(self, batch: Any) -> tuple[list[Any], list[Any]]:
        """Take the model's own training step; return the gradients that arrived, and of what."""
        self._seen = []
        for _ in range(MAX_SKIPPED):
            self._model.train_step(batch)
            if self._seen or self._optimizer is self._model.optimizer:
                break  # else the loss scale was too high: it has been halved, and is tried again
        if len(self._seen) != 1:
            raise ConfigError(
                f"one training step of this model updates its weights {len(self._seen)} times"
                " through the compiled optimizer, so that FedProx, Ditto, SCAFFOLD and clipping do"
                " not act as they should: have train_step call self.optimizer.apply_gradients once,"
                " or start the coordinator without them"
            )
        return self._seen[0]

    def _true_gradients(self, batch: Any) -> list[Array]:
        """Gradients of the model's loss on ``batch`` by each trainable variable; zeros if none."""
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            output = called(self._model, x)
            loss = self._model.compute_loss(
                x=x, y=y, y_pred=output, sample_weight=weights, training=True
            )
            loss = tf.cast(loss, tf.float32) * PROBE_SCALE
        found = tape.gradient(loss, self._variables)
        return [
            np.zeros(variable.shape)
            if gradient is None
            else tf.convert_to_tensor(gradient).numpy().astype(np.float64) / PROBE_SCALE
            for gradient, variable in zip(found, self._variables, strict=True)
        ]

    def _compare(self, gradients: list[Any], variables: list[Any], true: list[Array]) -> None:
        expected = [true[self._number[id(variable)]] for variable in variables]
        found = [gradient.numpy().astype(np.float64) for gradient in gradients]
        size, away = _norm(expected), _norm([a - b for a, b in zip(found, expected, strict=True)])
        if not np.isfinite(size + away) or away <= TOLERANCE * size + 1e-7:
            return
        raise ConfigError(
            f"the gradients that reach {type(self._optimizer).__name__} are not those of the loss"
            f" (norm {_norm(found):.3g} instead of {size:.3g}), so that FedProx, Ditto, SCAFFOLD"
            " and clipping would act wrongly: use an optimizer of Keras's, or start the coordinator"
            " without them"
        )

    def _check_moved(self, before: list[Array], gradients: list[Any], variables: list[Any]) -> None:
        found = [gradient.numpy().astype(np.float64) for gradient in gradients]
        if not all(np.isfinite(gradient).all() for gradient in found):
            return
        rate, scale = float(self._optimizer.learning_rate), min(1.0, 0.125 / (_norm(found) or 1.0))
        expected = [np.zeros(array.shape) for array in before]
        for gradient, variable in zip(found, variables, strict=True):
            change = scale * gradient - 0.5 * 0.5 + 0.5  # clipped, drawn to the anchor, corrected
            expected[self._number[id(variable)]] = -rate * change
        moved = [variable.numpy().astype(np.float64) - array
                 for variable, array in zip(self._variables, before, strict=True)]  # fmt: skip
        away = _norm([a - b for a, b in zip(moved, expected, strict=True)])
        rounding = max(float(np.finfo(v.numpy().dtype).eps) for v in self._variables)
        if away > TOLERANCE * _norm(expected) + 4 * rounding * _norm(before):
            raise ConfigError(_NOT_PLAIN)

    def _check_plain(self) -> None:
        """Raise ConfigError if the optimizer's step is not learning rate times gradient."""
        optimizer = self._optimizer
        plain = type(optimizer) is keras.optimizers.SGD and not optimizer.momentum
        extras = ("use_ema", "clipnorm", "clipvalue", "global_clipnorm", "weight_decay")
        used = [name for name in extras if getattr(optimizer, name, None)]
        if any(variable.constraint is not None for variable in self._variables):
            used.append("a constraint of the weights")
        if not plain or used:
            raise ConfigError(_NOT_PLAIN + (f" (it has {', '.join(used)})" if used else ""))


_NOT_PLAIN: Final = (
    "SCAFFOLD takes (x - y) / (steps * learning rate) for the mean gradient, which it is for plain"
    " SGD only: give the task optimizer='sgd', without momentum, averaging, clipping or decay"
)


def _clipped(gradients: list[Any], clip_norm: Any) -> list[Any]:
    """``gradients`` times min(1, clip_norm / norm), the norm over all of them, of any dtypes.

    Squares are summed in float64: those of 16-bit gradients overflow at 256.
    """
    squares = [tf.reduce_sum(tf.square(tf.cast(one, tf.float64))) for one in gradients]
    norm = tf.sqrt(tf.add_n(squares))
    factor = tf.minimum(tf.constant(1.0, tf.float64), tf.cast(clip_norm, tf.float64) / norm)
    return [one * tf.cast(factor, one.dtype) for one in gradients]


def _like(variable: Any, value: Array) -> Any:
    return tf.Variable(tf.cast(value, variable.dtype), trainable=False)


def has_own_step(model: Any) -> bool:
    """Whether ``model`` is trained by steps that are not Keras's."""
    return type(model).train_step is not keras.Model.train_step


def called(model: Any, x: Any) -> Any:
    """What ``model`` puts out for ``x`` in training."""
    try:
        return model(x, training=True)
    except TypeError:
        return model(x)


def _state(model: Any) -> list[Any]:
    """Every variable that a training step may change."""
    found = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return list({id(variable): variable for variable in found}.values())


def _restore(kept: list[tuple[Any, Array]]) -> None:
    for variable, value in kept:
        variable.assign(value)


def _norm(arrays: Sequence[Array]) -> float:
    return float(np.sqrt(sum(float(np.vdot(array, array)) for array in arrays)))
