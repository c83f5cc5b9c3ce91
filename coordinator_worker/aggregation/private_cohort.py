"""A round's updates as a sum of integers, which is known to nobody without its noise.

An update of norm ``clip`` is rounded to integers of which its norm is at most ``Calibration.unit``.
Their sum is exact, in any order, so a client moves it by no more than that; floats would round by
all the rest of the sum. What is divided by is the quorum, however many updates came.
"""

from dataclasses import dataclass
from hmac import digest as hmac
from math import sqrt
from typing import Final

import numpy as np
from blake3 import blake3

from coordinator_worker.aggregation.aggregators import Contribution
from coordinator_worker.aggregation.cohort import Delta
from coordinator_worker.aggregation.stack import MemoryRow, Row
from coordinator_worker.aggregation.weighted_sum import WeightedSum, sum_of_squares
from warren_shared.errors import ConfigError, Rejected
from warren_shared.privacy.mechanism import Calibration
from warren_shared.privacy.noise import BLOCK, DiscreteGaussian, KeyStream
from warren_shared.tensors.layout import Array, Layout, Weights, bytes_of
from warren_shared.tensors.update import Update

INTEGERS: Final = {"float32": np.int32, "float64": np.int64}  # as wide as what they stand for


@dataclass(frozen=True)
class RoundNoise:
    """The noise of a run; ``secret``, of 32 bytes, is what nobody but the coordinator knows."""

    calibration: Calibration
    clip: float
    secret: bytes

    @property
    def scale(self) -> float:
        """How many steps of a sum 1.0 in an update is."""
        return self.calibration.step / self.clip

    def stream(self, context: str, total: Weights) -> KeyStream:
        """The random words of one sum: others for any other sum, and the same for the same.

        So a round that is computed again, after a crash, releases nothing new, and one that has
        other updates by then shares no noise with what was before.
        """
        said = context.encode() + b"\0" + blake3(bytes_of(total.buffer)).digest()
        return KeyStream(hmac(self.secret, said, "sha256"))


class PrivateCohort:
    """Folds updates as integers; ``delta`` adds the noise.

    ``memory`` is reused for the result if given. A weight is the update's staleness weight, which
    is public and at most 1: the number of examples is the client's secret.
    """

    clipped = 0  # how many were longer tells of them

    def __init__(self, layout: Layout, noise: RoundNoise, memory: Weights | None = None) -> None:
        if layout.has_statistics:
            raise ConfigError(
                "--privacy: the model has statistics (BatchNormalization, or frozen tensors), whose"
                " values have no bound: use GroupNormalization or LayerNormalization, or keep them"
                " at the site (local=)"
            )
        # Its memory alone is used, as that of a cohort without noise.
        self.sum = WeightedSum(layout, memory)
        self._layout = layout
        self._noise = noise
        self.count = 0

    def add(self, update: Update, staleness_weight: float = 1.0, rarity: float = 1.0) -> None:
        """Take an update that is in memory; raises Rejected(``not-finite``)."""
        delta = Weights.of(update.delta, self._layout)
        squares = sum_of_squares(self._layout, 0, bytes_of(delta.buffer))
        self.take(
            Contribution(update.num_examples, staleness_weight, sqrt(squares), rarity=rarity),
            MemoryRow(delta),
        )

    def take(self, contribution: Contribution, row: Row | None) -> float:
        """Take a whole update; return what it weighs. One that is None counts, and moves nothing.

        Raises:
            Rejected: ``norm``, if it is longer than its norm says.
        """
        self.count += 1
        weight = min(1.0, max(0.0, contribution.staleness_weight))
        if row is None:
            return weight
        factor = weight * self._noise.scale
        if contribution.norm > self._noise.clip:
            factor *= self._noise.clip / contribution.norm
        squares = self._fold(row, factor, 1)
        if not squares <= self._noise.calibration.unit**2:
            self._fold(row, factor, -1)
            self.count -= 1
            raise Rejected("norm", "its numbers are larger than its norm says")
        row.release()
        return weight

    def _fold(self, row: Row, factor: float, sign: int) -> float:
        """Add ``sign`` times the integers; return the sum of their squares, exactly."""
        squares = 0.0
        for start, data in row.chunks():
            for run in self._layout.runs:
                low, high = max(start, run.start), min(start + len(data), run.stop)
                if low >= high:
                    continue
                values = np.frombuffer(data[low - start : high - start], run.dtype)
                total = self.sum.total.buffer[low:high].view(INTEGERS[run.dtype])
                squares += _add_rounded(total, values, factor, sign)
        return squares

    def delta(self, slot: Weights, context: str) -> Delta:
        """The noised sum over the quorum, in the cohort's own memory; ``slot`` becomes the next's.

        ``context`` says which round of which run it is. ``slot`` holds the buffer of the
        correlated noise, as integers in the place of floats.
        """
        if not self.count:
            raise ConfigError("there are no updates to aggregate")
        calibration = self._noise.calibration
        stream = self._noise.stream(context, self.sum.total)
        gaussian = DiscreteGaussian(calibration.sigma)
        value = 1.0 / self._noise.scale / calibration.quorum
        for run in self._layout.runs:
            kind = INTEGERS[run.dtype]
            total, kept = (
                weights.buffer[run.start : run.stop].view(kind)
                for weights in (self.sum.total, slot)
            )
            result = self.sum.total.buffer[run.start : run.stop].view(run.dtype)
            for first in range(0, total.size, BLOCK):
                here = slice(first, min(first + BLOCK, total.size))
                drawn = gaussian.draw(stream, len(total[here]))
                noise = calibration.correlation.correlated(drawn, kept[here])
                noise += total[here]
                result[here] = noise * value
        return Delta(self.sum.total, 1.0, 1.0, is_relative=False)

    def merge(self, _part: WeightedSum) -> None:
        """Refuse a sum: how often a client is in it is not known."""
        raise ConfigError("--privacy needs each update, not a sum of some")

    def release(self) -> None:
        """Nothing is kept but the sum."""


def _add_rounded(total: Array, values: Array, factor: float, sign: int) -> float:
    squares = 0.0
    for first in range(0, values.size, BLOCK):
        piece = values[first : first + BLOCK] * np.asarray(factor, values.dtype)
        np.rint(piece, out=piece)
        exact = piece.astype(np.float64)
        squares += float(np.dot(exact, exact))  # integers below 2^53
        target = total[first : first + BLOCK]
        target += (sign * exact).astype(total.dtype)
    return squares
