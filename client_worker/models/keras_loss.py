"""What a Keras model's loss takes for labels, and what its outputs mean."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from client_worker.models.keras_backend import keras, tf
from client_worker.models.keras_data import Parts
from client_worker.training.example_count import is_dataset, is_py_dataset
from warren_shared.errors import ConfigError
from warren_shared.tensors.evaluation import (
    MAX_CLASSES,
    Evaluation,
    most_likely,
    of_classes,
    of_scores,
)
from warren_shared.tensors.layout import Array

KINDS: Final = {
    "binary_crossentropy": ("BinaryCrossentropy", "bce", "binary_crossentropy"),
    "binary_focal_crossentropy": ("BinaryFocalCrossentropy",),
    "categorical_crossentropy": ("CategoricalCrossentropy",),
    "categorical_focal_crossentropy": ("CategoricalFocalCrossentropy",),
    "sparse_categorical_crossentropy": ("SparseCategoricalCrossentropy",),
    "hinge": ("Hinge",),
    "squared_hinge": ("SquaredHinge",),
    "categorical_hinge": ("CategoricalHinge",),
    "poisson": ("Poisson",),
    "kl_divergence": ("KLDivergence", "kld", "kullback_leibler_divergence"),
}
SPARSE: Final = "sparse_categorical_crossentropy"
BINARY: Final = ("binary_crossentropy", "binary_focal_crossentropy")
SIGNS: Final = ("hinge", "squared_hinge")


@dataclass(frozen=True)
class LossKind:
    """A loss of Keras's own, exactly; one of the user's own has no kind."""

    name: str
    from_logits: bool = False
    ignore_class: int | None = None


def kind_of(loss: Any) -> LossKind | None:
    """Which of Keras's losses ``loss`` is, given as compile() takes it; None if none of KINDS.

    A subclass or a function of the user's own may mean anything by its outputs, whatever its name.
    """
    name = _canonical(loss)
    if name is None:
        return None
    told = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    return LossKind(name, bool(told.get("from_logits", False)), told.get("ignore_class"))


def _canonical(loss: Any) -> str | None:
    if isinstance(loss, str):
        return next((kind for kind, names in KINDS.items() if loss == kind or loss in names), None)
    for kind, (class_name, *_) in KINDS.items():
        if type(loss) is getattr(keras.losses, class_name, None):
            return kind
        if loss is getattr(keras.losses, kind, ()):
            return kind
    return None


# --- labels ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelRange:
    """The labels that a loss takes: from ``low`` to ``high``, perhaps whole, or ``ignored``."""

    loss: str
    low: float
    high: float
    whole: bool = False
    ignored: int | None = None

    def complaint(self, labels: Any) -> str | None:
        """What is wrong with ``labels``, an array of any shape; None if nothing is."""
        values = np.asarray(labels)
        if values.dtype.kind not in "biuf" or not values.size:
            return None
        values = values.astype(np.float64, copy=False)
        if self.ignored is not None:
            values = values[values != self.ignored]
        right = (values >= self.low) & (values <= self.high)
        if self.whole:
            right &= values == np.floor(values)
        if right.all():
            return None
        wrong = values[~right]
        found = ", ".join(f"{value:g}" for value in np.unique(wrong)[:3])
        return f"{wrong.size} labels such as {found}: {self.words}"

    @property
    def words(self) -> str:
        """What the labels have to be."""
        if self.high == np.inf:
            bounds = f"at least {self.low:g}"
        else:
            bounds = f"{self.low:g} to {self.high:g}"
        numbers = "whole numbers from " if self.whole else ""
        return f"{self.loss} takes {numbers}{bounds}; map the labels to that"


def label_range(kind: LossKind | None, units: int | None) -> LabelRange | None:
    """Labels that a loss of this kind takes with ``units`` outputs; None if any number will do."""
    if kind is None:
        return None
    if kind.name == SPARSE:
        high = units - 1 if units else np.inf
        return LabelRange(kind.name, 0, high, whole=True, ignored=kind.ignore_class)
    if kind.name == "poisson":
        return LabelRange(kind.name, 0, np.inf)
    low = -1 if kind.name in SIGNS else 0
    return LabelRange(kind.name, low, 1)


class Labels:
    """The labels of a model's data, held against its losses."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def ranges(self) -> Iterator[tuple[Any, LabelRange]]:
        """Which output (None for the only one) takes which labels."""
        loss, names = self._model.loss, list(getattr(self._model, "output_names", None) or [])
        outputs = list(getattr(self._model, "outputs", None) or [])
        if isinstance(loss, Mapping):
            chosen = [(name, one) for name, one in loss.items()]
        elif isinstance(loss, list | tuple):
            chosen = list(enumerate(loss))
        else:
            chosen = (
                [(None, loss)] if len(outputs) <= 1 else [(n, loss) for n in range(len(outputs))]
            )
        for key, one in chosen:
            place = names.index(key) if key in names else key if isinstance(key, int) else 0
            units = outputs[place].shape[-1] if place < len(outputs) else None
            if (found := label_range(kind_of(one), units)) is not None:
                yield key, found

    def check(self, y: Any) -> None:
        """Raise ConfigError for labels that a loss does not take. ``y``: arrays, nested."""
        for key, allowed in self.ranges():
            labels = _part(y, key)
            if labels is None:
                continue
            if complaint := allowed.complaint(labels):
                raise ConfigError(complaint)

    def checked(self, data: Any) -> Any:
        """``data`` whose labels are checked: arrays now, those of a dataset as they are read."""
        if isinstance(data, Parts):
            if len(data) > 1:
                self.check(data[1])
            return data
        ranges = list(self.ranges())
        if ranges and is_py_dataset(data):
            return CheckedBatches(data, self)
        if not is_dataset(data) or not ranges or not isinstance(data.element_spec, tuple):
            return data
        if len(data.element_spec) < 2:
            return data

        def looked_at(*batch: Any) -> Any:
            tests = [
                test for key, allowed in ranges for test in _assertions(batch[1], key, allowed)
            ]
            with tf.control_dependencies(tests):
                return tf.nest.map_structure(tf.identity, batch)

        return data.map(looked_at, num_parallel_calls=1)


