"""A client's data as what Keras trains on: batches, made once."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from client_worker.models.keras_backend import keras, tf
from client_worker.training.example_count import (
    INFINITE,
    check_batched,
    is_dataset,
    is_loader,
    is_py_dataset,
    is_told_its_length,
    rows,
)
from warren_shared.errors import ConfigError

EVALUATION_BATCH: Final = 1024
PARTS: Final = ("x", "y", "sample_weight")
UNKNOWN: Final = -2  # tf.data's cardinality of a dataset whose length shows when it is read


class Repeated(keras.utils.PyDataset):  # type: ignore[misc]
    """The first ``steps`` batches of another PyDataset, from the beginning again at its end."""

    def __init__(self, batches: Any, steps: int) -> None:
        super().__init__()
        self._batches, self._steps, self._each = batches, steps, batches.num_batches

    @property
    def num_batches(self) -> int:
        """How many batches an epoch has."""
        return self._steps

    def __getitem__(self, number: int) -> Any:
        """Return batch ``number``."""
        return self._batches[number if self._each is None else number % self._each]


class Parts(tuple[Any, ...]):
    """``(x, y)`` or ``(x, y, sample_weight)`` as nested arrays, checked."""

    __slots__ = ()


def as_parts(data: Any, inputs: frozenset[str] = frozenset()) -> Any:
    """Return arrays as Parts, and anything else, such as a dataset, as it is.

    Args:
        data: what the task gave: ``(x, y)``, ``[x, y]``, ``{"x": x, "y": y}`` with nested inputs,
            or a dataset.
        inputs: names of the model's inputs; a dict of just these is x alone.

    Raises:
        ConfigError: for what cannot be trained on twice, and for arrays that do not fit together.
    """
    if isinstance(data, Parts) or is_dataset(data) or is_py_dataset(data):
        return data
    if is_loader(data):
        return data
    if hasattr(data, "__next__"):
        raise ConfigError(f"a {type(data).__name__} is used up after one round: give arrays, a"
                          " tf.data.Dataset or a keras.utils.PyDataset")  # fmt: skip
    if isinstance(data, Mapping) and not set(data) <= inputs:
        if not set(data) <= set(PARTS) or "x" not in data:
            raise ConfigError("data in a dict are {'x': …, 'y': …} and perhaps 'sample_weight'")
        data = tuple(data.get(name) for name in PARTS)
    elif not isinstance(data, list | tuple):
        data = (data,)
    if not 1 <= len(data) <= len(PARTS):
        raise ConfigError(f"data of {len(data)} parts: give (x, y) or (x, y, sample_weight)")
    kept = [part for part in data if part is not None]
    found = Parts(
        [_arrays(kept[0], nested=True), *(_arrays(part, nested=False) for part in kept[1:])]
    )
    rows(tuple(found))
    return found


def _arrays(part: Any, *, nested: bool) -> Any:
    """Lists of arrays as tuples, for tf.data would stack a list; frames and lists as arrays."""
    if isinstance(part, Mapping):
        return {name: _arrays(value, nested=nested) for name, value in part.items()}
    if isinstance(part, list | tuple) and part and all(_is_array(one) for one in part):
        if isinstance(part, tuple) or len({np.shape(one)[:1] for one in part}) == 1:
            return tuple(_arrays(one, nested=nested) for one in part)
        raise ConfigError("arrays of the inputs differ in length: give each example a row in all")
    if isinstance(part, tf.Tensor | tf.RaggedTensor | tf.SparseTensor):
        return part
    try:
        found = np.asarray(part)
    except ValueError as error:
        raise ConfigError(f"the data are no array: {error}") from None
    if found.dtype == object:
        if all(isinstance(value, str) for value in found.ravel()[:1000]):
            return found.astype(str)
        raise ConfigError("the data hold objects, not numbers: a frame's columns of several kinds,"
                          " or rows of several lengths; encode them as numbers first")  # fmt: skip
    return found


def _is_array(value: Any) -> bool:
    return len(getattr(value, "shape", ())) > 0 or isinstance(value, Mapping)


def sliced(parts: tuple[Any, ...]) -> Any:
    """A dataset of the rows of ``parts``.

    Three inputs of three rows look like three examples until TensorFlow takes them apart.
    """
    try:
        return tf.data.Dataset.from_tensor_slices(parts)
    except (ValueError, TypeError) as error:
        line = " ".join(str(error).split())[:200]
        raise ConfigError(f"the data cannot be taken apart into examples ({line}): give each"
                          " example a row in all of the arrays") from None  # fmt: skip


class Batches:
    """Batches of a model's data, for training and for evaluation, made once for each data set.

    Given arrays, Keras builds a new dataset for each fit and each evaluate, which costs 50 ms of a
    round: ten times the training itself where a site has a few hundred records.
    """

    def __init__(self, batch_size: int, *, shuffle: bool, whole: int | None) -> None:
        """``whole``: the size that every batch must have, if the model is built for one."""
        self._batch_size, self._shuffle, self._whole = batch_size, shuffle, whole
        self._made: dict[bool, tuple[Any, Any]] = {}
        self._repeated: dict[int, tuple[Any, Any]] = {}

    def of(self, data: Any, *, training: bool) -> Any:
        """``data``, Parts or a dataset, as something that Keras iterates over."""
        if not isinstance(data, Parts):
            return data
        made_for, batches = self._made.get(training, (None, None))
        if made_for is not data:
            count = rows(tuple(data))
            if self._whole and count % self._whole:
                raise ConfigError(f"the model takes batches of {self._whole}, and {count} examples"
                                  " are no multiple of it: leave some out or pad them")  # fmt: skip
            batches = sliced(tuple(data))
            if training and self._shuffle:
                batches = batches.shuffle(count, reshuffle_each_iteration=True)
            size = self._batch_size if training else self._whole or EVALUATION_BATCH
            batches = batches.batch(size)
            self._made[training] = (data, batches)
        return batches

    def first(self, steps: int, batches: Any) -> Any:
        """``steps`` batches, from the beginning again whenever they are through; made once."""
        made_of, found = self._repeated.get(steps, (None, None))
        if made_of is not batches:
            if is_py_dataset(batches):
                found = Repeated(batches, steps)
            elif is_dataset(batches):
                found = batches.repeat().take(steps)
            else:
                raise ConfigError("a number of local steps was asked for, and this data loader"
                                  " cannot be repeated: give a tf.data.Dataset")  # fmt: skip
            self._repeated = {steps: (batches, found)}
        return found


@contextmanager
def quiet_at_the_end() -> Iterator[None]:
    """Keras warns at the end of every dataset of unknown length; we count its batches instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        yield


