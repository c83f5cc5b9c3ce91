"""XGBoost at each site: the global ensemble is the weighted sum of the trees of all sites.

In each round a site trains one or a few trees with the package xgboost on its own data, from the
scores of the global ensemble (``base_margin``). With w_k its share of the round's examples and f_k
the step that its trees are, the ensemble goes from F to

    F + sum_k w_k f_k

the weighted mean of the sites' boosting steps. Trees of different sites have different splits and
cannot be averaged, so each is kept beside the others, in a table of ``rounds * places`` slots:

    trees[slot]    the bytes of the site's trees, as numbers of 16 bits, times the weight
    weights[slot]  the weight

A site has a ``place`` of its own, and the trees that it made from version v go into the slot
``v * places + place``. It writes its bytes and the weight 1, and zeros everywhere else, as its
update. A mean multiplies both by w_k, and by nothing else; so whoever reads the table divides by
the weight, rounds, and has the bytes as they were written: splits, thresholds and leaves to the
last bit. A weight of float32 and the product with it are off by less than 2^-21 together, which is
0.03 of 65,535. A checksum (XXH32) in the bytes tells what was not written so: the sum of two sites'
trees, noise, a code of few bits. A late update has its own slot and its own weight.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Final

import numpy as np
from xxhash import xxh32_intdigest

from client_worker.models.boosting import LOSSES, derivatives, evaluation, examples, predictions
from client_worker.training.plan import LOCAL_STEPS
from warren_shared.errors import ConfigError
from warren_shared.tensors.evaluation import Evaluation
from warren_shared.tensors.layout import Array

MAX_DEPTH: Final = 10
MAX_FEATURES: Final = 32_767  # a split is 16 bits: one for the direction of missing values
OBJECTIVES: Final = {
    "logistic": "binary:logistic",
    "squared": "reg:squarederror",
    "softmax": "multi:softprob",
}
OURS: Final = frozenset({
    "base_score", "booster", "eta", "learning_rate", "max_depth", "multi_strategy", "num_class",
    "num_parallel_tree", "objective", "process_type", "random_state", "seed",
})  # fmt: skip
LEAST_GROWTH: Final = 0.01  # of a round: what a round's updates count together at the least
ROUNDING: Final = 0.01  # of a round: what the sum of weights may be too large by
NO_ROOT: Final = 2**31 - 1  # how xgboost writes that a node has no parent


class XGBoostBagging:
    """A TrainableModel of ``trees`` (slots, words) and ``weights`` (slots,).

    See `xgboost_bagging`.
    """

    def __init__(
        self, shape: "Shape", *, place: int, params: Mapping[str, Any] | None = None
    ) -> None:
        self._shape, self._place, self._params = shape, place, dict(params or {})
        self._weights = [np.zeros((shape.slots, shape.words), np.float32),
                         np.zeros(shape.slots, np.float32)]  # fmt: skip
        self._trees = Trees.read(shape, *self._weights)
        self._known: list[Known] = []
        self._version: int | None = None  # from which the next ``fit`` trains
        self._before: tuple[int, float] | None = None  # version seen last, and its sum of weights

    # --- weights --------------------------------------------------------------------------------

    def get_weights(self) -> list[Array]:
        """Return the table: trees times weights, and the weights."""
        return self._weights

    def set_weights(self, weights: Sequence[Array], /) -> None:
        """Copy ``weights`` in. Raises ConfigError if a slot has not what one site wrote."""
        for mine, new in zip(self._weights, weights, strict=True):
            np.copyto(mine, new)
        self._trees = Trees.read(self._shape, *self._weights)

    def weight_names(self) -> list[str]:
        """Return the names of the two tensors."""
        return ["trees", "weights"]

    def fixed_state(self) -> dict[str, str]:
        """Return a digest of what the table's numbers mean, which has to be so at every site."""
        return {"table of trees": hashlib.sha256(repr(self._shape).encode()).hexdigest()[:32]}

    def on_model(self, version: int, weights: Mapping[str, Array]) -> None:
        """Hear which version is trained from next: the hook of a Task.

        Raises ConfigError if the coordinator makes something else of updates than a weighted mean.
        """
        shape, shares = self._shape, np.asarray(weights["weights"], np.float64)
        total, before = float(shares.sum()), self._before
        self._version, self._before = version, (version, total)
        if shares[version * shape.places :].any():
            raise ConfigError(f"version {version} has trees of later versions: begin with an empty"
                              " table, or resume the run that made it")  # fmt: skip
        if total > version * (1 + ROUNDING) + ROUNDING:
            raise ConfigError(f"the weights of trees add up to {total:.4g} after {version} rounds"
                              f" of weight 1: {shape.ask}")  # fmt: skip
        if before is not None and version > before[0]:
            growth, least = total - before[1], LEAST_GROWTH * (version - before[0])
            if 0 <= growth < least:  # after a rollback it is less than it was
                raise ConfigError(
                    f"from version {before[0]} to {version} the weights of trees have grown by"
                    f" {growth:.2g}, so updates count next to nothing: {shape.ask}"
                )

    # --- training -------------------------------------------------------------------------------

    def fit(self, data: Any, learning_rate: float) -> Mapping[str, float]:
        """Train this site's next trees with xgboost and write them into their slot.

        Returns the loss of the trees so far, and how many slots are filled.
        """
        shape, known = self._shape, self._examples(data)
        slot = self._next_slot()
        margin = self._margin(known)
        loss, _, _ = derivatives(shape.loss, margin, known.y)
        xgboost = _xgboost()
        if known.matrix is None:
            known.matrix = xgboost.DMatrix(known.x, label=known.y)
        known.matrix.set_base_margin(margin if shape.outputs > 1 else margin[:, 0])
        params = self._params | shape.params() | {"learning_rate": learning_rate, "seed": slot}
        booster = xgboost.train(params, known.matrix, num_boost_round=shape.per_round)
        self._weights[0][slot] = shape.encode(_model_of(booster)["trees"])
        self._weights[1][slot] = 1.0
        filled = len(self._trees.slots)
        self._trees = Trees.read(shape, *self._weights)
        return {"loss": loss, "trees": float(filled), LOCAL_STEPS: 1.0}

    def evaluate(self, data: Any) -> Evaluation | Mapping[str, float]:
        """Loss, and counts of a classifier's predictions."""
        known = self._examples(data)
        return evaluation(self._shape.loss, self._margin(known), known.y)

    def predict(self, x: Array) -> Array:
        """Probabilities of class 1 (n,), of each class (n, classes), or values (n,)."""
        x = np.ascontiguousarray(x, np.float32)
        return predictions(self._shape.loss, self._margin(Known.of(None, x, x[:0], self._shape)))

    def booster(self) -> Any:
        """Return the ensemble as an ``xgboost.Booster``, to predict with or to save.

        Each leaf is its tree's times the tree's weight.
        """
        xgboost, shape = _xgboost(), self._shape
        labels = np.arange(max(2, shape.outputs))
        blank = xgboost.DMatrix(np.zeros((len(labels), shape.features), np.float32), label=labels)
        like = json.loads(bytes(xgboost.train(shape.params(), blank, 1).save_raw("json")))
        model = like["learner"]["gradient_booster"]["model"]
        trees: list[Any] = []
        for row, slot in enumerate(self._trees.slots):
            for tree in range(shape.trees):
                trees.append(self._trees.to_json(row, tree, self._trees.shares[slot], len(trees)))
        model["trees"] = trees
        model["tree_info"] = [tree % shape.outputs for tree in range(len(trees))]
        model["iteration_indptr"] = list(range(0, len(trees) + 1, shape.outputs))
        model["gbtree_model_param"]["num_trees"] = str(len(trees))
        return xgboost.Booster(model_file=bytearray(json.dumps(like).encode()))

    def _next_slot(self) -> int:
        shape, (version, self._version) = self._shape, (self._version, None)
        if version is None and len(self._trees.slots):
            raise ConfigError("this model has to know the version that it trains from: give the"
                              " Task on_model=model.on_model")  # fmt: skip
        version = version or 0  # an empty table is the first
        if version >= shape.rounds:
            raise ConfigError(f"the table has room for the trees of {shape.rounds} rounds: start"
                              f" the coordinator with --rounds {shape.rounds}, or make the model"
                              f" with rounds={version + 1} or more")  # fmt: skip
        slot = version * shape.places + self._place
        if self._weights[1][slot]:
            raise ConfigError(f"the trees of version {version} and place {self._place} are there"
                              " already: call on_model before each fit")  # fmt: skip
        return slot

    def _margin(self, known: "Known") -> Array:
        """F of each row, (n, outputs); of trees that were there before it is remembered."""
        trees, outputs = self._trees, self._shape.outputs
        if ((known.shares != 0) & (known.checks != trees.checks)).any():
            known.forget(self._shape)
        change = trees.shares - known.shares
        for slot in np.flatnonzero(change):
            row = int(np.searchsorted(trees.slots, slot))
            for tree in range(self._shape.trees):
                known.score[:, tree % outputs] += change[slot] * trees.values(row, tree, known.x)
        known.shares, known.checks = trees.shares, trees.checks
        return known.score

    def _examples(self, data: Any) -> "Known":
        for known in self._known:
            if known.brought is data:
                return known
        shape = self._shape
        x, y = examples(data, shape.loss, shape.outputs, np.float32)
        if x.ndim != 2 or x.shape[1] != shape.features:
            raise ConfigError(f"x has shape {x.shape}: the model has {shape.features} features")
        found = Known.of(data, np.ascontiguousarray(x), y, shape)
        self._known = [*self._known[-3:], found]
        return found


