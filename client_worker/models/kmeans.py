"""k-means whose federated rounds are Lloyd's iterations over all data together."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from client_worker.training.plan import LOCAL_STEPS
from warren_shared.errors import ConfigError
from warren_shared.tensors.evaluation import Evaluation
from warren_shared.tensors.layout import Array

DOUBT: Final = 1e-12  # of squared lengths; what rounding may do to their differences, and more
DOUBTFUL_AT_ONCE: Final = 1024  # rows
PSEUDO_COUNT: Final = 1e-8  # per example; keeps an empty cluster where it is


class KMeans:
    """A TrainableModel whose weights are sums/n (k, features) and counts/n (k,), in float64.

    Centroid j is sums_j / counts_j. A client assigns its n examples to the nearest centroid and
    hands in the sums and counts of its clusters over n, each with PSEUDO_COUNT times the centroid
    it had, or a cluster that is empty everywhere would be 0 / 0. The mean of the clients' weighted
    by n is that of all data, so one round is one iteration of Lloyd (1982) on the pooled data, and
    no example leaves its site. That holds for the weighted mean, and synchronous rounds.
    """

    def __init__(self, centroids: Array) -> None:
        start = np.array(centroids, np.float64)
        if start.ndim != 2 or not np.isfinite(start).all():
            raise ConfigError("k-means begins with finite centroids of shape (clusters, features)")
        counts = np.full(len(start), 1 / len(start))
        self._weights: list[Array] = [start * counts[:, None], counts]

    @property
    def centroids(self) -> Array:
        """Shape (clusters, features)."""
        sums, counts = self._weights
        return sums / counts[:, None]

    def get_weights(self) -> list[Array]:
        """Return sums/n and counts/n."""
        return self._weights

    def set_weights(self, weights: Sequence[Array], /) -> None:
        """Take over sums/n and counts/n."""
        self._weights = [np.array(array) for array in weights]

    def fit(self, data: Any, learning_rate: float) -> Mapping[str, float]:  # noqa: ARG002  # it has none
        """One assignment of ``data``, x (n, features) or a tuple that begins with it."""
        x, centroids = _inputs(data), self.centroids
        nearest, distances = assign(x, centroids)
        counts = np.bincount(nearest, minlength=len(centroids)) / len(x)
        members = np.zeros((len(centroids), len(x)))
        members[nearest, np.arange(len(x))] = 1
        sums = members @ x / len(x)
        self._weights = [sums + PSEUDO_COUNT * centroids, counts + PSEUDO_COUNT]
        return {"loss": float(distances.mean()), LOCAL_STEPS: 1.0}

    def evaluate(self, data: Any) -> Mapping[str, float] | Evaluation:
        """Mean squared distance to the nearest centroid."""
        return {"loss": float(assign(_inputs(data), self.centroids)[1].mean())}


def k_means(centroids: Array) -> KMeans:
    """k-means that begins at ``centroids`` (clusters, features), the same for all clients."""
    return KMeans(centroids)


def assign(x: Array, centroids: Array) -> tuple[Array, Array]:
    """Nearest centroid of each x (n,), and the squared distance to it (n,).

    |x - c|^2 = |x|^2 - 2 <x, c> + |c|^2 is one product of matrices, but cancels where both lie far
    from the origin; so the origin is the centroids' mean, and where that does not decide either,
    the differences themselves do.
    """
    origin = centroids.mean(axis=0)
    near, centers = x - origin, centroids - origin
    own, squares = (near**2).sum(axis=1), (centers**2).sum(axis=1)
    found = own[:, None] - 2 * near @ centers.T + squares[None, :]
    nearest = found.argmin(axis=1)
    if len(centroids) > 1:
        best = np.partition(found, 1, axis=1)
        doubtful = np.flatnonzero(best[:, 1] - best[:, 0] <= DOUBT * (own + squares.max()))
        for rows in np.array_split(doubtful, len(doubtful) // DOUBTFUL_AT_ONCE + 1):
            differences = x[rows][:, None, :] - centroids[None, :, :]
            nearest[rows] = (differences**2).sum(axis=2).argmin(axis=1)
    return nearest, ((x - centroids[nearest]) ** 2).sum(axis=1)


def _inputs(data: Any) -> Array:
    return np.asarray(data[0] if isinstance(data, tuple) else data, np.float64)
