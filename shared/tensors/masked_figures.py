"""Figures of an update as integers that ride behind its masked weights, and what sums of them say.

Counts add up exactly. A mean times its examples is a count, too, of steps of 2^-30; of one that is
not finite, or beyond 2^40, only is told that there is such a one, and then the pool is NaN. Scores
are told by histograms of equal bins, as the first protocols did: a sum can have no table whose rows
each client chooses.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, Final, NamedTuple

import numpy as np

from warren_shared.tensors.evaluation import SCORE_BINS, Evaluation, of_histograms
from warren_shared.tensors.ring import Ring, dtype_of, from_limbs, limbs, to_limbs

COUNT_BITS: Final = 32
FLAG_BITS: Final = 8
STEP_BITS: Final = 30
RANGE_BITS: Final = 40
MEAN_BITS: Final = COUNT_BITS + RANGE_BITS + 1 + STEP_BITS
MOST: Final = (1 << COUNT_BITS) - 1


@dataclass(frozen=True)
class Figures:
    """Which figures there are: ``metrics`` of training, ``means`` and counts of held-out data."""

    metrics: tuple[str, ...] = ()
    means: tuple[str, ...] = ()
    classes: int = 0
    scores: bool = False

    @property
    def bits(self) -> Iterator[int]:
        """Of each integer, in their order."""
        yield COUNT_BITS
        for _ in self.metrics:
            yield from (MEAN_BITS, FLAG_BITS)
        yield COUNT_BITS
        for _ in self.means:
            yield from (MEAN_BITS, FLAG_BITS)
        yield from (COUNT_BITS for _ in range(self.classes**2))
        yield from (COUNT_BITS for _ in range(2 * SCORE_BINS * self.scores))

    def elements(self, limb: int) -> int:
        """How many limbs all of them take."""
        return sum(limbs(bits, limb) for bits in self.bits)


class Told(NamedTuple):
    """What one client says, or all together."""

    examples: int
    metrics: Mapping[str, float]
    evaluation: Evaluation | None


def figures_of(told: Told) -> Figures:
    """Those that a client has."""
    found = told.evaluation
    if found is None:
        return Figures(tuple(sorted(told.metrics)))
    table: Any = found.scores
    has_scores = bool(table) and 0 <= table[0][0] <= table[0][-1] <= 1
    names = tuple(sorted(told.metrics)), tuple(sorted(found.means))
    return Figures(*names, len(found.confusion), has_scores)


def encode(told: Told, limb: int, ring: int) -> Ring:
    """The integers of ``figures_of(told)``, in limbs.

    Raises:
        ValueError: there are more than 2^32 examples.
    """
    figures = figures_of(told)
    values = list(_integers(told, figures))
    found = [part for value, bits in zip(values, figures.bits, strict=True)
             for part in to_limbs(value, bits, limb)]  # fmt: skip
    return np.array(found, dtype_of(ring))


def _integers(told: Told, figures: Figures) -> Iterator[int]:
    yield told.examples
    yield from _means(told.examples, [told.metrics[name] for name in figures.metrics])
    found = told.evaluation
    yield found.num_examples if found is not None else 0
    if found is None:
        return
    yield from _means(found.num_examples, [found.means[name] for name in figures.means])
    for row in found.confusion:
        yield from row
    if figures.scores:
        yield from _histograms(found)


def _means(examples: int, values: Sequence[float]) -> Iterator[int]:
    for value in values:
        is_told = isfinite(value) and abs(value) < 1 << RANGE_BITS
        steps = round(value * (1 << STEP_BITS)) if is_told else 0
        yield examples * (steps + (1 << (RANGE_BITS + STEP_BITS)))
        yield int(not is_told)


def _histograms(evaluation: Evaluation) -> Iterator[int]:
    table: Any = evaluation.scores
    scores, *counts = table
    bins = np.minimum((np.array(scores) * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
    for row in counts:
        yield from map(int, np.bincount(bins, np.array(row), SCORE_BINS).astype(np.int64))


def decode(total: Ring, figures: Figures, limb: int) -> Told:
    """What a sum of limbs says.

    Raises:
        ValueError: no figures of clients add up to this.
    """
    sums: list[int] = []
    at = 0
    for bits in figures.bits:
        count = limbs(bits, limb)
        sums.append(from_limbs(total[at : at + count], limb))
        at += count
    read = iter(sums)
    examples = next(read)
    metrics = _read_means(read, figures.metrics, examples)
    evaluated = next(read)
    means = _read_means(read, figures.means, evaluated)

    def counts(size: int) -> tuple[int, ...]:
        return tuple(next(read) for _ in range(size))

    confusion = tuple(counts(figures.classes) for _ in range(figures.classes))
    scores: Any = ()
    if figures.scores:
        scores = of_histograms((counts(SCORE_BINS), counts(SCORE_BINS)))
    if sum(map(sum, confusion)) > evaluated:
        raise ValueError("more counts than examples")
    evaluation = None
    if evaluated:
        evaluation = Evaluation(evaluated, means, confusion, scores, is_coarse=bool(scores))
    return Told(examples, metrics, evaluation)


def _read_means(read: Iterator[int], names: Sequence[str], examples: int) -> dict[str, float]:
    found = {}
    for name in names:
        total, bad = next(read), next(read)
        if not examples:
            continue
        steps = total - examples * (1 << (RANGE_BITS + STEP_BITS))
        value = steps / examples / (1 << STEP_BITS)
        if abs(value) > 1 << RANGE_BITS:
            raise ValueError(f"{name} is beyond what clients can say")
        found[name] = nan if bad else value
    return found
