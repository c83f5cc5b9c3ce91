"""Rules that some of the clients cannot decide alone, whatever they send.

Each is a function (stack of the deltas, weights of shape (K,), out) that writes the round's delta.
Distances come from inner products, so none but the rules by coordinate looks at the deltas twice.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Final

import numpy as np

from coordinator_worker.aggregation.stack import Matrix, Stack, median_of_columns, squared_distances
from warren_shared.tensors.layout import Array, Weights

Rule = Callable[[Stack, Matrix, Weights], None]

ROUNDS_OF_WEISZFELD: Final = 100
ROUNDS_OF_CLIPPING: Final = 3
SMALLEST_DISTANCE: Final = 1e-6


def by_median(stack: Stack, _weights: Matrix, out: Weights) -> None:
    """The median of each coordinate; of an even number the mean of the middle two."""
    stack.by_column(median_of_columns, out)


def share_of(fraction: float, count: int) -> int:
    """floor(fraction * count) of the fraction as it was written: 0.29 * 100 is 28.999999999999996.

    Of all fractions that are the same number the one of the fewest digits is meant.
    """
    return int(Fraction(repr(float(fraction))) * count)


def by_trimmed_mean(fraction: float) -> Rule:
    """The mean of each coordinate without its floor(fraction K) lowest and highest values."""

    def rule(stack: Stack, _weights: Matrix, out: Weights) -> None:
        cut = share_of(fraction, len(stack))

        def inner(block: Array) -> Array:
            block.sort(axis=0)
            found: Array = block[cut : len(block) - cut].mean(axis=0, dtype=np.float64)
            return found

        stack.by_column(inner, out)

    return rule


def krum_scores(distances: Matrix, f: int) -> Matrix:
    """For each row the sum of its squared distances to its K - f - 2 nearest others."""
    nearest = np.sort(distances, axis=1)[:, 1 : len(distances) - f - 1]  # the first is itself
    scores: Matrix = nearest.sum(axis=1)
    return scores


def by_krum(f: int, chosen: int | None) -> Rule:
    """The weighted mean of the ``chosen`` rows of lowest score, all but f of them if None."""

    def rule(stack: Stack, weights: Matrix, out: Weights) -> None:
        scores = krum_scores(squared_distances(stack.inner_products()), f)
        best = np.argsort(scores, kind="stable")[: chosen or len(stack) - f]
        coefficients = np.zeros(len(stack))
        coefficients[best] = weights[best] / weights[best].sum()
        stack.combine(coefficients, out)

    return rule


def by_geometric_median(stack: Stack, weights: Matrix, out: Weights) -> None:
    """The point z of the least sum_k w_k |z - x_k|, by Weiszfeld's smoothed iteration.

    z is always a weighted mean of the rows, so its distances follow from their inner products.
    """
    products = stack.inner_products()
    coefficients = weights / weights.sum()
    for _ in range(ROUNDS_OF_WEISZFELD):
        squared = (
            np.diag(products) - 2 * products @ coefficients + coefficients @ products @ coefficients
        )
        distances = np.sqrt(np.maximum(squared, SMALLEST_DISTANCE**2))
        moved = weights / distances
        moved /= moved.sum()
        if np.abs(moved - coefficients).max() < 1e-9:
            break
        coefficients = moved
    stack.combine(coefficients, out)


def by_centered_clipping(radius: float) -> Rule:
    """V + mean_k of (x_k - v) clipped to ``radius``, a few times; v begins as the last round's."""

    def rule(stack: Stack, weights: Matrix, out: Weights) -> None:
        if stack.center is None:
            raise TypeError("centered clipping needs a center")
        products = stack.inner_products()
        shares = weights / weights.sum()
        center = np.zeros(len(stack))  # v, as coefficients of the rows and of the last v
        center[-1] = 1.0
        for _ in range(ROUNDS_OF_CLIPPING):
            squared = np.diag(products) - 2 * products @ center + center @ products @ center
            distances = np.sqrt(np.maximum(squared[:-1], 0.0))
            pull = shares * np.minimum(1.0, radius / np.maximum(distances, 1e-300))
            center *= 1.0 - pull.sum()
            center[:-1] += pull
        stack.combine(center, out)
        stack.center.buffer[:] = out.buffer

    return rule
