"""A PyTorch module in a federation."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import numpy as np

from client_worker.models import torch_state
from client_worker.models.torch_backend import torch
from client_worker.models.torch_data import EVALUATION_BATCH, Batches, length, moved
from client_worker.models.torch_loss import Loss
from client_worker.training.plan import LOCAL_STEPS, TrainingPlan
from warren_shared.errors import ConfigError
from warren_shared.tensors.evaluation import Evaluation
from warren_shared.tensors.layout import TRAINABLE, Array

Step = Callable[[Any, Any], Any]
NORMALIZERS: Final = torch.nn.modules.batchnorm._BatchNorm
BATCH_SIZE: Final = 32


class TorchModel:
    """A PyTorch module and its loss as a TrainableModel.

    ``loss(output, y)`` is a mean over a batch of ``(x, y)``; or ``step(module, batch)`` returns
    that of a batch of any form. ``optimizer(parameters, lr=…)`` makes the local optimizer, SGD
    without it; it is made again in each round (McMahan et al. 2017), since what its moments would
    remember belongs to another global model. ``epochs``, ``batch_size``, ``shuffle`` are those of
    local training; a DataLoader brings batches of its own. ``steps_per_epoch`` bounds an epoch of
    data that never end. ``metrics``, by name, are functions of ``(output, y)``; ``evaluate(module,
    data)`` takes the place of all that evaluation does otherwise. ``device``: the graphics card if
    there is one.

    Submodules that are in eval mode while the module is not stay so in training.

    Raises ConfigError for what could not be honoured.
    """

    def __init__(  # noqa: PLR0913  # all but one by keyword only
        self,
        module: Any,
        *,
        data: Any = None,
        loss: Any = None,
        step: Step | None = None,
        optimizer: Callable[..., Any] | None = None,
        metrics: Mapping[str, Callable[[Any, Any], Any]] | None = None,
        evaluate: Callable[[Any, Any], Any] | None = None,
        epochs: int = 1,
        batch_size: int = BATCH_SIZE,
        shuffle: bool = True,
        steps_per_epoch: int | None = None,
        device: str | None = None,
    ) -> None:
        if not isinstance(module, torch.nn.Module):
            raise ConfigError(f"a {type(module).__name__} is no torch.nn.Module")
        if (loss is None) == (step is None):
            raise ConfigError("give loss=, a function of (output, y), or step=, a function of"
                              " (module, batch) that returns the loss, and not both")  # fmt: skip
        if metrics and loss is None:
            raise ConfigError("metrics are functions of (output, y), which step= does not tell:"
                              " give evaluate=")  # fmt: skip
        for name, number in {"epochs": epochs, "batch_size": batch_size,
                             "steps_per_epoch": steps_per_epoch or 1}.items():  # fmt: skip
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ConfigError(f"{name}={number!r}: a whole number from 1 on")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.module = module.to(self.device)
        self.epochs = epochs
        self._still = [m for m in module.modules() if not m.training] if module.training else []
        self._tensors = torch_state.named_tensors(module, self._still)
        self._trained = [one.tensor for one in self._tensors if one.role == TRAINABLE]
        self._dtype = next(p.dtype for p in module.parameters())
        self._loss = None if loss is None else Loss.of(loss)
        self._step = step
        self._optimizer = _maker(optimizer)
        self._metrics = dict(metrics or {})
        self._own_evaluate = evaluate
        self._batch_size, self._shuffle = batch_size, shuffle
        self._steps_per_epoch = steps_per_epoch
        self._normalizes = any(isinstance(m, NORMALIZERS) for m in module.modules())
        self._known: list[tuple[Any, bool, Batches]] = []
        if data is not None:
            self._batches(data, training=True)

    # --- weights --------------------------------------------------------------------------------

    def get_weights(self) -> list[Array]:
        """Return copies of the tensors in the order of ``state_dict()``, tied ones once."""
        return [torch_state.as_array(one.tensor) for one in self._tensors]

    def set_weights(self, weights: Sequence[Array], /) -> None:
        """Copy ``weights`` into parameters and buffers."""
        torch_state.fill(self._tensors, weights)

    def weight_names(self) -> list[str]:
        """Return a name such as ``conv.weight`` for each array, as in ``state_dict()``."""
        return [one.name for one in self._tensors]

    def weight_roles(self) -> list[str]:
        """Return ``trainable``, ``statistic``, ``frozen`` or ``local`` for each array.

        A floating buffer, such as BatchNorm's ``running_mean``, is a statistic; an integer one,
        such as its ``num_batches_tracked``, is local.
        """
        return [one.role for one in self._tensors]

    def fixed_state(self) -> dict[str, str]:
        """Return digests of what has to be equal at every site and is not exchanged."""
        return torch_state.digests(self._tensors)

    def adapters(self) -> list[tuple[str, int, int]]:
        """Return name and places of A and B of each low-rank adapter, whose product counts."""
        return list(torch_state.adapters(self._tensors))

    # --- training -------------------------------------------------------------------------------

    def fit(
        self, data: Any, learning_rate: float, guide: TrainingPlan | None = None
    ) -> Mapping[str, float]:
        """Train for ``epochs``, or as ``guide`` says; return the last epoch's loss and the steps.

        Raises ConfigError if no step was taken, and if the guide cannot be heeded.
        """
        guide = guide or TrainingPlan(())
        self._check_roles()
        optimizer = self._made(learning_rate)
        if guide.correction is not None:
            _check_plain(optimizer)
        change = self._change(guide)
        self.module.train()
        for still in self._still:
            still.eval()
        epochs = guide.epochs or self.epochs
        total, weight, steps = 0.0, 0.0, 0
        with _plain_errors():
            for is_first, batch in self._planned(data, guide, epochs):
                if is_first:
                    total = weight = 0.0
                optimizer.zero_grad()
                loss, much = self._loss_of(batch)
                loss.backward()
                change()
                optimizer.step()
                steps += 1
                total, weight = total + float(loss.detach()) * much, weight + much
        if not steps:
            raise ConfigError("training took no optimizer step, so there is no update: the data"
                              " gave no batch (a loader that can be read only once?)")  # fmt: skip
        return {"loss": total / weight if weight else float("nan"), LOCAL_STEPS: float(steps)}

    def _planned(self, data: Any, guide: TrainingPlan, epochs: int) -> Iterator[tuple[bool, Any]]:
        """Batches of the round, and whether each is the first of an epoch."""
        batches = self._batches(data, training=True)
        left, epoch = guide.steps, 0
        while left if guide.steps is not None else epoch < epochs:
            number = -1
            for number, batch in enumerate(batches):
                if left == 0 or number == self._steps_per_epoch:
                    break
                left = None if left is None else left - 1
                # Of a number of steps the loss is that of all, however many epochs they are.
                yield (number == 0 and (guide.steps is None or epoch == 0)), batch
            if number < 0:
                return
            epoch += 1

    def _loss_of(self, batch: Any) -> tuple[Any, float]:
        """Mean loss of a batch, and how much it counts in a mean over several."""
        batch = moved(batch, self.device, self._dtype)
        if self._step is not None:
            loss, much = self._step(self.module, batch), float(length(batch))
        else:
            x, y = _xy(batch)
            output = self._called(x)
            loss, much = self._the_loss(output, y), self._the_loss.weight(output, y)
        if not isinstance(loss, torch.Tensor) or loss.ndim or not loss.requires_grad:
            raise ConfigError("the loss of a batch is no single number that depends on trained"
                              " parameters: return its mean as a tensor")  # fmt: skip
        return loss, much

    @property
    def _the_loss(self) -> Loss:
        if self._loss is None:
            raise ConfigError("this task has step= and no loss=")
        return self._loss

    def _called(self, x: Any) -> Any:
        if isinstance(x, Mapping):
            return self.module(**x)
        return self.module(*x) if isinstance(x, tuple | list) else self.module(x)

    def _change(self, guide: TrainingPlan) -> Callable[[], None]:
        """Return what changes the gradients of a step as ``guide`` says, before the optimizer."""
        if not guide.proximal and guide.correction is None and guide.clip_norm is None:
            return lambda: None
        places = [n for n, one in enumerate(self._tensors) if one.role == TRAINABLE]
        anchor = self._like([guide.anchor[n] for n in places]) if guide.proximal else None
        theirs = guide.correction
        correction = None if theirs is None else self._like([theirs[n] for n in places])

        def change() -> None:
            found = [self._gradient(parameter) for parameter in self._trained]
            weights = [parameter.detach() for parameter in self._trained]
            if guide.clip_norm is not None:
                norm = sum(float(g.double().square().sum()) for g in found) ** 0.5
                if norm > guide.clip_norm:
                    for gradient in found:
                        gradient.mul_(guide.clip_norm / norm)
            for n, (gradient, weight) in enumerate(zip(found, weights, strict=True)):
                if anchor is not None:
                    gradient.add_(weight - anchor[n], alpha=guide.proximal)
                if correction is not None:
                    gradient.add_(correction[n])

        return change

    def _gradient(self, parameter: Any) -> Any:
        """The gradient of ``parameter``, dense; zeros if the loss does not depend on it."""
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        elif parameter.grad.layout is not torch.strided:
            parameter.grad = parameter.grad.to_dense()
        return parameter.grad

    def _like(self, arrays: Sequence[Array]) -> list[Any]:
        return [
            torch.from_numpy(np.array(array)).to(parameter)
            for array, parameter in zip(arrays, self._trained, strict=True)
        ]

    def _made(self, learning_rate: float) -> Any:
        """The optimizer of a round. Raises ConfigError unless the learning rate is the round's."""
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        try:
            optimizer = self._optimizer(trained, lr=learning_rate)
        except TypeError as error:
            raise ConfigError(f"the optimizer cannot be made: {_line(error)}; give a class such as"
                              " torch.optim.Adam, or a function of (parameters,"
                              " lr)") from error  # fmt: skip
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(f"optimizer= made a {type(optimizer).__name__}, no optimizer")
        if not any(np.isclose(float(each["lr"]), learning_rate) for each in optimizer.param_groups):
            raise ConfigError(f"the optimizer has the learning rate"
                              f" {float(optimizer.param_groups[0]['lr']):g}, and the round's is"
                              f" {learning_rate:g}: take the parameter lr")  # fmt: skip
        known = {id(parameter) for parameter in trained}
        if any(id(p) not in known for each in optimizer.param_groups for p in each["params"]):
            raise ConfigError("the optimizer trains tensors that are none of the module's trainable"
                              " parameters: give it those that it is given")  # fmt: skip
        return optimizer

    def _check_roles(self) -> None:
        """Raise ConfigError if what is trained is no longer what the layout says."""
        for one in self._tensors:
            if one.tensor.requires_grad != (one.role == TRAINABLE):
                raise ConfigError(f"requires_grad of {one.name} was changed after the task was"
                                  " made: set it before")  # fmt: skip

    # --- evaluation -----------------------------------------------------------------------------

    def evaluate(self, data: Any) -> Mapping[str, float] | Evaluation:
        """Loss and metrics of the current weights, and counts of a classifier's predictions."""
        self.module.eval()
        with torch.no_grad(), _plain_errors():
            if self._own_evaluate is not None:
                found: Mapping[str, float] | Evaluation = self._own_evaluate(self.module, data)
                return found
            return self._evaluated(data)

    def _evaluated(self, data: Any) -> Evaluation:
        sums: dict[str, float] = {}
        weights: dict[str, float] = {}
        outputs: list[Array] = []
        labels: list[Array] = []
        examples = 0
        for batch in self._batches(data, training=False):
            batch = moved(batch, self.device, self._dtype)
            many = length(batch)
            examples += many
            if self._step is not None:
                figures = {"loss": (float(self._step(self.module, batch)), float(many))}
            else:
                x, y = _xy(batch)
                output = self._called(x)
                figures = {
                    "loss": (float(self._the_loss(output, y)), self._the_loss.weight(output, y))
                }
                figures |= {n: (float(f(output, y)), float(many)) for n, f in self._metrics.items()}
                if self._the_loss.is_counted and torch.is_tensor(output) and torch.is_tensor(y):
                    outputs.append(output.double().cpu().numpy())
                    labels.append(y.cpu().numpy())
            for name, (value, much) in figures.items():
                if much:  # of a batch whose labels are all ignored the mean is no number
                    sums[name] = sums.get(name, 0.0) + value * much
                    weights[name] = weights.get(name, 0.0) + much
        if not examples:
            raise ConfigError("the held-out data gave no batch: they hold nothing, or can be read"
                              " only once; give tensors")  # fmt: skip
        means = {name: value / weights[name] for name, value in sums.items()}
        counted = None
        if outputs:
            counted = self._the_loss.counts(np.concatenate(outputs), np.concatenate(labels))
        return Evaluation(examples, means) if counted is None else replace(counted, means=means)

    def _batches(self, data: Any, *, training: bool) -> Batches:
        for brought, was_training, batches in self._known:
            if brought is data and was_training == training:
                return batches
        size = self._batch_size if training else max(EVALUATION_BATCH, self._batch_size)
        made = Batches(
            data,
            size,
            shuffle=training and self._shuffle,
            no_single=training and self._normalizes,
            dtype=self._dtype,
        )
        self._known = [*self._known[-3:], (data, training, made)]
        return made

    # --- files ----------------------------------------------------------------------------------

    def write_torch(self, to: Path) -> None:
        """Write ``state_dict()``, whole, as ``torch.load(…, weights_only=True)`` reads it."""
        state = {name: tensor.detach().cpu() for name, tensor in self.module.state_dict().items()}
        torch.save(state, to)

    def read_torch(self, path: Path, named: str) -> None:
        """Take over a ``state_dict()`` of this module; nothing in the file is run.

        Raises ConfigError, calling the file ``named``, if it is of another module.
        """
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, UnpicklingError, EOFError, ValueError, KeyError) as error:
            raise ConfigError(f"{named} is not a readable state_dict: {_line(error)}") from None
        own = self.module.state_dict()
        if not isinstance(found, Mapping) or set(found) != set(own):
            names = set(found) ^ set(own) if isinstance(found, Mapping) else set()
            said = (
                f"only one of them has {min(map(str, names))}" if names else "it holds no tensors"
            )
            raise ConfigError(f"{named} is of another module: {said}")
        for name, tensor in own.items():
            other = found[name]
            if not torch.is_tensor(other) or other.shape != tensor.shape:
                raise ConfigError(f"{named} is of another module: {name} has another shape")
            if other.dtype != tensor.dtype:
                raise ConfigError(f"{named} has {name} as {other.dtype}, the task's module as"
                                  f" {tensor.dtype}")  # fmt: skip
        self.module.load_state_dict(found)


