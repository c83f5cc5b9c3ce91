"""A round's masked updates as a sum modulo 2^16 or 2^32, which is noise until its masks are off.

Masks are integers that wrap around, so the sum is exact in any order, and what is left when the sum
of the masks is subtracted is the sum of the updates, to the last bit. The keeper gives the sum of
the masks once for a round; the coordinator never sees an update (docs/secure-aggregation.md).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from coordinator_worker.aggregation.cohort import Delta
from coordinator_worker.aggregation.optimizers import Diverged
from coordinator_worker.aggregation.stack import Row
from coordinator_worker.aggregation.weighted_sum import WeightedSum
from warren_shared.errors import ConfigError
from warren_shared.observability.log import Log
from warren_shared.protocol.masking import (
    code_of,
    figures_of,
    names_digest,
    read_weight,
    weight_elements,
)
from warren_shared.protocol.messages import FigureNames, FigureSum, MaskTerms
from warren_shared.tensors.layout import Layout, Weights
from warren_shared.tensors.masked_figures import Told, decode
from warren_shared.tensors.ring import Ring, dtype_of

log = Log(__name__)

MAX_FIGURE_SUMS: Final = 64  # kinds of figures in a round; a client chooses the names of its own


@dataclass(frozen=True)
class Masking:
    """How a run's updates are masked, and what their sum is divided by.

    ``fixed_divisor`` None: by what the updates weigh together. ``counts``: by how many there are.
    """

    terms: MaskTerms
    run: str
    fixed_divisor: int | None = None
    counts: bool = False


class _FigureSum:
    def __init__(self, names: FigureNames, size: int, ring: int) -> None:
        self.names = names
        self.total = np.zeros(size, dtype_of(ring))
        self.updates = 0

    def says(self, told: FigureSum) -> bool:
        """Whether a sum of masks is that of these."""
        return (told.updates, told.elements) == (self.updates, self.total.size)


class MaskedCohort:
    """Adds masked updates up; ``subtract`` takes the masks off, and ``delta`` says what is left.

    ``memory`` is reused for the result if given.
    """

    clipped = 0  # clients clip before they mask

    def __init__(self, layout: Layout, masking: Masking, memory: Weights | None = None) -> None:
        # Its memory alone is used, as that of a cohort of updates in clear.
        self.sum = WeightedSum(layout, memory)
        self.count = 0
        self.weights: list[int] = []  # of each update, in their order
        self.told: list[Told] = []  # once the masks are off
        self._layout = layout
        self._masking = masking
        terms = masking.terms
        self._code = code_of(terms, layout, masking.run)
        self._dtype = np.dtype(dtype_of(terms.ring))
        self._core = self._code.elements + weight_elements(terms)
        self._total = np.zeros(self._core, self._dtype)
        self._figures: dict[str, _FigureSum] = {}
        # Of each part of the keeper's answer: how many bytes, and what they are subtracted from.
        self._unmasked: list[tuple[int, Ring | None]] = []

    def take(self, row: Row, weight: int, names: FigureNames | None) -> int:
        """Add ``weight`` times a whole update; return the weight.

        Its figures, of these names, are added once: they are counts.
        """
        figures = self._figure_sum(names)
        edge = self._core * self._dtype.itemsize
        for start, data in row.chunks():
            here = min(max(edge - start, 0), len(data))
            _add(self._total, start, data[:here], weight)
            if figures is not None and here < len(data):
                _add(figures.total, start + here - edge, data[here:], 1)
        if figures is not None:
            figures.updates += 1
        self.weights.append(weight)
        self.count += 1
        row.release()
        return weight

    def _figure_sum(self, names: FigureNames | None) -> _FigureSum | None:
        if names is None:
            return None
        digest = names_digest(names)
        if digest not in self._figures:
            if len(self._figures) >= MAX_FIGURE_SUMS:
                return None
            terms = self._masking.terms
            size = figures_of(names).elements(terms.limb)
            self._figures[digest] = _FigureSum(names, size, terms.ring)
        return self._figures[digest]

    def begin_unmasking(self, sums: list[FigureSum]) -> int:
        """The keeper gives these sums of figures behind that of the weights; of so many bytes.

        Those that are of other updates than ours, since a client has told its keeper something
        else, are left out.
        """
        readable: dict[str, _FigureSum] = {}
        self._unmasked = [(self._total.nbytes, self._total)]
        for told in sums:
            ours = self._figures.get(told.names)
            size = told.elements * self._dtype.itemsize
            if ours is not None and ours.says(told) and told.names not in readable:
                readable[told.names] = ours
                self._unmasked.append((size, ours.total))
            else:
                log.warning("figures_left_out", "the keeper's sum of figures is of other updates")
                self._unmasked.append((size, None))
        self._figures = readable
        return sum(size for size, _ in self._unmasked)

    def subtract(self, start: int, data: memoryview) -> None:
        """Take a piece of the masks' sums off, from byte ``start`` on."""
        at = 0
        for size, part in self._unmasked:
            low, high = max(start, at), min(start + len(data), at + size)
            if part is not None and low < high:
                values = np.frombuffer(data[low - start : high - start], part.dtype)
                first = (low - at) // part.itemsize
                here = part[first : first + values.size]
                np.subtract(here, values, out=here)
            at += size

    def finish(self) -> None:
        """The masks are off: read what the figures say."""
        terms = self._masking.terms
        for figures in self._figures.values():
            try:
                told = decode(figures.total, figures_of(figures.names), terms.limb)
            except ValueError as error:
                log.warning("figures_unreadable", "what clients say adds up to nothing: %s", error)
                continue
            self.told.append(told)

    def delta(self) -> Delta:
        """The round's delta, in the cohort's own memory."""
        if not self.count:
            raise ConfigError("there are no updates to aggregate")
        self._code.decode(
            self._total[: self._code.elements], sum(self.weights), self._divisor, self.sum.total
        )
        return Delta(self.sum.total, 1.0, 1.0, is_relative=False)

    @property
    def _divisor(self) -> float:
        masking, terms = self._masking, self._masking.terms
        if masking.fixed_divisor is not None:
            return float(masking.fixed_divisor * terms.weights[0])
        if masking.counts:
            return float(self.count * terms.weights[0])
        if terms.examples == 1:
            return float(sum(self.weights))
        weights = sum(self.weights)
        weighed = read_weight(terms, self._total[self._code.elements :], weights)
        if not 0 < weighed < weights + 1:
            raise Diverged("the weights that clients say add up to none of honest clients")
        return weighed

    def release(self) -> None:
        """Nothing is kept but the sums."""


def _add(total: Ring, start: int, data: memoryview, weight: int) -> None:
    if not len(data):
        return
    values = np.frombuffer(data, total.dtype)
    first = start // total.itemsize
    here = total[first : first + values.size]
    np.add(here, values if weight == 1 else values * total.dtype.type(weight), out=here)
