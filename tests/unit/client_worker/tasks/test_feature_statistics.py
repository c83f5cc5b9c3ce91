"""Federated statistics are those of all rows together."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_worker import FederatedClient
from client_worker.tasks.feature_statistics import Statistics, statistics_task
from coordinator_worker import FederatedCoordinator
from warren_shared.errors import ConfigError


def rows(count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    columns = [
        draw.normal(seed, 3.0, count),
        draw.lognormal(2.0, 2.0, count),
        draw.integers(-3, 4, count).astype(float),
        2013.0 + draw.random(count),
    ]
    x = np.stack(columns, axis=1)
    x[draw.random(x.shape) < 0.1] = np.nan
    return x


def federated(parts: list[np.ndarray], save: Path | None = None) -> Statistics:
    """One ordinary round of federated averaging."""
    tasks = [statistics_task(x, save) for x in parts]
    clients = [FederatedClient(task.model, task.data, task.learning_rate) for task in tasks]
    coordinator = FederatedCoordinator([client.model for client in clients])
    coordinator.send(coordinator.aggregate(c.train(coordinator.weights) for c in clients))
    return Statistics(*coordinator.weights)


@given(st.lists(st.integers(20, 200), min_size=1, max_size=5))
def test_one_round_gives_mean_and_deviation_of_all_rows(sizes: list[int]) -> None:
    parts = [rows(size, seed) for seed, size in enumerate(sizes)]
    found, together = federated(parts), np.concatenate(parts)
    np.testing.assert_allclose(found.present, 1 - np.isnan(together).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.mean, np.nanmean(together, axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, np.nanstd(together, axis=0), rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_within_a_hundredth(share: float) -> None:
    parts = [rows(size, seed) for seed, size in enumerate((100, 50, 333))]
    found, together = federated(parts).quantile(share), np.concatenate(parts)
    exact = np.nanquantile(together, share, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(found, exact, rtol=0.0101, atol=1e-6)


def test_a_histogram_is_that_of_all_rows() -> None:
    parts = [rows(400, seed) for seed in range(3)]
    together = np.concatenate(parts)
    edges = [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]
    counts, _ = np.histogram(together[:, 2], bins=edges)
    found = federated(parts).histogram(2, edges)
    np.testing.assert_allclose(found, counts / len(together), atol=1e-12)


def test_standardised_rows_have_mean_zero_and_deviation_one_over_all_sites() -> None:
    parts = [rows(400, seed) for seed in range(3)]
    found = federated(parts)
    together = np.concatenate([found.standardise(x) for x in parts])
    there = ~np.isnan(np.concatenate(parts))
    for column in range(together.shape[1]):
        values = together[there[:, column], column]
        assert values.mean() == pytest.approx(0, abs=1e-6)
        assert values.std() == pytest.approx(1, rel=1e-5)
    assert not together[~there].any()


def test_every_site_has_the_result_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "statistics.npz"
    found = federated([rows(50, 0), rows(60, 1)], path)
    np.testing.assert_array_equal(Statistics.load(path).mean, found.mean)
    with pytest.raises(ConfigError, match="holds no statistics"):
        Statistics.load(tmp_path / "missing.npz")


def test_a_feature_that_no_row_has_is_unknown_and_stands_for_nothing() -> None:
    x = rows(30, 0)
    x[:, 1] = np.nan
    found = Statistics.of(x)
    assert found.present[1] == 0
    assert np.isnan(found.mean[1])
    assert np.isnan(found.quantile(0.5)[1])
    assert not found.standardise(x)[:, 1].any()


@pytest.mark.parametrize("x", [np.zeros(3), np.zeros((0, 3)), np.array([[np.inf]])])
def test_what_is_no_table_of_numbers_is_refused(x: np.ndarray) -> None:
    with pytest.raises(ConfigError):
        Statistics.of(x)


FAR: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "ordinary": lambda r: r.normal(3, 2, 3000),
    "about 0": lambda r: r.normal(0, 1e-3, 3000),
    "unix time, a minute": lambda r: 1.7e9 + r.uniform(0, 60, 3000),
    "epoch ms, a minute": lambda r: 1.7e12 + r.uniform(0, 6e4, 3000),
    "UTM northing": lambda r: 5.4e6 + r.normal(0, 0.05, 3000),
    "south of it": lambda r: -5.4e6 + r.normal(0, 0.05, 3000),
    "astride a power of two": lambda r: 2.0**40 + r.normal(0, 0.01, 3000),
    "years": lambda r: r.integers(1940, 2020, 3000).astype(float),
    "two values far away": lambda r: 1e8 + r.integers(0, 2, 3000),
    "two sites far apart": lambda r: np.repeat([1e9, 2e9, 2e9], 1000) + r.random(3000),
    "an outlier": lambda r: np.append(r.normal(5e6, 1, 2999), 1e9),
    "heavy tails": lambda r: np.clip(r.standard_cauchy(3000), -1e6, 1e6),
    "tesla": lambda r: r.normal(2e-13, 1e-18, 3000),
    "rare": lambda r: (r.random(3000) < 0.001).astype(float),
    "money": lambda r: r.lognormal(23, 3, 3000),
}


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("name", FAR)
def test_deviations_are_exact_however_far_from_zero_the_data_lie(name: str, rounds: int) -> None:
    x = FAR[name](np.random.default_rng(0))[:, None]
    tasks = [statistics_task(part) for part in np.array_split(x, [900, 1000, 2500])]
    clients = [task.client() for task in tasks]
    coordinator = FederatedCoordinator([client.model for client in clients])
    for _ in range(rounds):
        coordinator.send(coordinator.aggregate(c.train(coordinator.weights) for c in clients))
    found = Statistics(*coordinator.weights)
    about = x.mean()  # or numpy's own mean of squares would be the less exact of the two
    assert found.mean[0] == pytest.approx(about, rel=1e-12, abs=1e-9 * x.std())
    assert found.std[0] == pytest.approx((x - about).std(), rel=1e-6)


@pytest.mark.parametrize("value", [14.62, 0.0, -1e30, 1e-30, 1.7e12, 0.1])
def test_a_column_that_is_constant_everywhere_is_not_scaled(value: float) -> None:
    found = federated([np.full((n, 1), value) for n in (100, 7, 1)])
    assert found.std[0] == 0
    assert found.mean[0] == pytest.approx(value, rel=1e-15)
    assert found.standardise([[value + 0.01]])[0, 0] == pytest.approx(
        value + 0.01 - value, rel=1e-9
    )


@pytest.mark.parametrize("scale", [1e-29, 1e-13, 1.0, 1e10, 1e28])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_quantiles_are_within_a_hundredth_at_every_scale(scale: float, sign: float) -> None:
    x = sign * scale * np.random.default_rng(0).uniform(0.5, 5, (3000, 1))
    found = federated(np.array_split(x, 3)).quantile(0.5)[0]
    exact = np.quantile(x, 0.5, method="inverted_cdf")
    assert found == pytest.approx(exact, rel=0.0101)


@pytest.mark.parametrize("value", [1e-31, -1e-40, 5e-324, 2e30, -1e300])
def test_what_no_bucket_is_there_for_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="feature 1 holds"):
        Statistics.of([[1.0, 2.0], [0.0, value]])


def test_statistics_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.npz"
    np.savez(path, moments=np.zeros((2, 3)), buckets=np.zeros((2, 3455)))
    with pytest.raises(ConfigError, match="another version"):
        Statistics.load(path)


def test_a_server_optimizer_does_nothing_to_statistics() -> None:
    rows = np.random.default_rng(0).normal(1.7e9, 60.0, size=(400, 2))
    tasks = [statistics_task(part).client() for part in np.array_split(rows, 2)]
    coordinator = FederatedCoordinator(
        [client.model for client in tasks], server_optimizer="adam", clip_norm=1e-3
    )
    coordinator.send(coordinator.aggregate([c.train(coordinator.weights) for c in tasks]))
    found = Statistics(*coordinator.weights)
    np.testing.assert_allclose(found.std, rows.std(0), rtol=1e-6)
    assert max(float(np.abs(array).max()) for array in coordinator.weights) <= 1.0
    assert not tasks[0].layout.trainable.size_bytes
