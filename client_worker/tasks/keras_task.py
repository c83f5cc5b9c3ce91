"""A Keras model and its data as a task."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

from client_worker.models.keras_backend import keras
from client_worker.models.keras_model import KerasModel
from client_worker.tasks.task import HOOKS, Task
from warren_shared.config.command_line import nearest
from warren_shared.errors import ConfigError

# Options that are the client's.
OWN: Final = (*("num_examples", "update_rule", "local", "ditto", "record_privacy"), *HOOKS)
REFUSED: Final = {  # options of Keras's fit, and what does the same here
    "sample_weight": "make it the third part of data: (x, y, sample_weight)",
    "validation_split": "split the data yourself and give validation=(x, y)",
    "validation_data": "give validation=(x, y)",
    "validation_steps": "give validation=dataset.take(steps)",
    "validation_batch_size": "leave it out: held-out data come in large batches",
    "validation_freq": "leave it out: every global model is evaluated",
    "initial_epoch": "leave it out: each round begins at epoch 0",
    "verbose": "leave it out: the client logs each round",
}


class KerasTask(Task):
    """A Keras model and its data as a task.

    ``loss`` and ``metrics`` compile the model, with ``optimizer`` (SGD unless told); leave ``loss``
    out if it is compiled already. ``data`` and ``validation`` are ``(x, y)`` or batched
    ``tf.data.Dataset``. ``epochs`` and ``batch_size`` are those of one round's local training.
    ``shuffle``, ``callbacks``, ``class_weight`` and, for endless datasets, ``steps_per_epoch`` are
    those of Keras's ``fit``; options of its ``compile`` go with ``loss``. ``num_examples``,
    ``update_rule``, ``local`` (by name: ``dense_1``, ``dense_1/bias``), ``ditto`` and
    ``record_privacy`` are FederatedClient's; ``on_model``, ``on_trained`` and ``on_finished`` are
    Task's.

    Raises ConfigError for any other option, and for what cannot be honoured.
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
        compiling = {name: options.pop(name) for name in _compile_options() if name in options}
        if loss is not None:
            compiling.setdefault("optimizer", "sgd")
            model.compile(loss=loss, metrics=_as_compiled(metrics), **compiling)
        elif metrics or compiling:
            given = ", ".join([*compiling, *(["metrics"] if metrics else [])])
            raise ConfigError(f"{given} without loss: give KerasTask the loss, too, or give them to"
                              " compile()")  # fmt: skip
        own = {name: options.pop(name) for name in OWN if name in options}
        _check_options(options)
        adapted = KerasModel(model, data=data, **options)
        if validation is not None:
            adapted.prepare(validation)
        super().__init__(adapted, data, learning_rate, validation, **own)


def _compile_options() -> list[str]:
    """Names of compile()'s options that KerasTask takes beside loss and metrics."""
    known = inspect.signature(keras.Model.compile).parameters
    return [name for name in known if name not in ("self", "loss", "metrics")]


def _as_compiled(metrics: Any) -> Any:
    if not metrics:
        return None  # an empty list has Keras ask a train_step for metrics that are not there
    return metrics if isinstance(metrics, Mapping) else list(metrics)


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option that KerasModel does not have."""
    known = [name for name in inspect.signature(KerasModel).parameters if name not in
             ("model", "data")]  # fmt: skip
    for name in options:
        if name in REFUSED:
            raise ConfigError(f"KerasTask takes no {name}: {REFUSED[name]}")
        if name not in known:
            guess = nearest(name, [*known, *OWN])
            raise ConfigError(f"KerasTask takes no {name}: {guess or 'see its docstring'}")