def _xy(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        what = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
        raise ConfigError(f"a batch of the data is {what}, not (x, y): give step=, a function of"
                          " (module, batch) that returns the loss")  # fmt: skip
    return batch[0], batch[1]


def _maker(optimizer: Callable[..., Any] | None) -> Callable[..., Any]:
    if isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError("give the optimizer's class, or a function of (parameters, lr): it is"
                          " made again in each round, with the round's learning rate")  # fmt: skip
    if optimizer is not None and not callable(optimizer):
        raise ConfigError(f"optimizer={optimizer!r}: give a class such as torch.optim.Adam")
    chosen = optimizer or torch.optim.SGD
    made: Any = getattr(chosen, "func", chosen)  # of a functools.partial
    if inspect.isclass(made) and hasattr(made, "step"):
        closure = inspect.signature(made.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise ConfigError(f"{made.__name__} evaluates the loss several times in a step: use an"
                              " optimizer that steps once for a batch")  # fmt: skip
    return chosen


def _check_plain(optimizer: Any) -> None:
    """Raise ConfigError if a step is not learning rate times gradient, which SCAFFOLD needs."""
    rates = {float(each["lr"]) for each in optimizer.param_groups}
    extras = ("momentum", "weight_decay", "dampening", "nesterov", "maximize")
    used = sorted({n for n in extras for each in optimizer.param_groups if each.get(n)})
    if type(optimizer) is not torch.optim.SGD or used or len(rates) > 1:
        also = f" (it has {', '.join(used)})" if used else ""
        raise ConfigError("SCAFFOLD takes (x - y) / (steps * learning rate) for the mean gradient,"
                          " which it is for plain SGD only: leave optimizer= out"
                          f"{also}")  # fmt: skip


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what PyTorch warns or says of batches that it cannot take into a ConfigError."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")
            yield
    except UserWarning as warning:
        if "Using a target size" not in str(warning):
            raise
        raise ConfigError("the loss would spread labels out over outputs of another shape:"
                          f" {_line(warning)}") from None  # fmt: skip
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError("batch normalization needs more than one example in each batch: give the"
                          " DataLoader drop_last=True, or another batch size"
                          ) from None  # fmt: skip


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
