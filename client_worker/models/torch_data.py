"""A client's data as batches that a PyTorch module is trained on."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from client_worker.models.torch_backend import torch
from client_worker.training.example_count import is_loader, rows
from warren_shared.errors import ConfigError

EVALUATION_BATCH: Final = 1024


class Sampler:
    """Places of the examples of each batch; a new order for each epoch if ``shuffle``.

    With ``no_single`` a last batch of one example is joined to the one before it, for batch
    normalization has no variance of one. The order is drawn from PyTorch's own generator.
    """

    def __init__(self, count: int, size: int, *, shuffle: bool, no_single: bool) -> None:
        self._count, self._size, self._shuffle = count, size, shuffle
        whole = -(-count // size)
        self._batches = whole - 1 if no_single and whole > 1 and count % size == 1 else whole

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        order = (
            torch.randperm(self._count) if self._shuffle else torch.arange(self._count)
        ).tolist()
        for number in range(self._batches):
            is_last = number == self._batches - 1
            yield order[number * self._size : None if is_last else (number + 1) * self._size]


class Batches:
    """``data`` in batches for training or evaluation, as often as they are asked for.

    ``data``: ``(x, y)`` of arrays or tensors, x perhaps a tuple or a dict of them; a Dataset whose
    items are ``(x, y)``; or a DataLoader, which brings batches of its own.

    Raises ConfigError for what is none of these, or is used up when it is read.
    """

    def __init__(self, data: Any, size: int, *, shuffle: bool, no_single: bool, dtype: Any) -> None:
        self._arrays = self._loader = None
        if is_loader(data):
            self._loader = data
        elif isinstance(data, torch.utils.data.IterableDataset):
            self._loader = torch.utils.data.DataLoader(data, batch_size=size)
        elif isinstance(data, torch.utils.data.Dataset):
            self._sampler = Sampler(len(data), size, shuffle=shuffle, no_single=no_single)
            self._loader = torch.utils.data.DataLoader(data, batch_sampler=self._sampler)
        elif hasattr(data, "__next__"):
            raise ConfigError(f"a {type(data).__name__} is used up after one round: give tensors, a"
                              " Dataset or a DataLoader")  # fmt: skip
        else:
            self._arrays = _pair(data, dtype)
            count = rows(_parts(self._arrays))
            self._sampler = Sampler(count, size, shuffle=shuffle, no_single=no_single)

    def __iter__(self) -> Iterator[Any]:
        if self._loader is not None:
            yield from self._loader
            return
        for places in self._sampler:
            chosen = torch.as_tensor(places)
            yield mapped(self._arrays, lambda array, at=chosen: array[at])


def _pair(data: Any, dtype: Any) -> tuple[Any, Any]:
    if isinstance(data, Mapping) and set(data) == {"x", "y"}:
        data = data["x"], data["y"]
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ConfigError("TorchTask takes (x, y), a Dataset or a DataLoader; sample weights need a"
                          " Dataset of (x, y, weight) and step=")  # fmt: skip
    x, y = (mapped(part, lambda array: _tensor(array, dtype)) for part in data)
    return x, y


def _tensor(value: Any, dtype: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise ConfigError("the data hold something else than numbers: encode it first")
        value = torch.from_numpy(np.array(array))
    return value.detach().to(dtype) if value.is_floating_point() else value.detach()


def _parts(pair: Any) -> Any:
    """Plain arrays, whose rows can be counted."""
    return mapped(pair, lambda tensor: tensor.cpu().numpy())


def mapped(value: Any, function: Any) -> Any:
    """``value`` with ``function`` of each array in it, in tuples, lists and dicts."""
    if isinstance(value, Mapping):
        return {key: mapped(one, function) for key, one in value.items()}
    if isinstance(value, tuple | list) and not _is_plain(value):
        return tuple(mapped(one, function) for one in value)
    return function(value)


def _is_plain(value: Any) -> bool:
    """Whether it is a list of numbers, perhaps nested, which is one array."""
    while isinstance(value, tuple | list):
        if not value:
            return True
        value = value[0]
    return isinstance(value, bool | int | float | np.number)


def moved(batch: Any, device: Any, dtype: Any) -> Any:
    """``batch`` on ``device``, floats in the module's ``dtype``; what is no tensor as it is."""

    def move(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(device, dtype if value.is_floating_point() else None)

    return mapped(batch, move) if not isinstance(batch, str) else batch


def length(batch: Any) -> int:
    """How many examples a batch has: the first dimension of its first tensor."""
    found = next(_tensors(batch), None)
    if found is None or not found.ndim:
        raise ConfigError("a batch of the data holds no tensor with a row for each example: give a"
                          " collate_fn that makes one")  # fmt: skip
    return int(found.shape[0])


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)
