"""Layouts and weights: one buffer, many views."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Layout, Weights

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


def test_neighbours_of_one_dtype_are_one_run() -> None:
    layout = Layout.of([np.zeros(n, d) for n, d in ((3, "f4"), (2, "f4"), (1, "f8"), (5, "f4"))])
    assert [run.dtype for run in layout.runs] == ["float32", "float64", "float32"]


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


@given(shapes, shapes)
def test_two_models_federate_exactly_if_their_digests_agree(
    ours: list[tuple[tuple[int, ...], str]], theirs: list[tuple[tuple[int, ...], str]]
) -> None:
    mine, other = Layout.of(arrays_of(ours)), Layout.of(arrays_of(theirs))
    assert (mine.difference(other) is None) == (ours == theirs)
    assert (mine.digest == other.digest) == (ours == theirs)


@given(shapes, st.data())
def test_the_difference_that_is_told_is_the_first(
    entries: list[tuple[tuple[int, ...], str]], draw: st.DataObject
) -> None:
    place = draw.draw(st.integers(0, len(entries) - 1))
    changed = [*entries[:place], ((5, 5, 5, 5), "float32"), *entries[place + 1 :], ((), "float64")]
    told = Layout.of(arrays_of(entries)).difference(Layout.of(arrays_of(changed)))
    assert told is not None
    assert told.startswith(f"tensor {place} is {place} float32[5, 5, 5, 5], expected {place} ")


def test_arrays_that_do_not_lie_in_one_piece_are_packed_in_their_own_order() -> None:
    strided = np.arange(24.0).reshape(4, 6)[::2, ::-1].T
    np.testing.assert_array_equal(Weights.of([strided])[0], strided)


def test_a_scalar_is_a_view_of_the_buffer_too() -> None:
    weights = Weights.of([np.array(2.5), np.float32(1.5)])
    assert [array.shape for array in weights] == [(), ()]
    weights[0][...] = 7.0
    assert weights.runs()[0][0] == 7.0


@pytest.mark.parametrize("dtype", ["int8", "bool", "float16", "complex64", ">f4", "<U3", "O"])
def test_only_native_single_and_double_precision_federates(dtype: str) -> None:
    with pytest.raises(ConfigError, match="tensor bias is "):
        Layout.of([np.zeros(2), np.zeros(2, dtype)], ["kernel", "bias"])
