"""Every example has one client, whichever way they are dealt out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_worker.partition import by_column, dirichlet, iid, shards
from warren_shared.errors import ConfigError

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


LABELS = np.random.default_rng(0).integers(0, 10, 2000)
HOLES = np.where(np.arange(2000) % 10 == 0, np.nan, LABELS.astype(float))


@pytest.mark.parametrize(
    "deal",
    [
        lambda: by_column(HOLES),
        lambda: by_column(["a", None, "b"]),
        lambda: by_column(np.array(["2020-01-01", "NaT"], "datetime64[D]")),
        lambda: by_column(np.zeros((4, 2))),
        lambda: by_column(["a", 1]) and by_column(np.array(["a", 1], object)),
        lambda: shards(HOLES, 10, 2, 0),
        lambda: shards(LABELS[:10], 10, 2, 0),
        lambda: shards(LABELS, 10, 0, 0),
        lambda: dirichlet(HOLES, 20, 0.5, 0),
        lambda: dirichlet(LABELS, 20, np.inf, 0),
        lambda: dirichlet(LABELS, 20, np.nan, 0),
        lambda: dirichlet(LABELS, 20, 0.0, 0),
        lambda: dirichlet(LABELS, 20, -1.0, 0),
        lambda: dirichlet(LABELS, 0, 1.0, 0),
        lambda: iid(3, 4, 0),
        lambda: iid(3, 0, 0),
    ],
)
def test_rows_that_would_be_with_nobody_are_refused(deal: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        deal()


@pytest.mark.parametrize(
    "values",
    [["a", "b", "a"], (3, 1, 3), np.array([[1], [2], [1]]), np.array([True, False, True]),
     np.array(["b", "a", "b"], object), [1.5, 2, 1.5]],
)  # fmt: skip
def test_any_column_gives_every_row_to_one_client(values: Any) -> None:
    parts = by_column(values)
    assert is_dealt_out(parts, 3)
    assert sorted(map(len, parts)) == [1, 2]


@pytest.mark.parametrize("alpha", [1e-300, 1e-4, 1.0, 1e6, 1e300])
def test_every_alpha_gives_every_row_to_one_client(alpha: float) -> None:
    assert is_dealt_out(dirichlet(LABELS, 20, alpha, 0), 2000)
    assert is_dealt_out(dirichlet([str(label) for label in LABELS], 20, alpha, 0), 2000)
