"""Boosted trees whose structure is drawn beforehand, so that sites only have to add up.

The boosted ensemble is F(x) = sum_t v_t[leaf_t(x)]. Which feature and threshold each node of tree t
has is drawn from a seed (extremely randomized trees with one candidate for a node, Geurts et al.
2006), so no site's data decide it, and all that is learnt of a tree are sums over its leaves. With
g_i and h_i, first and second derivative of example i's loss by F at the trees before t, the
Newton step of leaf l (Chen & Guestrin 2016, equation 5) is

    v_t[l] = -rate * sum_i g_i / (sum_i h_i + lambda)        over the examples i in the leaf

The model's tensors are these sums, *per example*, not the leaf values: G, H and the weight W of
what has arrived for each tree. A site k with n_k examples adds (sum of g) / n_k to G_t, (sum of h)
/ n_k to H_t and 1 to W_t, which is its update. The mean of updates weighted by n_k is then

    sum_k n_k (G_k / n_k) / sum_k n_k = G / N                and likewise H / N, and 1

over all sites' examples together: a round of `--aggregator mean` makes exactly the tree that the
pooled data make, and everybody reads v = -rate * (G / W) / (H / W + lambda) from it, lambda per
example. A late update adds to the tree for which it was computed, numerator, denominator and W
alike: v is a ratio of sums over whoever has come, whatever their weights, so a buffer of
asynchronous updates needs nothing else. The first tree with W below one fifth is the next one;
predictions are those of the trees before it.

Maddock et al. 2022, "Federated boosted decision trees with differential privacy", compare such
trees with those that look at the data.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from client_worker.models.boosting import LOSSES, derivatives, evaluation, examples, predictions
from client_worker.training.plan import LOCAL_STEPS
from warren_shared.errors import ConfigError
from warren_shared.observability.log import Log
from warren_shared.tensors.evaluation import Evaluation
from warren_shared.tensors.layout import Array

log = Log(__name__)

TRAINED: Final = 0.2  # of the weight of a round: what a tree has to have before the next begins
MAX_DEPTH: Final = 12


class RandomTrees:
    """A TrainableModel of ``gradients`` and ``hessians`` (trees, outputs, leaves), ``weights``.

    Tree 0 is a single leaf: its value is where the others begin. See `random_trees`.
    """

    def __init__(
        self,
        features: npt.NDArray[np.int64],
        thresholds: Array,
        *,
        loss: str,
        outputs: int,
        rate: float,
        l2: float,
        per_round: int,
    ) -> None:
        self._features, self._thresholds = features, thresholds
        self.trees, nodes = features.shape[0] + 1, features.shape[1]
        self._loss, self._rate, self._l2 = loss, rate, l2
        self._per_round = per_round
        sums = (self.trees, outputs, nodes + 1)
        self._weights = [np.zeros(sums, np.float32), np.zeros(sums, np.float32),
                         np.zeros(self.trees, np.float32)]  # fmt: skip
        self._leaves: list[tuple[Any, Array]] = []  # of data sets: (n, trees)
        self._known: list[tuple[Any, tuple[Array, Array]]] = []  # data as brought, and as used
        self._told = False

    # --- weights --------------------------------------------------------------------------------

    def get_weights(self) -> list[Array]:
        """Return the sums of gradients and hessians per example, and the weight of each tree."""
        return self._weights

    def set_weights(self, weights: Sequence[Array], /) -> None:
        """Copy ``weights`` in."""
        for mine, new in zip(self._weights, weights, strict=True):
            np.copyto(mine, new)

    def weight_names(self) -> list[str]:
        """Return the names of the three tensors."""
        return ["gradients", "hessians", "weights"]

    def fixed_state(self) -> dict[str, str]:
        """Return a digest of the trees' structure, which has to be the same at every site."""
        parts = (self._features, self._thresholds, repr((self._loss, self._rate, self._l2,
                                                         self._per_round)).encode())  # fmt: skip
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
        return {"structure of trees": digest.hexdigest()[:32]}

    @property
    def trained(self) -> int:
        """How many trees count: those before the first that has less than TRAINED."""
        short = self._weights[2] < TRAINED
        return int(short.argmax()) if short.any() else self.trees

    def leaf_values(self) -> Array:
        """Return v of each leaf of the trees that count, (trained, outputs, leaves), as float64."""
        many = self.trained
        g, h, w = (array[:many].astype(np.float64) for array in self._weights)
        share = w[:, None, None]
        # Noise, or a hostile site, can make a sum of second derivatives negative: such a leaf is
        # left out, for a step that is divided by next to nothing would be enormous.
        values = np.divide(-g / share, h / share + self._l2, out=np.zeros_like(g), where=h > 0)
        values[1:] *= self._rate / self._per_round
        return values

    # --- training -------------------------------------------------------------------------------

    def fit(self, data: Any, learning_rate: float) -> Mapping[str, float]:  # noqa: ARG002
        """Add this site's sums to the next tree, or trees; the learning rate is the ensemble's.

        Returns the loss of the trees so far, and how many there are.
        """
        x, y = self._checked(data)
        first = self.trained
        score = self._score(x)
        loss, g, h = derivatives(self._loss, score, y)
        if first == self.trees and not self._told:
            self._told = True
            log.warning("trees_trained", "all %d trees are trained: an update changes nothing;"
                        " start the coordinator with --rounds", self.trees)  # fmt: skip
        # Tree 0 alone: the others' gradients are those at its value.
        last = 1 if first == 0 else min(first + self._per_round, self.trees)
        leaves, count = self._leaves_of(x), self._weights[0].shape[2]
        for tree in range(first, last):
            for output in range(g.shape[1]):
                for sums, each in zip(self._weights, (g, h), strict=False):
                    found = np.bincount(leaves[:, tree], each[:, output], count)
                    sums[tree, output] += found / len(y)
            self._weights[2][tree] += 1.0
        return {"loss": loss, "trees": float(first), LOCAL_STEPS: 1.0}

    def evaluate(self, data: Any) -> Evaluation | Mapping[str, float]:
        """Loss, and counts of a classifier's predictions."""
        x, y = self._checked(data)
        return evaluation(self._loss, self._score(x), y)

    def predict(self, x: Array) -> Array:
        """Probabilities of class 1 (n,), of each class (n, classes), or values (n,)."""
        return predictions(self._loss, self._score(np.asarray(x, np.float64)))

    def _score(self, x: Array) -> Array:
        """F of each row, (n, outputs)."""
        values, leaves = self.leaf_values(), self._leaves_of(x)
        score = np.zeros((len(x), self._weights[0].shape[1]))
        for tree, each in enumerate(values):
            score += each[:, leaves[:, tree]].T
        return score

    def _leaves_of(self, x: Array) -> Array:
        """Leaf of each row in each tree, (n, trees); found once for a data set."""
        for known, leaves in self._leaves:
            if known is x:
                return leaves
        found = np.zeros((len(x), self.trees), np.uint16)
        depth = int(self._features.shape[1]).bit_length()
        every = np.arange(len(x))
        for tree in range(1, self.trees):
            node = np.zeros(len(x), np.int64)
            for _ in range(depth):
                feature, threshold = (
                    array[tree - 1][node] for array in (self._features, self._thresholds)
                )
                node = 2 * node + 1 + (x[every, feature] > threshold)
            found[:, tree] = node - self._features.shape[1]
        self._leaves = [*self._leaves[-3:], (x, found)]
        return found

    def _checked(self, data: Any) -> tuple[Array, Array]:
        """Return x (n, features) and y (n,) of ``data``, the same objects each time."""
        for brought, arrays in self._known:
            if brought is data:
                return arrays
        found = examples(data, self._loss, self._weights[0].shape[1], np.float64)
        x, most = found[0], int(self._features.max(initial=-1))
        if x.ndim != 2 or x.shape[1] <= most:
            raise ConfigError(f"x has shape {x.shape}: the trees ask for columns 0 to {most}")
        self._known = [*self._known[-3:], (data, found)]
        return found


