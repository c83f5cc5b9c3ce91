"""One record moves a sum by UNIT at most, exactly, and what is released is that sum with noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from client_worker.privacy.release import UNIT, GradientRelease
from client_worker.privacy.terms import RecordPrivacy
from warren_shared.errors import ConfigError

SIZE = 7
TERMS = RecordPrivacy(epsilon=1, delta=1e-5, steps=4, examples=50, clip=0.5)
ANY = arrays(np.float64, (5, SIZE), elements=st.floats(width=64))


def release(size: int = SIZE, terms: RecordPrivacy = TERMS) -> GradientRelease:
    return GradientRelease(terms, size, np.random.default_rng(1).bytes)


@settings(max_examples=300, deadline=None)
@given(ANY)
def test_no_record_is_longer_than_the_unit_whatever_its_gradient(rows: np.ndarray) -> None:
    found = release().rounded(rows)
    assert all(sum(int(v) ** 2 for v in row) <= UNIT**2 for row in found)
    np.testing.assert_array_equal(found, np.vstack([release().rounded(row[None]) for row in rows]))


@pytest.mark.parametrize("size", [1, 1000, 300_000])
def test_rounding_does_not_make_a_vector_longer_than_the_unit(size: int) -> None:
    """Just above one half in each place: as far as rounding can go."""
    made = release(size)
    step = TERMS.clip / made._length
    for values in (np.full(size, 0.5000001), np.random.default_rng(0).normal(size=size)):
        length = float(np.linalg.norm(values))
        for row in (values * step, values * (TERMS.clip / length)):
            found = made.rounded(row[None].astype(np.float64))
            assert int((found**2).sum()) <= UNIT**2
            assert found.any() or size == 1


def test_a_gradient_within_the_clip_is_what_it_was_and_a_longer_one_keeps_its_direction() -> None:
    rows = np.random.default_rng(0).normal(size=(3, SIZE))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    made = release()
    short = made.rounded(0.3 * rows) * (TERMS.clip / made._length)
    np.testing.assert_allclose(short, 0.3 * rows, atol=1e-7)
    long = made.rounded(900.0 * rows) * (TERMS.clip / made._length)
    np.testing.assert_allclose(long, 0.5 * rows, atol=1e-7)


def test_a_gradient_that_is_not_finite_counts_as_nothing_and_spoils_nothing() -> None:
    rows = np.full((4, SIZE), 0.1)
    rows[1, 2], rows[2, 3], rows[3, 0] = np.nan, np.inf, 1e300
    found = release().rounded(rows)
    assert found[0].any()
    assert not found[1:].any()


def test_the_noise_is_as_large_as_the_terms_say_and_new_each_time() -> None:
    made = release(20_000)
    first, second = made.sum([]), made.sum([])
    deviation = TERMS.clip / TERMS.mu_of_step
    for values in (first, second):
        assert values.std() == pytest.approx(deviation, rel=0.03)
        assert abs(values.mean()) < 4 * deviation / 20_000**0.5
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_no_two_releases_share_their_noise() -> None:
    one, other = GradientRelease(TERMS, 500), GradientRelease(TERMS, 500)
    assert (one.sum([]) != other.sum([])).mean() > 0.99


def test_every_released_number_is_a_multiple_of_the_step() -> None:
    made = release()
    steps = made.sum([np.random.default_rng(0).normal(size=(9, SIZE))]) / (
        TERMS.clip / made._length
    )
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)


@pytest.mark.parametrize("shape", [(SIZE,), (3, SIZE + 1), (2, 3, SIZE)])
def test_gradients_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"not \(records, 7\)"):
        release().sum([np.zeros(shape)])
