"""The round in progress: its sum, and everything that will be said about it."""

import time
from collections.abc import Mapping
from typing import Any, Final

from coordinator_worker.fold import WeightedSum
from coordinator_worker.intake import Arrival
from shared.layout import Layout, Weights
from shared.messages import UpdateManifest

NONE: Final[Mapping[str, int]] = {}


def weighted_means(reports: Mapping[str, tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """Mean of each metric over the clients that report it, weighted by numbers of examples.

    ``reports``: client -> (number of examples, metrics). Right for losses and error rates; a mean
    of AUCs is a mean of AUCs, not the AUC of all.
    """
    sums: dict[str, list[float]] = {}
    for examples, metrics in reports.values():
        for name, value in metrics.items():
            total = sums.setdefault(name, [0.0, 0.0])
            total[0] += examples * value
            total[1] += examples
    return {name: total / examples for name, (total, examples) in sums.items()}


class Round:
    """Updates folded since the last version; ``memory`` is reused for their sum if given."""

    def __init__(self, layout: Layout, memory: Weights | None = None) -> None:
        self.sum = WeightedSum(layout, memory)
        self.tags: list[int] = []
        self.contributions: list[tuple[str, int]] = []
        self.examples: list[tuple[str, int]] = []
        self._reports: dict[str, tuple[float, Mapping[str, float]]] = {}
        self._bytes_up = 0
        self._began = time.monotonic()

    @property
    def updates(self) -> int:
        """How many updates are in the sum."""
        return self.sum.count

    def fold(self, arrival: Arrival) -> None:
        """Fold a whole update in; its deliveries now belong to this round."""
        manifest = arrival.manifest
        if not isinstance(manifest, UpdateManifest):
            raise TypeError(f"{manifest.kind} is not an update")
        self.sum.add_chunks(arrival.chunks(), arrival.weight)
        arrival.release()
        self.tags += arrival.tags
        self.contributions.append((manifest.client, manifest.base_version))
        self.examples.append((manifest.client, manifest.num_examples))
        self._reports[manifest.client] = (manifest.num_examples, manifest.metrics)
        self._bytes_up += manifest.size_bytes

    def record(
        self, version: int, incomplete: int = 0, rejected: Mapping[str, int] = NONE
    ) -> dict[str, Any]:
        """What the history and the event say of this round, which made ``version``.

        ``incomplete``: updates that were dropped half-way; ``rejected``: how many, by reason.
        """
        return {
            "version": version,
            "updates": self.updates,
            "incomplete": incomplete,
            "rejected": dict(rejected),
            "clients": {
                client: {"examples": examples, "metrics": dict(metrics)}
                for client, (examples, metrics) in self._reports.items()
            },
            "metrics": weighted_means(self._reports),
            "bytes_up": self._bytes_up,
            "seconds": time.monotonic() - self._began,
        }
