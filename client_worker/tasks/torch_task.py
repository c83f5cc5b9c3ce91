"""A PyTorch module and its data as a task."""

import inspect
from collections.abc import Mapping
from typing import Any, Final

from client_worker.tasks.task import Task
from warren_shared.config.command_line import nearest
from warren_shared.errors import ConfigError

OWN: Final = ("num_examples", "update_rule", "local", "ditto")  # options that are the client's
REFUSED: Final = {
    "criterion": "give it as loss=",
    "scheduler": "leave it out: the learning rate is the round's, and the coordinator has"
    " --learning-rate-schedule",
    "lr_scheduler": "leave it out: the learning rate is the round's, and the coordinator has"
    " --learning-rate-schedule",
    "lr": "it is the third argument, learning_rate",
    "record_privacy": "its modules have no gradients of single records yet: use a KerasTask or a"
    " NumpyModel",
}


class TorchTask(Task):
    """A PyTorch module and its data as a task.

    ``loss(output, y)`` is a mean over a batch, such as ``torch.nn.CrossEntropyLoss()``; for
    batches of another form ``step(module, batch)`` returns it. ``data`` and ``validation`` are
    ``(x, y)`` of arrays or tensors, a ``Dataset`` of such pairs, or a ``DataLoader``.
    ``optimizer`` is a class or a function of ``(parameters, lr)``, plain SGD unless told.
    ``epochs``, ``batch_size`` (32) and ``shuffle`` are those of one round's local training,
    ``steps_per_epoch`` bounds an epoch of endless data. ``metrics`` are functions of ``(output,
    y)`` by name; ``evaluate(module, data)`` returns figures of its own or an Evaluation.
    ``device``: the graphics card if there is one. ``num_examples``, ``update_rule``, ``local`` (by
    name: ``head``, ``head.bias``) and ``ditto`` are FederatedClient's.

    Raises ConfigError for any other option, and for what cannot be honoured.
    """

    def __init__(
        self,
        module: Any,
        data: Any,
        learning_rate: float = 0.1,
        *,
        loss: Any = None,
        validation: Any = None,
        **options: Any,
    ) -> None:
        from client_worker.models.torch_model import TorchModel  # seconds, and not everywhere

        own = {name: options.pop(name) for name in OWN if name in options}
        known = list(inspect.signature(TorchModel).parameters)[1:]
        _check_options(options, [name for name in known if name not in ("data", "loss")])
        adapted = TorchModel(module, data=data, loss=loss, **options)
        super().__init__(adapted, data, learning_rate, validation, **own)


def _check_options(options: Mapping[str, Any], known: list[str]) -> None:
    """Raise ConfigError for an option that TorchModel does not have."""
    for name in options:
        if name in REFUSED:
            raise ConfigError(f"TorchTask takes no {name}: {REFUSED[name]}")
        if name not in known:
            guess = nearest(name, [*known, "loss", "validation", *OWN])
            raise ConfigError(f"TorchTask takes no {name}: {guess or 'see its docstring'}")
