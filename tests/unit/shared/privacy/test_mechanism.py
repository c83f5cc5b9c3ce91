"""The correlated noise: figures of the specification, and the promise in exact integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warren_shared.privacy.accountant import mu_of
from warren_shared.privacy.mechanism import Calibration, Correlation


@pytest.mark.parametrize(
    ("rounds", "contributions", "distance", "error"),
    [(120, 4, 30, 5.33), (120, 4, 20, 5.65), (300, 10, 30, 11.01)],
)
def test_the_noise_in_the_sums_is_that_of_one_buffer(
    rounds: int, contributions: int, distance: int, error: float
) -> None:
    found = Correlation.best(rounds, contributions, distance)
    bounds = (rounds, contributions, distance)
    reached = found.sensitivity(*bounds) * found.error(rounds)
    independent = Correlation().sensitivity(*bounds) * Correlation().error(rounds)
    assert reached == pytest.approx(error, rel=0.01)
    assert reached < 0.37 * independent


@given(st.floats(0.01, 0.99), st.floats(0, 1), st.integers(2, 40))
def test_the_inverse_is_that_of_the_column(theta: float, share: float, rounds: int) -> None:
    """So ``error`` is of the noise that ``w = z - omega s`` makes."""
    one = Correlation(theta, share * theta)
    column = one.column(rounds)
    matrix = np.array(
        [[column[i - j] if i >= j else 0 for j in range(rounds)] for i in range(rounds)]
    )
    z = np.random.default_rng(rounds).standard_normal(rounds)
    w, s = np.empty(rounds), 0.0
    for t in range(rounds):
        w[t] = z[t] - one.omega * s
        s = one.theta * s + w[t]
    np.testing.assert_allclose(matrix @ w, z, atol=1e-9)
    sums = np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(matrix)
    assert one.error(rounds) == pytest.approx(np.sqrt((sums**2).sum(axis=1).mean()), rel=1e-9)


@settings(max_examples=60)
@given(st.data())
def test_a_client_moves_the_noise_by_no_more_than_the_sensitivity(data: st.DataObject) -> None:
    """In exact integers, roundings and all: z that explains the same releases without it."""
    rounds = data.draw(st.integers(1, 25))
    contributions, distance = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 8))
    size = data.draw(st.integers(1, 5))
    correlation = Correlation(data.draw(st.floats(0.01, 0.98)), 0.0)
    correlation = Correlation(correlation.theta, data.draw(st.floats(0, 1)) * correlation.theta)
    calibration = Calibration(correlation, rounds, contributions, distance, 0.5, size, 20)
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows = np.zeros((rounds, size), np.int64)
    last, count = -distance, 0
    for t in range(rounds):  # any pattern that the bounds allow
        if count < contributions and t - last >= distance and draw.random() < 0.7:
            vector = draw.standard_normal(size)
            length = calibration.step * draw.random() ** 0.2
            rows[t] = np.rint(vector / np.linalg.norm(vector) * length)
            last, count = t, count + 1
    assert (rows.astype(float) ** 2).sum(axis=1).max() <= calibration.unit**2
    w = np.rint(draw.standard_normal((rounds, size)) * calibration.sigma).astype(np.int64)
    moved = _z_of(w - rows, correlation) - _z_of(w, correlation)
    limit = calibration.sigma * calibration.mu
    assert np.linalg.norm(moved.astype(float)) <= limit


def _z_of(w: np.ndarray, correlation: Correlation) -> np.ndarray:
    """The independent noise of which the coordinator makes ``w``."""
    z, s = np.empty_like(w), np.zeros(w.shape[1], np.int64)
    for t, row in enumerate(w):
        z[t] = row + np.rint(correlation.omega * s).astype(np.int64)
        s = np.rint(correlation.theta * s).astype(np.int64) + row
    return z


def test_the_worst_pattern_is_as_early_and_near_as_the_bounds_allow() -> None:
    one = Correlation(0.9, 0.4)
    column = one.column(30)
    limit = one.sensitivity(30, 3, 5)
    for first in range(10):
        for second in range(first + 5, 20):
            for third in range(second + 5, 30):
                moved = np.zeros(30)
                for place in (first, second, third):
                    moved[place:] += column[: 30 - place]
                assert np.linalg.norm(moved) <= limit + 1e-12


@pytest.mark.parametrize("size", [1, 4_420, 200_000, 10_000_000])
@pytest.mark.parametrize("quorum", [20, 100, 1000])
def test_sums_have_room(size: int, quorum: int) -> None:
    correlation = Correlation.best(120, 4, 30)
    found = Calibration(correlation, 120, 4, 30, mu_of(2, 1e-5), size, quorum)
    assert found.unit >= 1 << 16
    assert 0.99 * found.unit < found.step < found.unit
    assert quorum * found.unit + 28 * found.sigma * correlation.spread < 2**31
    exact = correlation.sensitivity(120, 4, 30) * found.unit / found.mu
    assert exact <= found.sigma < 1.1 * exact, "roundings cost less than a tenth"


def test_what_makes_no_sum_of_32_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bits"):
        Calibration(Correlation(), 10, 1, 1, 0.5, 10, 1 << 20).unit  # noqa: B018


def test_what_is_spent_grows_to_the_promise() -> None:
    found = Calibration(Correlation.best(50, 3, 10), 50, 3, 10, 0.4, 1000, 50)
    spent = [found.spent(rounds) for rounds in range(51)]
    assert spent[0] == 0.0
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(0.4)
    assert found.spent(60) == spent[-1]
