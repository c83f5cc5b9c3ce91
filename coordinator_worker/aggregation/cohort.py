"""The updates of one round, on their way to one delta."""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

from coordinator_worker.aggregation.aggregators import Aggregator, Contribution
from coordinator_worker.aggregation.stack import MemoryRow, Row, Stack
from coordinator_worker.aggregation.weighted_sum import WeightedSum, sum_of_squares
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import STATISTIC, Array, Layout, Weights, bytes_of
from warren_shared.tensors.update import Update


class Delta(NamedTuple):
    """What a round comes to: of trainable tensors ``total / divisor``, of statistics
    ``total / statistics_divisor``, which is how far they are from the model if ``is_relative``.
    """

    total: Weights
    divisor: float
    statistics_divisor: float
    is_relative: bool


class Cohort:
    """Folds updates as they come, or keeps them if the aggregator wants to see all at once.

    ``memory`` is reused for the result if given. With ``clip_norm`` C a delta d counts as
    d min(1, C / |d|), whatever the aggregator (norm bounding: Sun et al. 2019, section 4); |d| is
    that of its trainable tensors, and statistics are not clipped. ``model``, the global model, is
    what a WeightedSum takes it for; it must stay as it is until the round closes.
    """

    def __init__(
        self,
        layout: Layout,
        aggregator: Aggregator,
        *,
        clip_norm: float | None = None,
        memory: Weights | None = None,
        model: Weights | None = None,
    ) -> None:
        self.sum = WeightedSum(layout, memory, model)
        self.clipped = 0
        self._layout = layout
        self._model = model
        self._aggregator = aggregator
        self._clip_norm = clip_norm
        self._rescaled = 0.0  # sum of weight * rescale
        self._rows: list[Row] = []
        self._scales: list[float] = []
        self._weights: list[float] = []

    @property
    def count(self) -> int:
        """How many updates are in it."""
        return len(self._rows) or self.sum.count

    def add(self, update: Update, staleness_weight: float = 1.0, rarity: float = 1.0) -> None:
        """Take an update that is in memory; it must stay as it is until the round closes.

        A delta that does not know of statistics, such as a plain list of arrays, is a difference
        throughout. Raises ConfigError if it does not fit the model, Rejected if it is not finite or
        lacks what the aggregator needs.
        """
        delta = self._with_values(update.delta)
        squares = sum_of_squares(self._layout, 0, bytes_of(delta.buffer))
        contribution = Contribution(
            update.num_examples, staleness_weight, sqrt(squares), update.local_steps, rarity
        )
        self.take(contribution, MemoryRow(delta))

    def _with_values(self, delta: Sequence[Array]) -> Weights:
        """``delta`` in the model's layout, its statistics values."""
        packed = Weights.of(delta, self._layout)
        knows = isinstance(delta, Weights) and delta.layout.has_statistics
        if knows or self._model is None or not self._layout.has_statistics:
            return packed
        values = Weights(self._layout, packed.buffer.copy())
        for run, mine, known in zip(
            self._layout.runs, values.runs(), self._model.runs(), strict=True
        ):
            if run.role == STATISTIC:
                np.add(mine, known, out=mine)
        return values

    def take(self, contribution: Contribution, row: Row) -> float:
        """Take a whole update, which has been checked; return what it weighs among the others.

        ``row`` is released when it is done with.
        """
        weight = self._aggregator.weigh(contribution)
        scale = self._aggregator.scale(contribution)
        rescale = self._aggregator.rescale(contribution)
        if self._clip_norm is not None and contribution.norm > self._clip_norm:
            scale *= self._clip_norm / contribution.norm
            self.clipped += 1
        if self._aggregator.rule is not None:
            self._rows.append(row)
            self._scales.append(scale)
            self._weights.append(weight)
            return weight
        of_statistics = self._aggregator.weigh_statistics(contribution)
        self.sum.add_chunks(row.chunks(), weight, scale, of_statistics)
        self._rescaled += weight * rescale
        row.release()
        return weight

    def merge(self, part: WeightedSum) -> None:
        """Take the updates that were folded into ``part`` elsewhere."""
        if self._aggregator.rule is not None:
            raise ConfigError("this aggregator needs each update, not a sum of some")
        self._rescaled += part.weight
        self.sum.merge(part)

    def delta(self, center: Weights | None = None) -> Delta:
        """The round's delta, in the cohort's own memory.

        ``center`` is the last round's, if the aggregator is ``centered``; it becomes this one's.
        """
        rule = self._aggregator.rule
        if rule is None:
            total = self.sum
            if not total.weight:
                raise ConfigError("there are no updates to aggregate")
            total.collapse()
            divisor = total.weight * (total.weight / self._rescaled)
            is_relative = self._model is not None
            return Delta(total.total, divisor, total.statistics_weight, is_relative)
        if len(self._rows) < self._aggregator.least:
            raise ConfigError(
                f"this aggregator needs {self._aggregator.least} updates, there are {self.count}"
            )
        if not self._rows:
            raise ConfigError("there are no updates to aggregate")
        stack = Stack(self._layout, self._rows, self._scales, center)
        rule(stack, np.asarray(self._weights), self.sum.total)
        self.release()
        return Delta(self.sum.total, 1.0, 1.0, is_relative=False)

    def release(self) -> None:
        """Give up the updates that are kept."""
        while self._rows:
            self._rows.pop().release()
