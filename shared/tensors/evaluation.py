"""What a model is worth on held-out data, in a form that the coordinator can pool.

The AUC of all data is no mean of the clients' AUCs, and a pooled precision no mean of precisions.
So a client reports counts, which add up: evaluations form a commutative monoid under ``pool``.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from warren_shared.errors import ConfigError

SCORE_BINS: Final = 512  # equal bins of [0, 1]: what protocols 1 and 2 said of scores
MAX_SCORES: Final = 512  # distinct scores of one evaluation as it travels; more are put together
MAX_POOLED_SCORES: Final = 32_768  # of a pool in memory
MAX_CLASSES: Final = 64
OF_SCORES: Final = ("accuracy", "precision", "recall", "f1", "macro_f1", "auc")

Counts = tuple[tuple[int, ...], ...]
ScoreCounts = tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]] | tuple[()]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """Figures over ``num_examples`` held-out examples.

    ``means``: averages over those examples, such as a loss; one that is NaN stays NaN in every
    pool, also where a table would give a figure of its name. ``confusion``: row i, column j is how
    many of true class i were taken for j. ``scores``: three rows, the distinct scores in ascending
    order, and how many negative and positive examples have each; or nothing. ``is_coarse`` says
    that some of them came as histograms of equal bins, from a client that is older.
    """

    num_examples: int
    means: Mapping[str, float] = field(default_factory=dict)
    confusion: Counts = ()
    scores: ScoreCounts = ()
    is_coarse: bool = False

    def metrics(self) -> dict[str, float]:
        """The means, and what follows from the counts: of all examples together.

        What cannot be said for want of examples (the AUC of one class) is not there; what could
        not be computed, since a prediction was NaN or infinite, is NaN.
        """
        found: dict[str, float] = {}
        if self.confusion:
            found |= _of_confusion(np.array(self.confusion, np.float64))
        if self.scores:
            found |= _of_scores(*(np.array(row, np.float64) for row in self.scores))
        found = {name: value for name, value in found.items() if isfinite(value)}
        return {**self.means, **found} | {n: nan for n, v in self.means.items() if not isfinite(v)}

    def tie_error(self) -> float:
        """How far the AUC may be off since unlike scores were put together, at most."""
        if not self.is_coarse or not self.scores:
            return 0.0
        negatives, positives = (np.array(row, np.float64) for row in self.scores[1:])
        pairs = negatives.sum() * positives.sum()
        return float((negatives * positives).sum() / 2 / pairs) if pairs else 0.0


def of_classes(
    true: npt.ArrayLike, predicted: npt.ArrayLike, classes: int, **means: float
) -> Evaluation:
    """The evaluation of a classifier.

    ``true`` and ``predicted`` have shape (n,), with labels from 0 to ``classes`` - 1. If one that
    is predicted is NaN, as ``most_likely`` says it, all that follows from them is.
    Raises ConfigError for any other label.
    """
    if not 2 <= classes <= MAX_CLASSES:
        raise ConfigError(f"{classes} classes: an evaluation counts from 2 to {MAX_CLASSES}")
    if not np.isfinite(np.asarray(predicted, np.float64)).all():
        return not_finite(np.asarray(true).size, **means)
    truth, guess = np.asarray(true, np.int64).ravel(), np.asarray(predicted, np.int64).ravel()
    for labels in (truth, guess):
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            outside = sorted({int(label) for label in labels if not 0 <= label < classes})[:3]
            raise ConfigError(f"labels {outside} are not from 0 to {classes - 1}: leave those out"
                              " that are to be ignored")  # fmt: skip
    counts = np.bincount(truth * classes + guess, minlength=classes * classes)
    return Evaluation(len(truth), means, _counts(counts.reshape(classes, classes)))


def most_likely(outputs: npt.ArrayLike) -> Floats:
    """The class of the largest of each row of ``outputs`` (n, classes); NaN if one is no number."""
    table = np.asarray(outputs)
    return np.where(np.isfinite(table).all(axis=1), table.argmax(axis=1), nan)


def not_finite(num_examples: int, **means: float) -> Evaluation:
    """The evaluation of a classifier some of whose outputs were NaN or infinite."""
    return Evaluation(num_examples, means | dict.fromkeys(OF_SCORES, nan))


def of_scores(
    labels: npt.ArrayLike, scores: npt.ArrayLike, threshold: float = 0.5, **means: float
) -> Evaluation:
    """The evaluation of a binary classifier: labels 0 or 1, probabilities of 1, shape (n,).

    A score above ``threshold`` is a guess of 1. With another threshold than 0.5 the scores may be
    any numbers: logits with 0, say. If one is NaN or infinite, all that follows from them is NaN.

    Raises:
        ConfigError: the scores are no probabilities, or not as many as the labels.
    """
    truth, score = np.asarray(labels).ravel() > 0.5, np.asarray(scores, np.float64).ravel()
    if len(truth) != len(score):
        raise ConfigError(f"{len(score)} scores of {len(truth)} labels: give one for each")
    if not np.isfinite(score).all():
        return not_finite(len(truth), **means)
    if threshold == 0.5 and len(score) and not 0 <= score.min() <= score.max() <= 1:
        raise ConfigError(
            f"scores from {score.min():.4g} to {score.max():.4g} are no probabilities: give those,"
            " or of_scores(…, threshold=0) for logits"
        )
    found = of_classes(truth, score > threshold, 2, **means)
    counts = _score_counts(score, (~truth).astype(np.int64), truth.astype(np.int64), MAX_SCORES)
    return Evaluation(found.num_examples, means, found.confusion, counts)


def of_histograms(rows: Sequence[Sequence[int]]) -> ScoreCounts:
    """What two histograms over SCORE_BINS equal bins of [0, 1] say: the middle of each bin."""
    middles = (np.arange(SCORE_BINS) + 0.5) / SCORE_BINS
    negatives, positives = (np.array(row, np.int64) for row in rows)
    return _score_counts(middles, negatives, positives, SCORE_BINS)


def for_wire(evaluation: Evaluation) -> Evaluation:
    """``evaluation`` with no more than MAX_SCORES distinct scores."""
    if not evaluation.scores or len(evaluation.scores[0]) <= MAX_SCORES:
        return evaluation
    return replace(evaluation, scores=_pooled_scores([evaluation.scores], MAX_SCORES))


def pool(evaluations: Iterable[Evaluation]) -> Evaluation:
    """The evaluation of all examples together; counts of another shape than most are left out."""
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
        _pooled_scores([part.scores for part in parts], MAX_POOLED_SCORES),
        any(part.is_coarse for part in parts),
    )


def _sum(tables: Sequence[Counts]) -> Counts:
    there = [np.array(table) for table in tables if table]
    if not there:
        return ()
    # Not the first one's: one client that counts other classes would leave out everybody else.
    shape = Counter(table.shape for table in there).most_common(1)[0][0]
    return _counts(sum(table for table in there if table.shape == shape))


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


def _of_scores(_scores: Floats, negatives: Floats, positives: Floats) -> dict[str, float]:
    """Area under the ROC curve: of all pairs how many are in order, a tie counting half."""
    below = np.cumsum(negatives) - negatives
    pairs = negatives.sum() * positives.sum()
    if not pairs:
        return {}
    return {"auc": float(((below + negatives / 2) * positives).sum() / pairs)}


def _pooled_scores(tables: Sequence[ScoreCounts], most: int) -> ScoreCounts:
    there = [table for table in tables if table]
    if not there:
        return ()
    scores, negatives, positives = (np.concatenate(rows) for rows in zip(*there, strict=True))
    return _score_counts(scores, negatives, positives, most)


def _score_counts(
    scores: Floats, negatives: npt.NDArray[np.int64], positives: npt.NDArray[np.int64], most: int
) -> ScoreCounts:
    """Distinct scores and their counts, (n,) each; at most ``most``, neighbours put together.

    Each group of neighbours holds about as large a share of the negatives and of the positives
    together, so the AUC is off by 1 / ``most`` at the utmost, wherever the scores lie and however
    rare one class is; between two sites, whose groups overlap, by four times that. A group is told
    by the score in its middle.
    """
    distinct, places = np.unique(scores, return_inverse=True)
    table = np.zeros((2, len(distinct)), np.int64)
    np.add.at(table[0], places, negatives)
    np.add.at(table[1], places, positives)
    there = table.any(axis=0)
    distinct, table = distinct[there], table[:, there]
    if len(distinct) > most:
        share = (table / np.maximum(table.sum(axis=1, keepdims=True), 1)).sum(axis=0)
        middle = (np.cumsum(share) - share / 2) / share.sum()
        group = np.minimum((middle * most).astype(np.int64), most - 1)
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        ends = np.append(starts[1:], len(distinct)) - 1
        distinct = distinct[(starts + ends) // 2]
        table = np.add.reduceat(table, starts, axis=1)
    return tuple(distinct.tolist()), tuple(table[0].tolist()), tuple(table[1].tolist())