@contextmanager
def labels_in_one_line() -> Iterator[None]:
    """Around what reads a dataset: what ``_assertions`` say of its labels is a ConfigError."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        text = str(error)
        start = text.find("labels: ")
        if start < 0:
            raise
        first_line = text[start:].partition("\n")[0]
        raise ConfigError(" ".join(first_line.split())[:300]) from None


class CheckedBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Another PyDataset, the labels of whose batches are checked as they are read."""

    def __init__(self, batches: Any, labels: Labels) -> None:
        super().__init__(
            workers=batches.workers,
            use_multiprocessing=batches.use_multiprocessing,
            max_queue_size=batches.max_queue_size,
        )
        self._batches, self._labels = batches, labels

    @property
    def num_batches(self) -> int | None:
        """How many batches an epoch has."""
        found: int | None = self._batches.num_batches
        return found

    def on_epoch_begin(self) -> None:
        """Let the other know."""
        self._batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Let the other know."""
        self._batches.on_epoch_end()

    def __getitem__(self, number: int) -> Any:
        """Return batch ``number``. Raises ConfigError if a label of it is wrong."""
        batch = self._batches[number]
        if isinstance(batch, list | tuple) and len(batch) > 1:
            self._labels.check(batch[1])
        return batch


def _part(y: Any, key: Any) -> Any:
    if key is None:
        return None if isinstance(y, list | tuple | Mapping) else y
    if isinstance(y, Mapping):
        return y.get(key) if not isinstance(key, int) else list(y.values())[key]
    if isinstance(y, list | tuple) and isinstance(key, int) and key < len(y):
        return y[key]
    return None


def _assertions(y: Any, key: Any, allowed: LabelRange) -> list[Any]:
    labels = _part(y, key)
    if not isinstance(labels, tf.Tensor) or not (
        labels.dtype.is_floating or labels.dtype.is_integer
    ):
        return []
    values = tf.cast(labels, tf.float64)
    right = (values >= allowed.low) & (values <= allowed.high)
    if allowed.whole:
        right &= values == tf.floor(values)
    if allowed.ignored is not None:
        right |= values == allowed.ignored
    wrong = tf.boolean_mask(values, ~right)
    return [
        tf.debugging.Assert(tf.reduce_all(right), [f"labels: {allowed.words}; found", wrong[:3]])
    ]


# --- outputs --------------------------------------------------------------------------------------


def counts(model: Any, batches: Any, *, known: int | None) -> tuple[Evaluation | None, int]:
    """Right and wrong predictions of a model that answers one question, None of any other.

    Also returns how many examples there were. Outputs count only if they are known to be
    probabilities or logits: by the loss, which has to be one of Keras's own. ``known`` is how many
    examples there are, if that was counted before: then figures alone need not be read for.
    """
    rule = _rule(kind_of(model.loss))
    if rule is None and known is not None:
        return None, known
    labels: list[Array] = []
    outputs: list[Array] = []
    examples = 0
    for batch in _each(batches):
        x, y, _weights = keras.utils.unpack_x_y_sample_weight(batch)
        examples += _rows(x)
        if rule is None or y is None:
            continue
        output = model.predict_on_batch(x)
        if not hasattr(output, "ndim") or output.ndim != 2 or output.shape[1] > MAX_CLASSES:
            rule = None
            continue
        labels.append(np.asarray(y))
        outputs.append(np.asarray(output))
    if rule is None or not labels:
        return None, examples
    return rule(np.concatenate(labels), np.concatenate(outputs).astype(np.float64)), examples


def _rule(kind: LossKind | None) -> Any:
    """A function of labels and outputs that counts them; None if they cannot be told."""
    if kind is None or "crossentropy" not in kind.name:
        return None

    def counted(truth: Array, guess: Array) -> Evaluation | None:
        if guess.shape[1] == 1:
            return _binary(kind, truth, guess[:, 0]) if kind.name in BINARY else None
        if kind.name in BINARY:
            return None  # several questions at once
        if kind.name == SPARSE:
            truth = truth.reshape(len(truth), -1)[:, 0]
        elif truth.ndim == 2 and truth.shape == guess.shape:
            truth = truth.argmax(axis=1)
        else:
            return None
        if kind.ignore_class is not None:
            there = truth != kind.ignore_class
            truth, guess = truth[there], guess[there]
        if not len(truth):
            return None
        return of_classes(truth, most_likely(guess), guess.shape[1])

    return counted


def _binary(kind: LossKind, truth: Array, guess: Array) -> Evaluation | None:
    labels = np.asarray(truth, np.float64).ravel()
    if len(labels) != len(guess) or not np.isin(labels, (0, 1)).all():
        return None  # soft labels have no ROC curve
    if kind.from_logits:
        return of_scores(labels, guess, 0.0)
    if np.isfinite(guess).all() and ((guess < 0) | (guess > 1)).any():
        return (
            None  # a last activation is missing: no probabilities, whatever the loss takes them for
        )
    return of_scores(labels, guess)


def _each(batches: Any) -> Iterator[Any]:
    if hasattr(batches, "num_batches") and hasattr(batches, "__getitem__"):
        yield from (batches[number] for number in range(batches.num_batches or 0))
    else:
        yield from batches


def _rows(x: Any) -> int:
    first = next(iter(tf.nest.flatten(x)))
    return int(first.shape[0]) if first.shape[0] is not None else int(first.nrows())
