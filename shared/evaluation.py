"""What a model is worth on held-out data, in a form that the coordinator can pool.

The AUC of all data is no mean of the clients' AUCs, and a pooled precision no mean of precisions.
So a client reports counts, which add up: evaluations form a commutative monoid under ``pool``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shared.errors import ConfigError

SCORE_BINS: Final = 512  # of [0, 1]; scores within one count as ties
MOST_CLASSES: Final = 64

Counts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Evaluation:
    """Figures over ``num_examples`` held-out examples.

    ``means``: averages over those examples, such as a loss. ``confusion``: row i, column j is how
    many of true class i were taken for j. ``scores``: histograms of the predicted probability over
    SCORE_BINS equal bins of [0, 1], of the negative examples and of the positive ones.
    """

    num_examples: int
    means: Mapping[str, float] = field(default_factory=dict)
    confusion: Counts = ()
    scores: Counts = ()

    def metrics(self) -> dict[str, float]:
        """The means, and what follows from the counts: of all examples together."""
        found = dict(self.means)
        if self.confusion:
            found |= _of_confusion(np.array(self.confusion, np.float64))
        if self.scores:
            found |= _of_scores(np.array(self.scores, np.float64))
        return {name: value for name, value in found.items() if isfinite(value)}


def of_classes(
    true: npt.ArrayLike, predicted: npt.ArrayLike, classes: int, **means: float
) -> Evaluation:
    """The evaluation of a classifier.

    ``true`` and ``predicted`` have shape (n,), with labels from 0 to ``classes`` - 1.
    Raises ConfigError for any other label.
    """
    if not 2 <= classes <= MOST_CLASSES:
        raise ConfigError(f"{classes} classes: an evaluation counts from 2 to {MOST_CLASSES}")
    truth, guess = np.asarray(true, np.int64).ravel(), np.asarray(predicted, np.int64).ravel()
    for labels in (truth, guess):
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            outside = sorted({int(label) for label in labels if not 0 <= label < classes})[:3]
            raise ConfigError(f"labels {outside} are not from 0 to {classes - 1}: leave those out"
                              " that are to be ignored")  # fmt: skip
    counts = np.bincount(truth * classes + guess, minlength=classes * classes)
    return Evaluation(len(truth), means, _counts(counts.reshape(classes, classes)))


def of_scores(labels: npt.ArrayLike, scores: npt.ArrayLike, **means: float) -> Evaluation:
    """The evaluation of a binary classifier: labels 0 or 1, probabilities of 1, shape (n,)."""
    truth, score = np.asarray(labels).ravel() > 0.5, np.asarray(scores, np.float64).ravel()
    bins = np.clip((score * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
    histograms = np.stack(
        [np.bincount(bins[truth == label], minlength=SCORE_BINS) for label in (False, True)]
    )
    found = of_classes(truth, score > 0.5, 2, **means)
    return Evaluation(found.num_examples, means, found.confusion, _counts(histograms))


def pool(evaluations: Iterable[Evaluation]) -> Evaluation:
    """The evaluation of all examples together; counts of another shape are left out."""
    parts = list(evaluations)
    total = sum(part.num_examples for part in parts)
    names = {name: None for part in parts for name in part.means}
    means = {}
    for name in names:
        reported = [part for part in parts if name in part.means]
        examples = sum(part.num_examples for part in reported)
        means[name] = sum(part.num_examples * part.means[name] for part in reported) / examples
    return Evaluation(
        total,
        means,
        _sum([part.confusion for part in parts]),
        _sum([part.scores for part in parts]),
    )


def _sum(tables: Sequence[Counts]) -> Counts:
    there = [np.array(table) for table in tables if table]
    if not there:
        return ()
    return _counts(sum(table for table in there if table.shape == there[0].shape))


def _counts(table: Any) -> Counts:
    return tuple(tuple(map(int, row)) for row in table)


def _of_confusion(counts: npt.NDArray[np.float64]) -> dict[str, float]:
    """Accuracy; of two classes precision, recall and F1 of class 1, of more their F1's mean."""
    right, taken, there = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = right / taken, right / there
        f1 = 2 * right / (taken + there)
    found = {"accuracy": float(right.sum() / counts.sum())}
    if len(counts) == 2:
        found |= {"precision": precision[1], "recall": recall[1], "f1": f1[1]}
    else:
        found["macro_f1"] = float(np.nanmean(f1))
    return {name: float(value) for name, value in found.items()}


def _of_scores(histograms: npt.NDArray[np.float64]) -> dict[str, float]:
    """Area under the ROC curve: of all pairs how many are in order, a tie counting half."""
    negatives, positives = histograms
    below = np.cumsum(negatives) - negatives
    pairs = negatives.sum() * positives.sum()
    if not pairs:
        return {}
    return {"auc": float(((below + negatives / 2) * positives).sum() / pairs)}