@dataclass(frozen=True)
class Shape:
    """What all sites agree on, and how trees are written as numbers of 16 bits."""

    features: int
    places: int
    rounds: int
    per_round: int
    depth: int
    loss: str
    outputs: int
    base_score: float

    @property
    def slots(self) -> int:
        """One for each version and place."""
        return self.rounds * self.places

    @property
    def trees(self) -> int:
        """In one slot."""
        return self.per_round * self.outputs

    @property
    def inner(self) -> int:
        """Nodes of a tree that are no leaves: a heap, the children of i are 2i + 1 and 2i + 2."""
        return (1 << self.depth) - 1

    @property
    def words(self) -> int:
        """Numbers of 16 bits in a slot: splits, thresholds, leaves, the checksum."""
        return self.trees * (3 * self.inner + 2 * (self.inner + 1)) + 2

    @property
    def ask(self) -> str:
        """What the coordinator has to be, in words; no update has a norm above that clip."""
        return (
            "start the coordinator with --aggregator mean, uniform or fedbuff and"
            " --server-optimizer sgd of rate 1, without --privacy, --uplink, --downlink and"
            f" --clip-norm, and --secure with clip={65_536 * (isqrt(self.words) + 1)}"
        )

    def params(self) -> dict[str, Any]:
        """What xgboost is told."""
        logistic = 1 / (1 + np.exp(-self.base_score))  # xgboost wants it as a probability
        found = {
            "objective": OBJECTIVES[self.loss],
            "max_depth": self.depth,
            "base_score": float(logistic) if self.loss == "logistic" else self.base_score,
            "disable_default_eval_metric": True,
        }
        return found | ({"num_class": self.outputs} if self.loss == "softmax" else {})

    def encode(self, trees: Sequence[Any]) -> Array:
        """The numbers of a slot, of trees as xgboost's JSON has them."""
        splits = np.zeros((self.trees, self.inner), "<u2")  # 0: no split, all go to the left
        thresholds = np.zeros((self.trees, self.inner), "<f4")
        leaves = np.zeros((self.trees, self.inner + 1), "<f4")
        for number, tree in enumerate(trees):
            todo = [(0, 0)]
            while todo:
                node, place = todo.pop()
                left, value = tree["left_children"][node], tree["split_conditions"][node]
                if left < 0:
                    while place < self.inner:
                        place = 2 * place + 1
                    leaves[number, place - self.inner] = value
                    continue
                missing_right = not tree["default_left"][node]
                splits[number, place] = 2 * (tree["split_indices"][node] + 1) + missing_right
                thresholds[number, place] = value
                right = tree["right_children"][node]
                todo += [(left, 2 * place + 1), (right, 2 * place + 2)]
        body = splits.tobytes() + thresholds.tobytes() + leaves.tobytes()
        return np.frombuffer(body + xxh32_intdigest(body).to_bytes(4, "little"), "<u2")


