"""Discrete Gaussian noise: its distribution, and that a key gives the same for ever."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from blake3 import blake3

from warren_shared.privacy.noise import BLOCK, DiscreteGaussian, KeyStream, _table

KEY = bytes(range(32))
SIGMAS = [64.0, 100.0, 130.0, 512.0, 5000.0, 1e5, 1.1e7]


def drawn(sigma: float, count: int, key: bytes = KEY) -> np.ndarray:
    gaussian, stream = DiscreteGaussian(sigma), KeyStream(key)
    return np.concatenate([gaussian.draw(stream, BLOCK) for _ in range(-(-count // BLOCK))])


@pytest.mark.parametrize("sigma", SIGMAS)
def test_mean_deviation_and_tails(sigma: float) -> None:
    found = drawn(sigma, 1 << 20) / sigma
    root = np.sqrt(found.size)
    assert abs(found.mean()) < 5 / root
    assert abs(found.var() - 1) < 5 * np.sqrt(2) / root
    assert abs((found**3).mean()) < 5 * np.sqrt(15) / root
    assert abs((found**4).mean() - 3) < 5 * np.sqrt(96) / root
    assert abs((abs(found) > 3).mean() - 0.0026998) < 5 * np.sqrt(0.0027) / root


@pytest.mark.parametrize("sigma", [64.0, 130.0, 600.0])
def test_each_integer_is_as_frequent_as_it_should_be(sigma: float) -> None:
    found = drawn(sigma, 1 << 22)
    reach = int(4 * sigma)
    values = np.arange(-reach, reach + 1)
    expected = np.exp(-(values**2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi)) * found.size
    counts = np.bincount(found[abs(found) <= reach] + reach, minlength=values.size)
    enough = expected > 20
    chi = (((counts - expected) ** 2 / expected)[enough]).sum()
    freedom = enough.sum()
    assert abs(chi - freedom) < 5 * np.sqrt(2 * freedom)


def test_neighbours_are_independent() -> None:
    found = drawn(1e5, 1 << 19) / 1e5
    assert abs((found[1:] * found[:-1]).mean()) < 5 / np.sqrt(found.size)


@pytest.mark.parametrize(
    ("sigma", "digest"),
    [
        (64.0, "8f4d001792e3695b"),
        (5000.0, "2d3114899267f48e"),
        (1.1e7, "45fa560283b3e74d"),
    ],
)
def test_a_key_gives_the_same_noise_on_every_machine(sigma: float, digest: str) -> None:
    assert blake3(drawn(sigma, BLOCK).tobytes()).hexdigest()[:16] == digest


def test_another_key_gives_other_noise() -> None:
    assert (drawn(64.0, BLOCK) != drawn(64.0, BLOCK, bytes(32))).mean() > 0.9


@pytest.mark.parametrize("sigma", [0.0, 63.9, -1.0, float("nan"), 1e30])
def test_a_deviation_that_the_sampler_is_not_made_for(sigma: float) -> None:
    with pytest.raises(ValueError, match="deviation"):
        DiscreteGaussian(sigma)


def test_a_key_of_another_length() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        KeyStream(b"short")


@pytest.mark.parametrize("sigma", [64.0, 77.7, 128.0])
def test_the_table_holds_each_probability_to_a_hundred_bits(sigma: float) -> None:
    table = _table(sigma)
    rest = 64 - table.bits
    found = dict.fromkeys(range(-table.reach, table.reach + 1), 0)
    for cell in range(1 << table.bits):
        high = int(table.threshold[cell]) - (cell << rest)
        own = min((high << rest) + table.low[cell], 1 << 2 * rest)
        if cell - table.reach in found:
            found[cell - table.reach] += own
        else:
            assert own == 0, "a cell without a value of its own"
        found[int(table.values[cell])] += (1 << 2 * rest) - own
    total = 1 << (table.bits + 2 * rest)
    assert sum(found.values()) == total
    with localcontext() as context:
        context.prec = 60
        weights = {k: (Decimal(-k * k) / (2 * Decimal(sigma) ** 2)).exp() for k in found}
        whole = sum(weights.values())
        for k, mass in found.items():
            error = abs(Decimal(mass) / total - weights[k] / whole)
            assert error < Decimal(2) ** -100


class Words:
    """A stream of the words that are given."""

    def __init__(self, *words: int) -> None:
        self._words = list(words)

    def words(self, count: int) -> np.ndarray:
        found, self._words = self._words[:count], self._words[count:]
        return np.array(found, np.uint64)


def test_where_a_word_does_not_decide_another_one_does() -> None:
    table = _table(100.0)
    cell = next(
        cell
        for cell in range(1 << table.bits)
        if int(table.threshold[cell]) > cell << (64 - table.bits)  # it has a value of its own
        and table.low[cell] > 0
        and int(table.values[cell]) != cell - table.reach
    )
    threshold = int(table.threshold[cell])
    own, other = cell - table.reach, int(table.values[cell])
    below, above = table.low[cell] - 1, table.low[cell]
    for words, value in (
        ((threshold - 1,), own),
        ((threshold + 1,), other),
        ((threshold, below << table.bits), own),
        ((threshold, above << table.bits), other),
    ):
        assert table.draw(Words(*words), 1)[0] == value  # type: ignore[arg-type]
