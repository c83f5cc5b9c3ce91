"""The sum of the records' gradients, each clipped, with noise: what a step may know of the data.

Gradients are rounded to integers, of which the norm is at most UNIT, exactly; so a record that is
added or removed moves the sum by no more than that, and sums of floats, which round by all that
they sum up, do not come into it. The noise is a discrete Gaussian (`warren_shared.privacy.noise`).
"""

import os
from collections.abc import Iterable
from typing import Final

import numpy as np

from client_worker.privacy.terms import Random, RecordPrivacy
from warren_shared.errors import ConfigError
from warren_shared.privacy.mechanism import length_before_rounding
from warren_shared.privacy.noise import BLOCK, DiscreteGaussian, KeyStream
from warren_shared.tensors.layout import Array

UNIT: Final = 1 << 24  # the norm of a clipped gradient


class GradientRelease:
    """Noisy sums of gradients of ``size`` parameters, under one key."""

    def __init__(self, terms: RecordPrivacy, size: int, random: Random = os.urandom) -> None:
        self._clip = terms.clip
        self._size = size
        self._length = length_before_rounding(UNIT, size)
        self._gaussian = DiscreteGaussian(UNIT / terms.mu_of_step)
        self._stream = KeyStream(random(32))

    def sum(self, rows: Iterable[Array]) -> Array:
        """Shape (size,), float64: the noisy sum of ``rows``, parts of shape (records, size)."""
        total = np.zeros(self._size, np.int64)
        for part in rows:
            total += self.rounded(part).sum(axis=0)
        for first in range(0, self._size, BLOCK):
            here = slice(first, min(first + BLOCK, self._size))
            total[here] += self._gaussian.draw(self._stream, len(total[here]))
        return total * (self._clip / self._length)

    def rounded(self, part: Array) -> Array:
        """The gradients in ``part`` as integers, no row longer than UNIT.

        A row that is not finite becomes zeros: to refuse it would tell of a record.
        """
        rows = np.array(part, np.float64)
        if rows.ndim != 2 or rows.shape[1] != self._size:
            raise ConfigError(f"gradients of single records have shape {np.shape(part)}, not"
                              f" (records, {self._size})")  # fmt: skip
        with np.errstate(all="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        rows[~np.isfinite(norms)] = 0
        norms[~np.isfinite(norms)] = 0
        rows *= (self._length / np.maximum(norms, self._clip))[:, None]
        np.rint(rows, out=rows)
        rows[np.einsum("ij,ij->i", rows, rows) > float(UNIT) ** 2] = 0  # exact: below 2^53
        return rows.astype(np.int64)