@dataclass(frozen=True)
class Trees:
    """What a table has: of each slot the weight and the checksum, of each filled one the trees.

    ``splits``, ``thresholds`` (filled slots, trees, nodes); ``leaves`` has one column more.
    """

    shape: Shape
    slots: Array
    shares: Array
    checks: Array
    splits: Array
    thresholds: Array
    leaves: Array

    @classmethod
    def read(cls, shape: Shape, table: Array, weights: Array) -> "Trees":
        """Divide by the weights. Raises ConfigError for what no site wrote."""
        slots = np.flatnonzero(weights)
        empty = weights == 0
        if (weights < 0).any() or (empty & table.any(axis=1)).any():
            raise ConfigError(f"the table of trees has numbers that no site wrote: {shape.ask}")
        words = np.rint(table[slots].astype(np.float64) / weights[slots, None].astype(np.float64))
        fits: Array = np.asarray(((words >= 0) & (words <= 65535)).all(axis=1))
        raw = np.where(fits[:, None], words, 0).astype("<u2").view(np.uint8)
        checks = np.zeros(shape.slots, np.int64)
        checks[slots] = [xxh32_intdigest(row[:-4]) for row in raw]
        written = raw[:, -4:].copy().view("<u4").ravel()
        wrong: Array = slots[np.asarray(~fits | (written != checks[slots]))]
        if len(wrong):
            raise ConfigError(_blended(shape, np.unique(slots), wrong))
        each = np.cumsum([2 * shape.trees * shape.inner, 4 * shape.trees * shape.inner])
        parts = zip(np.split(raw[:, :-4], each, axis=1), ("<u2", "<f4", "<f4"), strict=True)
        rows = (len(slots), shape.trees, -1) if len(slots) else (0, shape.trees, 1)
        arrays = [part.copy().view(dtype).reshape(rows) for part, dtype in parts]
        found = cls(shape, slots, weights.astype(np.float64), checks, *arrays)
        found._check()
        return found

    def _check(self) -> None:
        """A hostile site's trees could ask for memory beyond the features."""
        beyond = (self.splits >> 1 > self.shape.features).any(axis=(1, 2))
        wrong = self.slots[np.asarray(beyond | ~np.isfinite(self.leaves).all(axis=(1, 2)))]
        if len(wrong):
            place = wrong[0] % self.shape.places
            raise ConfigError(f"the trees of place {place} ask for features that there are not, or"
                              " have values that are not finite")  # fmt: skip

    def values(self, row: int, tree: int, x: Array) -> Array:
        """The leaf value of each row of ``x``, (n,), as float64."""
        splits, thresholds = self.splits[row, tree], self.thresholds[row, tree]
        node, every = np.zeros(len(x), np.int64), np.arange(len(x))
        for _ in range(self.shape.depth):
            split = splits[node]
            value = x[every, np.maximum(split >> 1, 1) - 1]
            right = np.where(np.isnan(value), split & 1 == 1, ~(value < thresholds[node]))
            node = 2 * node + 1 + (right & (split > 0))
        found: Array = self.leaves[row, tree][node - self.shape.inner].astype(np.float64)
        return found

    def to_json(self, row: int, tree: int, share: float, number: int) -> dict[str, Any]:
        """A tree as xgboost's JSON has it, its leaves times ``share``."""
        inner, splits = self.shape.inner, self.splits[row, tree]
        nodes: list[tuple[int, int, int, float, int]] = []  # parent, left, split, number, place
        todo = [(0, NO_ROOT)]
        for place, parent in todo:  # it grows
            if place < inner and splits[place]:
                value = float(self.thresholds[row, tree, place])
                nodes.append((parent, len(todo), int(splits[place]), value, place))
                todo += [(child, len(nodes) - 1) for child in (2 * place + 1, 2 * place + 2)]
                continue
            leaf = place
            while leaf < inner:
                leaf = 2 * leaf + 1
            value = float(np.float32(self.leaves[row, tree, leaf - inner] * share))
            nodes.append((parent, -1, 0, value, place))
        count = len(nodes)
        return {
            "id": number,
            "parents": [node[0] for node in nodes],
            "left_children": [node[1] for node in nodes],
            "right_children": [node[1] + (node[1] >= 0) for node in nodes],
            "split_indices": [max(node[2] // 2, 1) - 1 for node in nodes],
            "split_conditions": [node[3] for node in nodes],
            "split_type": [0] * count,
            "default_left": [int(node[2] > 0 and node[2] % 2 == 0) for node in nodes],
            "base_weights": [node[3] if node[1] < 0 else 0.0 for node in nodes],
            "loss_changes": [0.0] * count,
            "sum_hessian": [0.0] * count,
            "categories": [],
            "categories_nodes": [],
            "categories_segments": [],
            "categories_sizes": [],
            "tree_param": {
                "num_deleted": "0",
                "num_feature": str(self.shape.features),
                "num_nodes": str(count),
                "size_leaf_vector": "1",
            },
        }


@dataclass
class Known:
    """A data set: as it was brought, and the score of each row by the trees counted so far."""

    brought: Any
    x: Array
    y: Array
    score: Array
    shares: Array
    checks: Array
    matrix: Any = field(default=None, repr=False)

    @classmethod
    def of(cls, brought: Any, x: Array, y: Array, shape: Shape) -> "Known":
        """With no tree counted."""
        none = np.zeros(0)
        found = cls(brought, x, y, none, none, none)
        found.forget(shape)
        return found

    def forget(self, shape: Shape) -> None:
        """Count no tree."""
        self.score = np.full((len(self.x), shape.outputs), shape.base_score)
        self.shares, self.checks = np.zeros(shape.slots), np.zeros(shape.slots, np.int64)


def xgboost_bagging(  # noqa: PLR0913  # all but one by keyword only
    features: int,
    *,
    place: int,
    places: int,
    rounds: int,
    depth: int = 4,
    trees_each_round: int = 1,
    loss: str = "logistic",
    classes: int = 2,
    base_score: float = 0.0,
    params: Mapping[str, Any] | None = None,
) -> XGBoostBagging:
    """Gradient boosting with the package xgboost at each site (extra ``xgboost``).

    In each round a site trains ``trees_each_round`` trees on its own data (for each class, with
    softmax), from the global ensemble; the ensemble grows by the weighted mean of the sites' steps.

    ``place``: of this site, from 0 to ``places - 1``; no two sites have the same. ``rounds``: of
    the run, the coordinator's ``--rounds``: the model is a table for the trees of ``rounds *
    places``, each of about 20 * 2^``depth`` bytes. ``loss``: logistic (labels 0 and 1), softmax
    (``classes`` from 0), squared. xgboost's learning rate is the task's; other parameters of it are
    ``params``, such as ``{"lambda": 1, "nthread": 2}``, and may differ between sites.
    ``base_score``: where scores begin, as a margin. Missing values are NaN.

    The Task needs the hook that tells the version:

        model = xgboost_bagging(23, place=shard, places=4, rounds=100)
        return Task(model, (x, y), 0.1, on_model=model.on_model)

    Raises ConfigError for parameters that do not fit together.
    """
    if loss not in LOSSES:
        raise ConfigError(f"loss={loss!r}: one of {', '.join(LOSSES)}")
    if not 0 <= place < places:
        raise ConfigError(f"place={place}: it is from 0 to places - 1, and places={places}")
    if not (1 <= features <= MAX_FEATURES and 1 <= depth <= MAX_DEPTH):
        raise ConfigError(f"features={features}, depth={depth}: 1 or more, features up to"
                          f" {MAX_FEATURES}, depth up to {MAX_DEPTH}")  # fmt: skip
    if not (rounds >= 1 and trees_each_round >= 1 and classes >= 2):
        raise ConfigError(f"rounds={rounds}, trees_each_round={trees_each_round},"
                          f" classes={classes}: 1 or more, classes 2 or more")  # fmt: skip
    if not np.isfinite(base_score):
        raise ConfigError(f"base_score={base_score}: a finite number")
    if taken := sorted(OURS & set(params or {})):
        raise ConfigError(f"params has {', '.join(taken)}, which this model sets itself")
    outputs = classes if loss == "softmax" else 1
    shape = Shape(
        features, places, rounds, trees_each_round, depth, loss, outputs, float(base_score)
    )
    return XGBoostBagging(shape, place=place, params=params)


def _blended(shape: Shape, slots: Array, wrong: Array) -> str:
    """What happened to the slots ``wrong`` of those filled, in one line."""
    of_wrong, of_all = np.unique(wrong % shape.places), np.unique(slots % shape.places)
    if len(of_wrong) == 1 < len(of_all):
        return (f"two clients have place {of_wrong[0]}: their trees are in one slot, and cannot be"
                " told apart; give each site a place of its own")  # fmt: skip
    return (
        "the table has trees that no site wrote: two clients have one place, or the coordinator"
        f" changes more than weights; {shape.ask}"
    )


def _model_of(booster: Any) -> Any:
    return json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]


def _xgboost() -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise ConfigError("xgboost_bagging needs the package xgboost: pip install"
                          " 'warren-fl[xgboost]'") from error  # fmt: skip
    return xgboost
