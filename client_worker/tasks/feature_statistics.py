"""Statistics of all sites' features, without a row leaving its site.

Inputs have to be standardised by the same figures everywhere, or the same patient would look
different at each hospital. Here the *model* is a table of means over rows, so one ordinary round of
federated averaging (weighted by numbers of rows) makes it the table of all rows together: means and
variances to 1e-6 of themselves, and quantiles with a relative error that is bounded beforehand.

The sketch is DDSketch (Masson et al. 2019): bucket i holds the values in (g^(i-1), g^i] with
g = (1 + a) / (1 - a), whose middle is at most a away from any of them, relatively.

Variances. E[x^2] - E[x]^2 loses everything where the mean is large beside the spread (a minute of
Unix time), and a common origin near the data is not known before the round. So the table
has moments about origins of every scale. At level h (16^j) the line is cut into cells
[i h, (i + 1) h), and the table has the shares of rows by i modulo 32, and mean and mean square of x
about the middle of its pair of cells, [2 i h, (2 i + 2) h) and [(2 i - 1) h, (2 i + 1) h). Who
reads it goes down from the top: while all rows of all sites lie in two neighbouring cells, they lie
in 32 cells of the next level, whose index modulo 32 tells them apart. At the last level where that
is so the pair of cells is less than 32 times as wide as the data reach, so its moments are exact to
some 1e-13 of the variance, however far from 0 the data lie. Moments are in units of h, a power of
two, so nothing in the table is above 1.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from client_worker.tasks.task import Task
from client_worker.training.plan import LOCAL_STEPS
from warren_shared.errors import ConfigError
from warren_shared.files import replacing
from warren_shared.tensors.layout import Array

RELATIVE_ERROR: Final = 0.01
GROWTH: Final = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
SMALLEST, LARGEST = 1e-30, 1e30  # of magnitudes; others but 0 are refused
FIRST: Final = math.ceil(math.log(SMALLEST) / GROWTH)
LAST: Final = math.ceil(math.log(LARGEST) / GROWTH)
MAGNITUDES: Final = LAST - FIRST + 1
BUCKETS: Final = 2 * MAGNITUDES + 1  # negative from the largest magnitude on, 0, positive

RADIX: Final = 16
CHILDREN: Final = 2 * RADIX  # cells of the next level in a pair of cells
TOP, BOTTOM = 26, -40  # 16^26 > LARGEST; two neighbours of 16^-40 hold no two floats of SMALLEST up
LEVELS: Final = TOP - BOTTOM + 1
ENTRIES: Final = CHILDREN + 4  # shares by index; mean and mean square about the middles of both
NEXT_TO_NONE: Final = 1e-12  # share of rows: what rounding may leave of 0 over several rounds

Table = npt.NDArray[np.float64]


class Statistics:
    """What is known of each feature over all rows; of those that have it.

    ``moments`` (features, 1 + LEVELS * ENTRIES): the share of rows that have it, and for each level
    from TOP to BOTTOM what the head of this file says. ``buckets`` (features, BUCKETS): shares of
    rows. Raises ConfigError for tables of other shapes, such as an earlier version's.
    """

    def __init__(self, moments: Array, buckets: Array) -> None:
        self._moments = np.asarray(moments, np.float64)
        self._buckets = np.asarray(buckets, np.float64)
        if self._moments.shape[1:] != (1 + LEVELS * ENTRIES,):
            raise ConfigError("these statistics are of another version: make them again")
        read = [_mean_and_variance(row) for row in self._moments]
        self._mean, self._variance = np.array(read, np.float64).reshape(-1, 2).T

    @classmethod
    def of(cls, x: npt.ArrayLike) -> "Statistics":
        """Of the rows ``x`` (n, features); NaN is a value that is missing.

        Raises ConfigError if ``x`` has another shape, or a value beyond SMALLEST and LARGEST.
        """
        rows = np.asarray(x, np.float64)
        if rows.ndim != 2 or not len(rows):
            raise ConfigError(f"statistics are of rows (n, features), not of shape {rows.shape}")
        if np.isinf(rows).any():
            raise ConfigError("a feature is infinite somewhere: write NaN for what is missing")
        moments = np.zeros((rows.shape[1], 1 + LEVELS * ENTRIES))
        buckets = np.zeros((rows.shape[1], BUCKETS))
        for column, each in enumerate(rows.T):
            values = each[~np.isnan(each)]
            _check_range(values, column)
            moments[column, 0] = len(values) / len(rows)
            moments[column, 1:] = _levels(values, len(rows)).ravel()
            buckets[column] = np.bincount(_bucket(values), minlength=BUCKETS) / len(rows)
        return cls(moments, buckets)

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        """Those that a client has saved; raises ConfigError if ``path`` holds none."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(arrays["moments"], arrays["buckets"])
        except (OSError, ValueError, KeyError, ConfigError) as error:
            raise ConfigError(f"{path} holds no statistics: {error}") from None

    def save(self, path: Path) -> None:
        """Write them to ``path``, an ``.npz``, whole or not at all."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, moments=self._moments, buckets=self._buckets)

    @property
    def present(self) -> Table:
        """Share of the rows that have the feature, (features,)."""
        return self._moments[:, 0]

    @property
    def mean(self) -> Table:
        """Mean of the feature, (features,); NaN where no row has it."""
        return self._mean

    @property
    def std(self) -> Table:
        """Standard deviation of the feature, (features,); divides by the number of rows.

        Exactly 0 if all rows have the same value.
        """
        return np.sqrt(self._variance)

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
        self._weights: list[Array] = [
            np.zeros((features, 1 + LEVELS * ENTRIES)),
            np.zeros((features, BUCKETS)),
        ]
        self._save = save

    def get_weights(self) -> list[Array]:
        """Return the two tables."""
        return self._weights

    def weight_roles(self) -> list[str]:
        """Return that both are statistics: averaged by rows, never stepped."""
        return ["statistic", "statistic"]

    def set_weights(self, weights: Sequence[Array], /) -> None:
        """Take over the tables of all sites, and save them."""
        self._weights = [np.array(array) for array in weights]
        if self._save is not None and self._weights[0].any():
            Statistics(*self._weights).save(self._save)

    def why_not_private(self, _data: Array) -> str:
        """These are sums over the rows, without noise."""
        return "feature statistics tell of single rows: scale by ranges that are public instead"

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


def _check_range(values: Table, column: int) -> None:
    magnitude = np.abs(values)
    odd = values[((magnitude < SMALLEST) & (magnitude > 0)) | (magnitude > LARGEST)]
    if len(odd):
        raise ConfigError(
            f"feature {column} holds {odd[0]:.3g}; statistics are of 0 and of magnitudes from"
            f" {SMALLEST:g} to {LARGEST:g}: give it in another unit, or round it to 0"
        )


def _levels(values: Table, rows: int) -> Table:
    """The entries of each level (LEVELS, ENTRIES), as sums over ``values`` by ``rows``.

    A level at which these alone are in more than two neighbouring cells is never read.
    """
    found = np.zeros((LEVELS, ENTRIES))
    for entries, exponent in zip(found, range(TOP, BOTTOM - 1, -1), strict=True):
        if not len(values):
            break
        size = float(RADIX) ** exponent
        cells = np.floor(values / size)  # a power of two: exact
        counts = np.bincount(np.mod(cells, CHILDREN).astype(np.int64), minlength=CHILDREN)
        entries[:CHILDREN] = counts / rows
        for place, origin in enumerate((0.0, size)):
            # About the middle of its pair, which may be far away: the remainder first.
            # In cells, so that no figure of the table is above 1, whatever the data's scale.
            offset = (np.mod(np.mod(values, 2 * size) + origin, 2 * size) - size) / size
            entries[CHILDREN + 2 * place] = offset.sum() / rows
            entries[CHILDREN + 2 * place + 1] = (offset * offset).sum() / rows
        if cells.max() - cells.min() > 1:
            break
    return found


def _mean_and_variance(moments: Table) -> tuple[float, float]:
    """Of one feature's row of the table; NaN if no row has it."""
    present, levels = moments[0], moments[1:].reshape(LEVELS, ENTRIES)
    if not present > 0:
        return math.nan, math.nan
    first, level = -1, 0  # all rows lie in the cells `first` and `first + 1` of this level
    while level + 1 < LEVELS:
        shares = levels[level + 1, :CHILDREN]
        below = [
            index
            for index in range(RADIX * first, RADIX * (first + 2))
            if shares[index % CHILDREN] > NEXT_TO_NONE * present
        ]
        if not below or below[-1] - below[0] > 1:
            break
        # Of one cell its pair to the right; at the top that of 0 reaches to both sides.
        first, level = below[0], level + 1
    size = float(RADIX) ** (TOP - level)
    sums = levels[level, CHILDREN + 2 * (first % 2) :][:2] / present
    mean = (first + 1) * size + float(sums[0]) * size
    if level + 1 == LEVELS:
        return mean, 0.0  # no two floats lie so close together
    return mean, max(float(sums[1] - sums[0] ** 2), 0.0) * size * size


def _bucket(values: Table) -> npt.NDArray[np.int64]:
    magnitude = np.abs(values)
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
