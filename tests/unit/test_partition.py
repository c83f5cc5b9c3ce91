"""Every example has one client, whichever way they are dealt out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_worker.partition import by_column, dirichlet, iid, shards
from shared.errors import ConfigError

seeds = st.integers(0, 99)


def classes(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 10, count)


def is_dealt_out(parts: list[np.ndarray], count: int) -> bool:
    return sorted(np.concatenate(parts)) == list(range(count))


@given(seeds, st.integers(1, 30))
def test_iid_deals_out_all_as_evenly_as_can_be(seed: int, clients: int) -> None:
    parts = iid(457, clients, seed)
    assert is_dealt_out(parts, 457)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(seeds, st.integers(2, 20))
def test_with_shards_a_client_has_few_classes(seed: int, clients: int) -> None:
    labels = classes(1000, seed)
    parts = shards(labels, clients, 2, seed)
    assert is_dealt_out(parts, 1000)
    cuts = 2 * clients
    assert sum(len(set(labels[part])) for part in parts) <= cuts + 10


@given(seeds, st.floats(0.05, 100))
def test_dirichlet_leaves_nobody_without_data(seed: int, alpha: float) -> None:
    parts = dirichlet(classes(1000, seed), 20, alpha, seed)
    assert is_dealt_out(parts, 1000)
    assert min(map(len, parts)) >= 10


def test_a_small_alpha_leaves_a_client_few_classes() -> None:
    labels = classes(20_000, 0)

    def dominance(alpha: float) -> float:
        parts = dirichlet(labels, 50, alpha, 1)
        return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))

    assert dominance(0.1) > 0.5 > dominance(1.0) > 0.15 > dominance(100.0)


def test_the_same_seed_deals_the_same() -> None:
    labels = classes(500, 3)
    for deal in (
        lambda seed: iid(500, 7, seed),
        lambda seed: shards(labels, 7, 2, seed),
        lambda seed: dirichlet(labels, 7, 0.3, seed),
    ):
        one, again, other = deal(1), deal(1), deal(2)
        assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_by_column_is_a_client_for_each_value() -> None:
    parts = by_column(np.array(["b", "a", "b", "c"]))
    assert [list(part) for part in parts] == [[1], [0, 2], [3]]


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match="too few"):
        dirichlet(classes(50, 0), 20, 0.5, 0)