class EpochLengths(keras.callbacks.Callback):  # type: ignore[misc]
    """How many batches each epoch of a training had."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002  # Keras's signature
        """Forget the training before."""
        self.batches = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Count from none."""
        self.batches.append(0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """``batch`` counts from zero, and may be the last of several."""
        self.batches[-1] = batch + 1

    def are(self, steps: int | None) -> bool:
        """Whether every epoch had ``steps`` batches, or one at least if None."""
        return bool(self.batches) and min(self.batches) >= (steps or 1)


def check_dataset(data: Any, steps_per_epoch: int | None) -> None:
    """Raise ConfigError if a dataset cannot be trained on epoch by epoch."""
    if not is_dataset(data):
        return
    check_batched(data)
    if int(data.cardinality()) == INFINITE and steps_per_epoch is None:
        raise ConfigError("the dataset never ends: leave repeat() out, or give steps_per_epoch")


def a_batch(data: Any, size: int) -> Any:
    """One batch as a tuple of tensors, without using anything up.

    Of a dataset that may be readable only once it is made up, of ones or zeros of the right shapes.
    """
    if isinstance(data, Parts):
        return next(iter(tf.data.Dataset.from_tensor_slices(tuple(data)).batch(size)))
    if is_dataset(data):
        if int(data.cardinality()) == UNKNOWN or is_told_its_length(data):
            made = tf.nest.map_structure(_made_up, data.element_spec)
            return made if isinstance(made, tuple) else (made,)
        found = next(iter(data.take(1)), None)
    elif is_py_dataset(data):
        found = tf.nest.map_structure(tf.convert_to_tensor, data[0])
    else:
        found = tf.nest.map_structure(np.asarray, next(iter(data), None))
        found = None if found is None else tf.nest.map_structure(tf.convert_to_tensor, found)
    if found is None:
        raise ConfigError("this client has no training data")
    if isinstance(found, list):
        return tuple(found)
    return found if isinstance(found, tuple) else (found,)


def _made_up(spec: Any) -> Any:
    shape = [2 if place == 0 and size is None else size or 1 for place, size in
             enumerate(spec.shape)]  # fmt: skip
    return tf.ones(shape, spec.dtype) if spec.dtype.is_floating else tf.zeros(shape, spec.dtype)
