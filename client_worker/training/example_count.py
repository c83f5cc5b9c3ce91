"""How many examples a client's data hold: counted, or asked for, never guessed.

The count is the weight of the client's updates. A count of something else (of inputs, of batches)
would go unnoticed and give a wrong global model, so whatever is unclear is refused with a line that
asks for ``num_examples``.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from warren_shared.errors import ConfigError

ASK: Final = "give num_examples"
INFINITE: Final = -1  # tf.data's cardinality of a dataset that never ends
MAX_COLUMNS: Final = 3  # x, y and sample weights


def count_examples(data: Any) -> int:
    """Return how many examples ``data`` hold.

    Args:
        data: arrays, frames or lists of rows; tuples, lists and dicts of them, nested, such as
            ``(x, y)``, ``({"a": a, "b": b}, y, sample_weight)`` or ``{"x": x, "y": y}``; a
            ``tf.data.Dataset`` of batches, a Keras ``PyDataset`` or a PyTorch ``DataLoader``.

    Raises:
        ConfigError: if there are none, if arrays differ in length, or if it cannot be known
            without using the data up.
    """
    found = _count(data)
    if found < 1:
        raise ConfigError("this client has no training data")
    return found


def _count(data: Any) -> int:
    if data is None:
        raise ConfigError(f"without data there is nothing to count: {ASK}")
    if is_dataset(data):
        return _of_dataset(data)
    if is_loader(data):
        return _of_loader(data)
    if is_py_dataset(data):
        return _of_py_dataset(data)
    if hasattr(data, "__next__"):
        raise _unclear(data)
    return rows(data)


def is_dataset(data: Any) -> bool:
    """Whether it is a ``tf.data.Dataset``, without importing TensorFlow."""
    return hasattr(data, "element_spec") and hasattr(data, "cardinality")


def is_loader(data: Any) -> bool:
    """Whether it is a PyTorch ``DataLoader``, or looks like one."""
    return hasattr(data, "dataset") and hasattr(data, "batch_size") and hasattr(data, "__iter__")


def is_py_dataset(data: Any) -> bool:
    """Whether it is a Keras ``PyDataset``: numbered batches."""
    names = {base.__name__ for base in type(data).__mro__}
    return bool({"PyDataset", "Sequence"} & names) and hasattr(data, "on_epoch_end")


def rows(data: Any) -> int:
    """Return the common length of all arrays in ``data``.

    Raises ConfigError if lengths differ, or if what is in it is no array.
    """
    lengths = dict(_lengths(data, ""))
    if not lengths:
        raise _unclear(data)
    if len(set(lengths.values())) > 1:
        named = ", ".join(f"{name or 'data'} has {n} rows" for name, n in lengths.items())
        raise ConfigError(f"arrays of the data differ in length ({named}): give each example a row"
                          f" in all of them, or {ASK}")  # fmt: skip
    return next(iter(lengths.values()))


def _lengths(data: Any, name: str) -> Iterator[tuple[str, int]]:
    """Name and rows of each array in ``data``; what is left out (None) has none."""
    if data is None:
        return
    if isinstance(data, Mapping):
        if data and all(_is_scalar(value) for value in data.values()):
            raise _unclear(data)  # one record
        for key, value in data.items():
            yield from _lengths(value, f"{name}[{key!r}]" if name else str(key))
    elif isinstance(data, list | tuple):
        yield from _of_sequence(data, name)
    elif (found := _length(data)) is not None:
        yield name, found
    else:
        raise _unclear(data)


def _of_sequence(data: Sequence[Any], name: str) -> Iterator[tuple[str, int]]:
    """Of a sequence of columns those of its columns; of a sequence of rows its length."""
    present = [one for one in data if one is not None]
    if not name and data and _is_scalar(data[0]) and any(not _is_scalar(one) for one in present):
        raise _unclear(data)
    if _are_rows(present) or (name and all(_is_plain(one) for one in present)):
        yield name, len(data)
        return
    is_top = not name
    if is_top and isinstance(data, list) and not _are_columns(present):
        raise _unclear(data)
    labels = ("x", "y", "sample_weight")
    many = [dict(_lengths(one, _named(labels, place, name))) for place, one in enumerate(data)]
    if is_top and len(many) > 1 and not _agree(many):
        # x may be a list of its examples, such as images, rather than of the model's inputs.
        others = {n for found in many[1:] for n in found.values()}
        if isinstance(data[0], list | tuple) and others == {len(data[0])}:
            many[0] = {"x": len(data[0])}
    for found in many:
        yield from found.items()


def _named(labels: Sequence[str], place: int, name: str) -> str:
    if name:
        return f"{name}[{place}]"
    return labels[place] if place < len(labels) else f"array {place}"


def _agree(many: Sequence[Mapping[str, int]]) -> bool:
    return len({n for found in many for n in found.values()}) == 1


def _are_rows(parts: Sequence[Any]) -> bool:
    """Whether they are examples: numbers, words, or records of them."""
    if not parts:
        return True
    if all(_is_scalar(one) for one in parts):
        return True
    return all(
        (isinstance(one, Mapping) and one and all(_is_scalar(value) for value in one.values()))
        or (isinstance(one, tuple | list) and any(_is_scalar(value) for value in one)
            and any(not _is_scalar(value) for value in one))
        for one in parts
    )  # fmt: skip


def _is_plain(part: Any) -> bool:
    """Whether it is a row of plain numbers, perhaps nested."""
    return isinstance(part, list | tuple) and all(_is_scalar(one) or _is_plain(one) for one in part)


def _are_columns(parts: Sequence[Any]) -> bool:
    """Whether a list stands for (x, y) or (x, y, sample_weight), each of them with arrays."""
    return len(parts) <= MAX_COLUMNS and all(_is_column(one) for one in parts)


def _is_column(part: Any) -> bool:
    if isinstance(part, list | tuple):
        return len(part) > 0 and all(_is_column(one) for one in part)
    return isinstance(part, Mapping) or bool(_shape(part))


def _is_scalar(value: Any) -> bool:
    if isinstance(value, str | bytes | int | float | complex | bool) or value is None:
        return True
    return _shape(value) == ()


def _shape(value: Any) -> tuple[Any, ...] | None:
    found = getattr(value, "shape", None)
    if found is None or callable(found):
        return None
    try:
        return tuple(found)
    except (TypeError, ValueError):
        return None


def _length(data: Any) -> int | None:
    """Rows of one array, frame or plain collection; None if that is unclear."""
    shape = _shape(data)
    if shape:
        return int(shape[0]) if shape[0] is not None else _of_ragged(data)
    if shape == ():
        return None
    if isinstance(getattr(data, "num_rows", None), int):
        return int(data.num_rows)
    plain = isinstance(data, Collection) and type(data).__module__ in ("builtins", "collections",
                                                                      "array")  # fmt: skip
    in_torch = any(base.__module__.startswith("torch.utils.data") for base in type(data).__mro__)
    if (plain and not isinstance(data, str | bytes)) or (in_torch and hasattr(data, "__len__")):
        return len(data)
    return None


def _of_ragged(data: Any) -> int | None:
    return int(data.nrows()) if hasattr(data, "nrows") else None


def _of_dataset(data: Any) -> int:
    """Rows of a ``tf.data.Dataset`` of batches, read through once if its length is known.

    One of unknown length may be made of a generator, which reading would use up.
    """
    batches = int(data.cardinality())
    if batches == INFINITE:
        raise ConfigError(f"the dataset never ends, so its examples cannot be counted: {ASK},"
                          " and the batches of an epoch as steps_per_epoch")  # fmt: skip
    check_batched(data)
    sizes = _batch_sizes(data.element_spec)
    if batches >= 0 and None not in sizes and len(sizes) == 1:
        return batches * int(sizes.pop() or 0)
    if batches < 0 or is_told_its_length(data):
        raise ConfigError("how many examples the dataset holds is not known before it is read, and"
                          f" reading it might use it up: {ASK}")  # fmt: skip
    return sum(rows(batch) for batch in data)


def check_batched(data: Any) -> None:
    """Raise ConfigError if the elements of a ``tf.data.Dataset`` are examples, not batches."""
    sizes = _batch_sizes(data.element_spec)
    known = {size for size in sizes if size is not None}
    if "scalar" in known or len(known) > 1:
        raise ConfigError("the dataset's elements are single examples: call batch(32) on it")


def _batch_sizes(spec: Any) -> set[Any]:
    """First sizes of all tensors in an element, None for one that may differ from batch to batch.

    A tensor without any size stands in as ``"scalar"``.
    """
    if isinstance(spec, Mapping):
        return {size for value in spec.values() for size in _batch_sizes(value)}
    if isinstance(spec, list | tuple):
        return {size for value in spec for size in _batch_sizes(value)}
    shape = getattr(spec, "shape", None)
    if shape is None or getattr(shape, "rank", None) is None:
        return {None}
    return {shape[0]} if shape.rank else {"scalar"}


def is_told_its_length(data: Any) -> bool:
    """Whether the length comes from ``assert_cardinality``, so that it may be of a generator."""
    if "Assert" in type(data).__name__:
        return True
    inputs = getattr(data, "_inputs", None)
    return any(is_told_its_length(one) for one in inputs()) if callable(inputs) else False


def _of_py_dataset(data: Any) -> int:
    """Rows of a Keras ``PyDataset``: its batches are numbered, so reading them uses nothing up."""
    batches = getattr(data, "num_batches", None)
    if callable(batches):
        batches = batches()
    if batches is None:
        raise ConfigError(f"the PyDataset does not say how many batches it has: {ASK}")
    return sum(rows(data[number]) for number in range(int(batches)))


def _of_loader(data: Any) -> int:
    """Rows of a PyTorch ``DataLoader`` in one epoch, without reading any."""
    sampler, size = getattr(data, "sampler", None), data.batch_size
    drawn: Any = sampler if hasattr(sampler, "__len__") else data.dataset
    if not isinstance(size, int) or not hasattr(drawn, "__len__"):
        raise ConfigError(f"how many examples this data loader holds is unclear: {ASK}")
    found = len(drawn)
    return found // size * size if getattr(data, "drop_last", False) else found


def _unclear(data: Any) -> ConfigError:
    return ConfigError(f"how many examples a {type(data).__name__} holds is unclear: {ASK}")