def random_trees(  # noqa: PLR0913  # all but one by keyword only
    quantiles: npt.ArrayLike,
    *,
    seed: int,
    trees: int = 100,
    depth: int = 6,
    loss: str = "logistic",
    classes: int = 2,
    rate: float = 0.3,
    l2: float = 1e-3,
    per_round: int = 1,
) -> RandomTrees:
    """Gradient boosting over trees of random structure, whose leaves all sites fill together.

    ``quantiles`` (features, q): ascending figures of each feature that all sites agree on, such as
    its range (q = 2) or quantiles (`client_worker.statistics_task`); thresholds are drawn between
    them, each stretch as likely as another, and only where the nodes above leave any room. All
    sites need the same ``quantiles`` and ``seed``, which a digest makes sure of. ``loss``: logistic
    (labels 0 and 1), softmax (``classes`` from 0), squared. ``rate`` shrinks each tree, ``l2`` is
    lambda per example. ``per_round`` trees are filled at once with the same derivatives, and each
    counts 1 / ``per_round``. A run has 1 + ``trees`` / ``per_round`` rounds, with the server
    optimizer ``sgd`` and its rate 1: any other would move sums.

    Raises ConfigError for parameters that do not fit together.
    """
    grid = np.asarray(quantiles, np.float64)
    if grid.ndim != 2 or grid.shape[1] < 2 or not np.isfinite(grid).all():
        raise ConfigError("quantiles have shape (features, 2 or more) and are finite")
    if (np.diff(grid, axis=1) < 0).any():
        raise ConfigError("quantiles of a feature are in ascending order")
    if loss not in LOSSES:
        raise ConfigError(f"loss={loss!r}: one of {', '.join(LOSSES)}")
    if not (trees >= 1 and 1 <= depth <= MAX_DEPTH and classes >= 2 and per_round >= 1):
        raise ConfigError(f"trees={trees}, depth={depth}, classes={classes}, per_round={per_round}:"
                          f" 1 or more, depth up to {MAX_DEPTH}, classes 2 or more")  # fmt: skip
    if not (rate > 0 and l2 > 0):
        raise ConfigError(f"rate={rate}, l2={l2}: both are above 0")
    draw = np.random.default_rng(seed)
    nodes = (1 << depth) - 1
    features = np.zeros((trees, nodes), np.int64)
    places = np.zeros((trees, nodes))
    for tree in range(trees):
        _draw(draw, features[tree], places[tree], len(grid))
    columns = np.linspace(0, 1, grid.shape[1])
    thresholds = np.empty_like(places)
    for feature, figures in enumerate(grid):
        of_it = features == feature
        thresholds[of_it] = np.interp(places[of_it], columns, figures)
    return RandomTrees(
        features, thresholds, loss=loss, outputs=classes if loss == "softmax" else 1, rate=rate,
        l2=l2, per_round=per_round,
    )  # fmt: skip


def _draw(draw: np.random.Generator, features: Array, places: Array, count: int) -> None:
    """One tree's features and places of thresholds in 0 to 1, each within what is above it."""
    room = {0: (np.zeros(count), np.ones(count))}
    for node in range(len(features)):
        low, high = room.pop(node)
        feature = int(draw.integers(count))
        place = draw.uniform(low[feature], high[feature])
        features[node], places[node] = feature, place
        left_high, right_low = high.copy(), low.copy()
        left_high[feature] = right_low[feature] = place
        room[2 * node + 1], room[2 * node + 2] = (low, left_high), (right_low, high)
