"""Layouts and weights: one buffer, many views."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError
from shared.layout import Layout, Weights

shapes = st.lists(
    st.tuples(
        st.lists(st.integers(0, 4), max_size=3).map(tuple), st.sampled_from(["float32", "float64"])
    ),
    min_size=1,
    max_size=8,
)


def arrays_of(entries: list[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.normal(size=shape).astype(dtype) for shape, dtype in entries]


@given(shapes)
def test_packed_arrays_come_back_and_live_in_one_buffer(
    entries: list[tuple[tuple[int, ...], str]],
) -> None:
    arrays = arrays_of(entries)
    weights = Weights.of(arrays)
    for packed, array in zip(weights, arrays, strict=True):
        np.testing.assert_array_equal(packed, array)
        assert packed.dtype == array.dtype
        assert packed.flags.aligned
    weights.buffer.fill(0)
    assert not any(packed.any() for packed in weights)


@given(shapes)
def test_the_runs_cover_the_buffer_once(entries: list[tuple[tuple[int, ...], str]]) -> None:
    layout = Layout.of(arrays_of(entries))
    ends = [0, *(run.stop for run in layout.runs)]
    assert [run.start for run in layout.runs] == ends[:-1]
    assert ends[-1] == layout.size_bytes
    assert sum(run.size for run in Weights.empty(layout).runs()) >= sum(
        int(np.prod(shape)) for shape, _ in entries
    )


def test_weights_are_not_packed_twice() -> None:
    weights = Weights.of([np.ones(3, np.float32)])
    assert Weights.of(weights) is weights


def test_the_first_difference_of_two_layouts_is_told() -> None:
    ours = Layout.of([np.zeros((2, 3)), np.zeros(3)])
    assert ours.difference(Layout.of([np.ones((2, 3)), np.ones(3)], ["a", "b"])) is None
    assert ours.digest == Layout.of([np.ones((2, 3)), np.ones(3)], ["a", "b"]).digest
    other = ours.difference(Layout.of([np.zeros((2, 3)), np.zeros(4)]))
    assert other == "tensor 1 is 1 float64[4], expected 1 float64[3]"
    assert ours.difference(Layout.of([np.zeros((2, 3))])) == "1 tensors, expected 2"
    assert ours.digest != Layout.of([np.zeros((3, 2)), np.zeros(3)]).digest


def test_weights_of_integers_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="tensor steps is int64"):
        Layout.of([np.zeros(2), np.zeros(2, int)], ["kernel", "steps"])


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match="no weights"):
        Layout.of([])


def test_weights_that_do_not_fit_are_refused() -> None:
    layout = Layout.of([np.zeros(3)])
    with pytest.raises(ConfigError, match="do not fit the model: tensor 0"):
        Weights.of([np.zeros(4)], layout)
