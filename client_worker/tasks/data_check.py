"""NaN, infinity and labels that do not fit, found before the training rather than after it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from client_worker.client import FederatedClient
from client_worker.tasks.failures import reason_of
from client_worker.training.example_count import INFINITE, is_dataset, is_py_dataset
from warren_shared.errors import WarrenError
from warren_shared.service.health_check import Finding, fail

MAX_BATCHES: Final = 10_000  # of a dataset that are looked at


def data_findings(client: FederatedClient) -> Iterator[Finding]:
    """What is wrong with the client's training and held-out data; nothing if nothing is.

    A dataset that may be readable only once is not read.
    """
    for name, data in (("data", client.data), ("validation", client.validation)):
        if data is None:
            continue
        try:
            prepare = getattr(client.trainable, "prepare", None)
            if prepare is not None:
                prepare(data)
            for part in _parts(data):
                if complaint := not_finite(part):
                    yield fail(name, complaint)
                    break
        except WarrenError as error:
            yield fail(name, error)
        except Exception as error:  # noqa: BLE001  the data are their user's own code
            yield fail(name, reason_of(error))


def not_finite(data: Any, name: str = "") -> str | None:
    """Which array of ``data`` holds NaN or infinity, in words; None if none does."""
    if data is None:
        return None
    if isinstance(data, Mapping):
        named = [(f"{name}[{key!r}]", value) for key, value in data.items()]
    elif isinstance(data, list | tuple) and any(_is_nested(one) for one in data):
        labels = ("x", "y", "sample_weight")
        named = [
            (f"{name}[{n}]" if name else labels[n] if n < 3 else f"array {n}", value)
            for n, value in enumerate(data)
        ]
    else:
        return _of_array(data, name or "x")
    return next((found for key, value in named if (found := not_finite(value, key))), None)


def _is_nested(part: Any) -> bool:
    return isinstance(part, Mapping | list | tuple) or bool(getattr(part, "shape", ()))


def _of_array(data: Any, name: str) -> str | None:
    try:
        values = np.asarray(data.toarray() if hasattr(data, "toarray") else data)
    except (ValueError, TypeError):
        return None
    if values.dtype == object:  # a frame's columns of several kinds
        try:
            values = values.astype(np.float64)
        except (ValueError, TypeError):
            return None
    if values.dtype.kind not in "fc":
        return None
    wrong = ~np.isfinite(values)
    if not wrong.any():
        return None
    rows = int(wrong.reshape(len(wrong), -1).any(axis=1).sum()) if wrong.ndim else 1
    first = int(np.argmax(wrong.reshape(len(wrong), -1).any(axis=1))) if wrong.ndim else 0
    return (f"{name} holds NaN or infinity in {rows} of {len(wrong) if wrong.ndim else 1} rows (the"
            f" first is {first}): leave them out, or fill them in")  # fmt: skip


def _parts(data: Any) -> Iterator[Any]:
    """What there is to look at: the arrays, or each batch of a dataset that can be read again."""
    if is_dataset(data):
        if int(data.cardinality()) >= 0:
            yield from data.take(MAX_BATCHES)
        elif int(data.cardinality()) == INFINITE:
            yield from data.take(1)
    elif is_py_dataset(data):
        batches = getattr(data, "num_batches", None) or 0
        yield from (data[number] for number in range(min(batches, MAX_BATCHES)))
    elif not hasattr(data, "__next__"):
        yield data
