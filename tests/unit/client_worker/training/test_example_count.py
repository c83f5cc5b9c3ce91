"""Examples are counted right, or ``num_examples`` is asked for; nothing is used up by counting."""

from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from client_worker import Task
from client_worker.training.example_count import count_examples
from warren_shared.errors import ConfigError

X, Y = np.zeros((500, 3), np.float32), np.zeros(500)


class Frame:
    """As much of a pandas frame as counting sees: its length is rows, its items are columns."""

    shape = (500, 7)

    def __len__(self) -> int:
        return 500


class Sparse:
    """A scipy.sparse matrix has no length."""

    shape = (500, 9)

    def __len__(self) -> int:
        raise TypeError("sparse array length is ambiguous")


class Numbered(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of 64, the last one shorter."""

    @property
    def num_batches(self) -> int:
        return 8

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        part = slice(number * 64, number * 64 + 64)
        return {"a": X[part], "b": X[part]}, Y[part]


class Loader:
    """As much of a PyTorch DataLoader as counting sees."""

    def __init__(self, drop_last: bool = False, sampler: Any = None) -> None:
        self.dataset, self.batch_size, self.drop_last = range(500), 64, drop_last
        self.sampler = sampler if sampler is not None else range(500)

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("counting reads nothing")


class SimpleEndless(keras.utils.PyDataset):  # type: ignore[misc]
    num_batches = None

    def __getitem__(self, number: int) -> Any:
        return X, Y


def batches(*, drop: bool = False) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(({"a": X, "b": (X, X)}, Y)).batch(64, drop)


COUNTED: dict[str, tuple[Any, int]] = {
    "x, y": ((X, Y), 500),
    "x, y and sample weights": ((X, Y, Y), 500),
    "a list of x and y": ([X, Y], 500),
    "y left out": ((X, None), 500),
    "x alone": (X, 500),
    "a dict of inputs": (({"a": X, "b": X}, Y), 500),
    "a tuple of inputs": (((X, X), Y), 500),
    "a list of inputs": (([X, X, X], Y), 500),
    "nested inputs": (({"a": (X, {"b": X})}, {"one": Y, "two": Y}), 500),
    "a dict of x and y": ({"x": {"a": X}, "y": Y}, 500),
    "frames": ((Frame(), Frame()), 500),
    "a sparse matrix": ((Sparse(), Y), 500),
    "a list of images": ((list(np.zeros((500, 28, 28))), Y), 500),
    "rows of plain lists": (([[1, 2], [3, 4], [5, 6]], [0, 1, 0]), 3),
    "numbers": ([1, 2, 3], 3),
    "words": (deque(["a", "b"]), 2),
    "records": ([{"age": 3, "sick": True}, {"age": 5, "sick": False}], 2),
    "pairs of example and label": ([(X[0], 1), (X[1], 0)], 2),
    "batches": (batches(), 500),
    "whole batches only": (batches(drop=True), 448),
    "a PyDataset": (Numbered(), 500),
    "a PyTorch loader": (Loader(), 500),
    "one that drops the last batch": (Loader(drop_last=True), 448),
    "one that draws some": (Loader(sampler=range(100)), 100),
}

ASKED: dict[str, tuple[Callable[[], Any], str]] = {
    "a generator": (lambda: iter([1]), "give num_examples"),
    "arrays of different lengths": (lambda: (X, Y[:400]), "x has 500 rows, y has 400 rows"),
    "inputs of different lengths": (lambda: ({"a": X, "b": X[:9]}, Y), r"x\['b'\] has 9 rows"),
    "a list of five hundred images": (lambda: list(np.zeros((500, 28, 28))), "give num_examples"),
    "an endless dataset": (lambda: batches().repeat(), "never ends.*give num_examples"),
    "a filtered dataset": (lambda: batches().filter(lambda *_: True), "give num_examples"),
    "a dataset of a generator": (lambda: generated(iter([])), "give num_examples"),
    "one that was told its length": (
        lambda: generated(iter([])).apply(tf.data.experimental.assert_cardinality(6)),
        "give num_examples",
    ),
    "single examples": (lambda: batches().unbatch(), "call batch"),
    "an endless PyDataset": (SimpleEndless, "does not say how many"),
    "a loader of another's batches": (
        lambda: SimpleNamespace(dataset=[], batch_size=None, __iter__=None),
        "give num_examples",
    ),
    "some object": (lambda: (object(), Y), "give num_examples"),
    "one record": (lambda: {"age": 3}, "give num_examples"),
    "settings beside the arrays": (lambda: {"x": X, "rate": 0.5}, "give num_examples"),
    "nothing at all": (lambda: None, "give num_examples"),
    "no rows": (lambda: (X[:0], Y[:0]), "no training data"),
}


def generated(source: Iterator[Any]) -> tf.data.Dataset:
    spec = (tf.TensorSpec((None, 3)), tf.TensorSpec((None,)))
    return tf.data.Dataset.from_generator(lambda: source, output_signature=spec)


class Model:
    def get_weights(self) -> list[np.ndarray]:
        return [np.zeros(1)]

    def set_weights(self, weights: Any) -> None: ...

    def fit(self, data: Any, learning_rate: float) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("kind", COUNTED)
def test_rows_are_counted_whatever_they_are_nested_in(kind: str) -> None:
    data, count = COUNTED[kind]
    assert count_examples(data) == count
    assert Task(Model(), data).client().num_examples == count


@pytest.mark.parametrize("kind", ASKED)
def test_what_cannot_be_counted_is_asked_for_in_one_line(kind: str) -> None:
    make, said = ASKED[kind]
    with pytest.raises(ConfigError, match=said) as refusal:
        count_examples(make())
    assert "\n" not in str(refusal.value)


def test_a_dataset_is_never_consumed_by_counting() -> None:
    taken: list[int] = []

    def source() -> Iterator[Any]:
        for number in range(3):
            taken.append(number)
            yield X[:64], Y[:64]

    once = source()
    for data in (
        generated(once),
        generated(once).apply(tf.data.experimental.assert_cardinality(3)),
        generated(once).batch(2).map(lambda x, y: (x, y)).prefetch(1),
    ):
        with pytest.raises(ConfigError):
            count_examples(data)
    assert not taken


def nested(rows: int) -> st.SearchStrategy[Any]:
    leaf = st.integers(1, 3).map(lambda width: np.zeros((rows, width)))
    return st.recursive(
        leaf,
        lambda part: (
            st.dictionaries(st.sampled_from("abc"), part, min_size=1)
            | st.lists(part, min_size=2, max_size=3).map(tuple)
        ),
        max_leaves=5,
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(4, 40))
def test_any_nesting_of_arrays_has_as_many_examples_as_rows(data: Any, rows: int) -> None:
    parts = data.draw(nested(rows)), np.zeros(rows)
    assert count_examples(parts) == rows
    assert count_examples(list(parts)) == rows
    dataset = tf.data.Dataset.from_tensor_slices(parts).batch(data.draw(st.integers(1, 9)))
    assert count_examples(dataset) == rows


@pytest.mark.parametrize("many", [np.int64(7), np.float32(7), 7.0, np.array(7), 7])
def test_a_number_of_examples_may_be_numpys(many: Any) -> None:
    found = Task(Model(), None, num_examples=many).client().num_examples
    assert (found, type(found)) == (7, int)


@pytest.mark.parametrize("many", [7.5, 0, -1, float("nan"), "7", [7], 1 << 50])
def test_a_number_of_examples_that_is_none_is_one_line(many: Any) -> None:
    with pytest.raises(ConfigError, match="num_examples"):
        Task(Model(), None, num_examples=many).client()
