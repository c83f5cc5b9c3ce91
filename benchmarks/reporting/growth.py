"""Whether something grows from round to round, or only once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

import numpy as np

from benchmarks.harness.federation import WARM_UP
from benchmarks.harness.processes import descriptors, rss_bytes


@dataclass(frozen=True)
class Growth:
    """A quantity at ``rounds``, the first of them once it had settled.

    It is flat if it ends no more than ``tolerance`` above what it was then.
    """

    rounds: Sequence[int]
    values: Sequence[float]
    tolerance: float

    @property
    def total(self) -> float:
        """What it has become more by since it had settled."""
        return self.values[-1] - self.values[0]

    @property
    def per_1000_rounds(self) -> float:
        """Slope of the straight line that fits best (least squares)."""
        slope = 1000 * float(np.polyfit(self.rounds, self.values, 1)[0])
        return round(slope, 6) + 0.0  # of what never changes: 0, not 6.9e-16 nor -0

    @property
    def is_flat(self) -> bool:
        """Whether it is what it was, but for noise."""
        return self.total <= self.tolerance


@dataclass
class Samples:
    """Resident memory (bytes) and descriptors of each process, at ``versions``; all rounds' times.

    Of descriptors it has the fewest since the look before: a checkpoint that happens to be open
    while we look is not one that was forgotten.
    """

    versions: list[int] = field(default_factory=list)
    rss: dict[str, list[int]] = field(default_factory=dict)
    open_files: dict[str, list[int]] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)  # by version, Unix seconds
    _fewest: dict[str, int] = field(default_factory=dict)

    def glance(self, pids: Mapping[str, int]) -> None:
        """Look at what changes within a round."""
        for name, pid in pids.items():
            count = descriptors(pid)
            self._fewest[name] = min(count, self._fewest.get(name, count))

    def take(self, version: int, pids: Mapping[str, int]) -> None:
        """Look at all processes."""
        self.versions.append(version)
        for name, pid in pids.items():
            self.rss.setdefault(name, []).append(rss_bytes(pid))
            self.open_files.setdefault(name, []).append(self._fewest[name])
        self._fewest.clear()

    def windows(self) -> list[float]:
        """The median round, in ms, between each look and the one before."""
        return [
            1000 * median(self.times[v] - self.times[v - 1] for v in range(begin + 1, end + 1))
            for begin, end in pairwise((WARM_UP, *self.versions))
        ]
