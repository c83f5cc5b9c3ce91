"""The tensors of a PyTorch module: which there are, what they are called, and their roles."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from client_worker.models.torch_backend import torch
from warren_shared.errors import ConfigError
from warren_shared.tensors.description import FROZEN, LOCAL
from warren_shared.tensors.layout import DTYPES, STATISTIC, TRAINABLE, Array

LORA_A: Final = "lora_A"  # as peft calls them
LORA_B: Final = "lora_B"


@dataclass(frozen=True)
class NamedTensor:
    """One tensor of a module under the first of its names in ``state_dict()``."""

    name: str
    tensor: Any
    role: str


def named_tensors(module: Any, kept_in_eval: Sequence[Any]) -> list[NamedTensor]:
    """Return the tensors in ``module.state_dict()``, tied ones once.

    Parameters are trainable, or frozen without ``requires_grad``. Buffers are statistics, integers
    and booleans stay at the site, and buffers of the modules ``kept_in_eval`` are frozen.

    Raises ConfigError for what can neither be averaged nor stay.
    """
    own = {id(one) for one in (*module.parameters(), *module.buffers())}
    eval_buffers = {id(buffer) for each in kept_in_eval for buffer in each.buffers(recurse=False)}
    found: dict[int, NamedTensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            raise ConfigError(f"the module keeps {name}, which is a {type(tensor).__name__} and no"
                              " tensor: keep it outside of state_dict()")  # fmt: skip
        if id(tensor) not in own:
            raise ConfigError(f"state_dict() makes {name}, which is none of the module's parameters"
                              " and buffers: what it is given would be lost")  # fmt: skip
        if id(tensor) not in found:  # tied weights have two names and are one tensor
            _check_dtype(name, tensor)
            role = _role(tensor, is_still=id(tensor) in eval_buffers)
            found[id(tensor)] = NamedTensor(name, tensor, role)
    each = list(found.values())
    if not any(one.role in (TRAINABLE, FROZEN) for one in each):
        raise ConfigError("the PyTorch module has no parameters yet: a lazy module gets them when"
                          " it is called on a batch")  # fmt: skip
    _check_memory(each)
    return each


def _role(tensor: Any, *, is_still: bool) -> str:
    if not tensor.is_floating_point():
        return LOCAL
    if isinstance(tensor, torch.nn.Parameter):
        return TRAINABLE if tensor.requires_grad else FROZEN
    return FROZEN if is_still else STATISTIC


def _check_dtype(name: str, tensor: Any) -> None:
    if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
        raise ConfigError(f"{name} has no shape yet: call the module on a batch before the task"
                          " is made")  # fmt: skip
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_complex():
        raise ConfigError(f"{name} is {dtype}: keep its real and imaginary parts as two tensors")
    if tensor.is_floating_point() and dtype not in DTYPES:
        raise ConfigError(f"{name} is {dtype}, in which a small update rounds to nothing: call"
                          " module.float(), and torch.autocast in its forward for 16-bit"
                          " arithmetic")  # fmt: skip
    if tensor.layout is not torch.strided:
        raise ConfigError(f"{name} is sparse: make it a dense tensor")


def _check_memory(each: Sequence[NamedTensor]) -> None:
    """Raise ConfigError if two tensors share memory: to fill one would overwrite the other."""
    spans = sorted(
        (tensor.untyped_storage().data_ptr(), start, stop, one.name)
        for one in each
        if (tensor := one.tensor).numel()
        for start, stop in [_span(tensor)]
    )
    for (storage, _, stop, name), (other, start, _, second) in pairwise(spans):
        if storage == other and start < stop:
            raise ConfigError(f"{name} and {second} share memory and are two tensors: tie them as"
                              " one Parameter (b.weight = a.weight)")  # fmt: skip


def _span(tensor: Any) -> tuple[int, int]:
    """First byte of a tensor in its storage, and the one after its last."""
    size = tensor.element_size()
    reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.storage_offset() * size
    return start, start + (reach + 1) * size


def as_array(tensor: Any) -> Array:
    """A copy of ``tensor`` as numpy has it."""
    found: Array = tensor.detach().cpu().numpy().copy()
    return found


def fill(each: Sequence[NamedTensor], arrays: Sequence[Array]) -> None:
    """Copy ``arrays`` into the tensors. Raises ConfigError for another shape."""
    with torch.no_grad():
        for one, array in zip(each, arrays, strict=True):
            if tuple(array.shape) != tuple(one.tensor.shape):  # copy_ would spread it out
                raise ConfigError(f"{one.name} has shape {list(one.tensor.shape)}, not"
                                  f" {list(array.shape)}")  # fmt: skip
            one.tensor.copy_(torch.from_numpy(np.array(array, order="C")))


def digests(each: Sequence[NamedTensor]) -> dict[str, str]:
    """Digests of tables of integers (a quantised kernel, positions), which stay at the site."""
    return {
        f"integers of {one.name}": hashlib.sha256(as_array(one.tensor).tobytes()).hexdigest()[:32]
        for one in each
        if not one.tensor.is_floating_point() and one.tensor.ndim > 1
    }


def adapters(each: Sequence[NamedTensor]) -> Iterator[tuple[str, int, int]]:
    """Name and places of A and B of each low-rank adapter that is named as peft does."""
    places = {one.name: place for place, one in enumerate(each)}
    for name, place in places.items():
        words = name.split(".")
        if LORA_A in words and (other := name.replace(LORA_A, LORA_B)) in places:
            yield ".".join(words[: words.index(LORA_A)]), place, places[other]
