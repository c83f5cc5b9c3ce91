"""Vectors as integers of a ring: exact sums, with room for all that may be in them."""

import numpy as np
import pytest

from warren_shared.errors import Rejected
from warren_shared.tensors.layout import Layout, Weights
from warren_shared.tensors.ring import (
    RingCode,
    dtype_of,
    elements,
    from_limbs,
    largest_scale,
    limb_bits,
    limbs,
    to_limbs,
)

RNG = np.random.default_rng(3)
FLOATS = [RNG.standard_normal((50, 41)).astype(np.float32), RNG.standard_normal(7)]


def delta(arrays: list[np.ndarray] | None = None) -> Weights:
    return Weights.of(FLOATS if arrays is None else arrays)


def code(layout: Layout, ring: int = 32, *, updates: int = 8, weight: int = 1) -> RingCode:
    limb = limb_bits(ring, updates, weight)
    return RingCode(
        layout, ring, largest_scale(layout, ring, 60.0, limb, weight), limb, "ab", weight
    )


def integers(one: RingCode, vector: Weights, factor: float = 1.0) -> np.ndarray:
    found = np.empty(one.elements, dtype_of(one.ring))
    assert one.encode(vector, factor, found) == 0
    return found


@pytest.mark.parametrize("ring", [16, 32])
def test_a_sum_of_integers_stands_for_the_sum(ring: int) -> None:
    vectors = [delta([a * k for a in FLOATS]) for k in (1, -0.5, 0.25)]
    one = code(vectors[0].layout, ring)
    total = sum(integers(one, vector) for vector in vectors)
    found = Weights.empty(vectors[0].layout)
    one.decode(total, 3, 3.0, found)
    for tensor, original in zip(found, FLOATS, strict=True):
        near = 3e-6 if ring == 32 else 0.15  # a norm of 45 in 1,023 levels
        assert np.abs(tensor - original * 0.25).max() < near
        assert tensor.dtype == original.dtype


def test_the_mean_of_coarse_roundings_is_right() -> None:
    vector = delta([np.full(1024, 0.01, np.float32)])
    one = code(vector.layout, 16)
    found = Weights.empty(vector.layout)
    means = []
    for _ in range(200):
        one.decode(integers(one, vector), 1, 1.0, found)
        means.append(float(np.mean(found[0])))
    assert np.mean(means) == pytest.approx(0.01, abs=5e-4)


@pytest.mark.parametrize("weight", [1, 4, 16])
def test_no_sum_of_what_may_be_in_it_wraps_around(weight: int) -> None:
    updates = 100
    vector = delta([np.full(3, 60.0 / np.sqrt(3), np.float32), np.zeros(1, np.float32)])
    one = code(vector.layout, updates=updates, weight=weight)
    total = sum((integers(one, vector) * np.uint32(weight)) for _ in range(updates))
    found = Weights.empty(vector.layout)
    one.decode(total, updates * weight, updates * weight, found)
    assert np.abs(found[0] - vector[0]).max() < 1e-2


@pytest.mark.parametrize("weight", [2, 16])
def test_what_weights_tell_of_one_update_is_uniform(weight: int) -> None:
    """Of ``weight`` X + y the residue of y is known, whatever X is."""
    vector = delta([np.zeros(160_000, np.float32)])
    told = integers(code(vector.layout, weight=weight), vector) % np.uint32(weight)
    counts = np.bincount(told, minlength=weight)
    assert len(counts) == weight
    assert np.abs(counts / 160_000 * weight - 1).max() < 0.1


def test_the_dither_moves_no_mean() -> None:
    vector = delta([np.full(10_000, 0.125, np.float32)])
    one = code(vector.layout, weight=16)
    found = Weights.empty(vector.layout)
    one.decode(integers(one, vector) * np.uint32(16), 16, 16.0, found)
    assert float(np.mean(found[0])) == pytest.approx(0.125, abs=3 / one.scale / 10)


def test_a_step_is_a_power_of_two() -> None:
    layout = delta().layout
    for clip in (0.3, 1.0, 17.0):
        assert np.log2(largest_scale(layout, 32, clip, 24, 1)) % 1 == 0


def test_what_is_beyond_its_room_is_cut_off_and_counted() -> None:
    vector = delta([np.array([500.0, -500.0, 1.0], np.float32)])
    one = code(vector.layout)
    found = np.empty(one.elements, np.uint32)
    assert one.encode(vector, 1.0, found) == 2
    back = Weights.empty(vector.layout)
    one.decode(found, 1, 1.0, back)
    assert back[0][0] == -back[0][1]
    assert 60 <= back[0][0] < 500


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ring", [16, 32])
def test_what_is_not_finite_is_refused(value: float, ring: int) -> None:
    arrays = [a.copy() for a in FLOATS]
    arrays[1][3] = value
    one = code(delta().layout, ring)
    with pytest.raises(Rejected, match="not finite"):
        one.encode(delta(arrays), 1.0, np.empty(one.elements, dtype_of(ring)))


def test_statistics_are_refused() -> None:
    layout = Layout.of(FLOATS, roles=["trainable", "statistic"])
    with pytest.raises(Rejected, match="statistics"):
        elements(layout, 32)


def test_a_rotation_belongs_to_a_run() -> None:
    vector = delta()
    one, other = (RingCode(vector.layout, 16, 64.0, 10, run) for run in ("ab", "cd"))
    found = Weights.empty(vector.layout)
    other.decode(integers(one, vector), 1, 1.0, found)
    assert np.abs(np.asarray(found[0]) - FLOATS[0]).max() > 1


@pytest.mark.parametrize("limb", [1, 7, 26, 31])
@pytest.mark.parametrize("value", [0, 1, 12_345, (1 << 40) - 1])
def test_integers_in_limbs_add_up(limb: int, value: int) -> None:
    parts = np.array(to_limbs(value, 40, limb), np.uint64)
    assert len(parts) == limbs(40, limb)
    assert max(parts) < 1 << limb
    assert from_limbs(parts * np.uint64(3), limb) == 3 * value


def test_an_integer_of_more_bits_is_refused() -> None:
    for value in (-1, 1 << 8):
        with pytest.raises(ValueError, match="bits"):
            to_limbs(value, 8, 4)
