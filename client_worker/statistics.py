"""Statistics of all sites' features, without a row leaving its site.

Inputs have to be standardised by the same figures everywhere, or the same patient would look
different at each hospital. Here the *model* is a table of normalised sums, so one ordinary round of
federated averaging (weighted by numbers of rows) makes it the table of all rows together: exact
means and variances, and quantiles with a relative error that is bounded beforehand.

The sketch is DDSketch (Masson et al. 2019): bucket i holds the values in (g^(i-1), g^i] with
g = (1 + a) / (1 - a), whose middle is at most a away from any of them, relatively.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from client_worker.guide import LOCAL_STEPS
from client_worker.task import Task
from shared.errors import ConfigError
from shared.layout import Array

RELATIVE_ERROR: Final = 0.01
GROWTH: Final = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
SMALLEST, LARGEST = 1e-6, 1e9  # magnitudes below count as 0, above as LARGEST
FIRST: Final = math.ceil(math.log(SMALLEST) / GROWTH)
LAST: Final = math.ceil(math.log(LARGEST) / GROWTH)
MAGNITUDES: Final = LAST - FIRST + 1
BUCKETS: Final = 2 * MAGNITUDES + 1  # negative from the largest magnitude on, 0, positive

Table = npt.NDArray[np.float64]


class Statistics:
    """What is known of each feature over all rows; of those that have it.

    ``moments`` (features, 3): the share of rows that have it, and the sums of its values and their
    squares, over the number of rows. ``buckets`` (features, BUCKETS): shares of rows.
    """

    def __init__(self, moments: Array, buckets: Array) -> None:
        self._moments = np.asarray(moments, np.float64)
        self._buckets = np.asarray(buckets, np.float64)

    @classmethod
    def of(cls, x: npt.ArrayLike) -> "Statistics":
        """Of the rows ``x`` (n, features); NaN is a value that is missing."""
        rows = np.asarray(x, np.float64)
        if rows.ndim != 2 or not len(rows):
            raise ConfigError(f"statistics are of rows (n, features), not of shape {rows.shape}")
        if np.isinf(rows).any():
            raise ConfigError("a feature is infinite somewhere: write NaN for what is missing")
        there = ~np.isnan(rows)
        values = np.where(there, rows, 0.0)
        moments = np.stack([there.mean(0), values.mean(0), (values**2).mean(0)], axis=1)
        buckets = np.zeros((rows.shape[1], BUCKETS))
        for column, (present, each) in enumerate(zip(there.T, rows.T, strict=True)):
            counts = np.bincount(_bucket(each[present]), minlength=BUCKETS)
            buckets[column] = counts / len(rows)
        return cls(moments, buckets)

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        """Those that a client has saved; raises ConfigError if ``path`` holds none."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(arrays["moments"], arrays["buckets"])
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{path} holds no statistics: {error}") from None

    def save(self, path: Path) -> None:
        """Write them to ``path``, an ``.npz``, whole or not at all."""
        temporary = path.with_name(f"{path.name}.tmp")
        with temporary.open("wb") as file:
            np.savez_compressed(file, moments=self._moments, buckets=self._buckets)
        temporary.replace(path)

    @property
    def present(self) -> Table:
        """Share of the rows that have the feature, (features,)."""
        return self._moments[:, 0]

    @property
    def mean(self) -> Table:
        """Mean of the feature, (features,); NaN where no row has it."""
        with np.errstate(invalid="ignore"):
            return self._moments[:, 1] / self.present

    @property
    def std(self) -> Table:
        """Standard deviation of the feature, (features,); divides by the number of rows."""
        with np.errstate(invalid="ignore"):
            variance = self._moments[:, 2] / self.present - self.mean**2
        return np.sqrt(np.maximum(variance, 0.0))

    def quantile(self, share: float) -> Table:
        """The value that ``share`` of the rows do not exceed, (features,); within 1 % of it."""
        if not 0 <= share <= 1:
            raise ConfigError(f"a quantile is from 0 to 1, not {share}")
        reached = np.cumsum(self._buckets, axis=1)
        wanted = np.maximum(share * reached[:, -1:], np.finfo(np.float64).tiny)
        places = (reached < wanted * (1 - 1e-12)).sum(axis=1)
        return np.where(self.present > 0, _middle(np.minimum(places, BUCKETS - 1)), np.nan)

    def histogram(self, column: int, edges: Sequence[float]) -> Table:
        """Share of rows between each two of ``edges``, by the buckets' middles."""
        middles = _middle(np.arange(BUCKETS))
        found, _ = np.histogram(middles, bins=np.asarray(edges), weights=self._buckets[column])
        return np.asarray(found, np.float64)

    def standardise(self, x: npt.ArrayLike) -> Table:
        """``x`` with mean 0 and deviation 1 over all sites; what is missing becomes the mean."""
        scale = np.where(self.std > 0, self.std, 1.0)
        found = (np.asarray(x, np.float64) - self.mean) / scale
        return np.where(np.isnan(found), 0.0, found)

    def arrays(self) -> list[Array]:
        """Both tables, as a model's weights."""
        return [self._moments, self._buckets]


class StatisticsModel:
    """A TrainableModel whose weights are a Statistics of ``features`` features."""

    def __init__(self, features: int, save: Path | None = None) -> None:
        self._weights: list[Array] = [np.zeros((features, 3)), np.zeros((features, BUCKETS))]
        self._save = save

    def get_weights(self) -> list[Array]:
        """Return the two tables."""
        return self._weights

    def set_weights(self, weights: Sequence[Array], /) -> None:
        """Take over the tables of all sites, and save them."""
        self._weights = [np.array(array) for array in weights]
        if self._save is not None and self._weights[0].any():
            Statistics(*self._weights).save(self._save)

    def fit(self, data: Array, learning_rate: float) -> Mapping[str, float]:  # noqa: ARG002
        """Put this site's rows in their place; the mean over sites, by rows, is that of all."""
        self._weights = Statistics.of(data).arrays()
        return {LOCAL_STEPS: 1.0}


def statistics_task(x: npt.ArrayLike, save: Path | None = None) -> Task:
    """The task of a site with rows ``x`` (n, features), for a coordinator with ``--rounds 1``.

    Afterwards every site has the statistics of all in the file ``save``.
    """
    rows = np.asarray(x, np.float64)
    return Task(StatisticsModel(rows.shape[1], save), rows)


def _bucket(values: Table) -> npt.NDArray[np.int64]:
    magnitude = np.clip(np.abs(values), 0.0, LARGEST)
    with np.errstate(divide="ignore"):
        steps = np.ceil(np.log(magnitude) / GROWTH)
    place = np.clip(steps, FIRST, LAST) - FIRST + 1
    signed = np.where(magnitude < SMALLEST, 0.0, np.sign(values) * place)
    return (signed + MAGNITUDES).astype(np.int64)


def _middle(places: npt.NDArray[np.int64]) -> Table:
    signed = places - MAGNITUDES
    upper = np.exp((np.abs(signed) - 1 + FIRST) * GROWTH)
    middle = 2 * upper / (1 + math.exp(GROWTH))
    return np.where(signed == 0, 0.0, np.sign(signed) * middle)
