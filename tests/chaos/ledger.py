"""The reckoning: what was confirmed, against what is in the model."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from coordinator_worker.aggregation.coordinator import MASTER
from coordinator_worker.storage import checkpoint
from tests.chaos.stage import CLIENTS, QUORUM, Stage
from warren_shared.tensors.compression import RAW
from warren_shared.tensors.layout import Array

NEAR: Final = 1e-9


@dataclass(frozen=True)
class Reckoning:
    """``lost``: confirmed and in no model; ``counted_twice``: more than once in it.

    ``unconfirmed_effects`` are fine: their client was killed before it could say so.
    ``two_models``: versions of which clients have seen more than one; ``sum_error``: what the
    ledger holds more than its rounds can have added.
    """

    rounds: int
    updates_confirmed: int
    lost: int
    counted_twice: int
    unconfirmed_effects: int
    two_models: int
    sum_error: float

    @property
    def is_exact(self) -> bool:
        """Whether every confirmed update had its effect, once."""
        return not (self.lost or self.counted_twice or self.two_models or self.sum_error)


def counts(stage: Stage) -> tuple[int, Array]:
    """Version and ledger of the newest checkpoint; all of it, where models come as changes."""
    state = checkpoint.load(stage.checkpoints)
    if state is None:
        return 0, np.zeros((len(CLIENTS), stage.plan.slots))
    return state.version, state.slots.get(MASTER, state.weights)[0]


def reckon(stage: Stage, before: Array, version: int, after: Array) -> Reckoning:
    """``before``: the ledger when the last regular round had closed, each with QUORUM updates;
    ``after``: when what was left in the queue had been folded in, one by one.
    """
    effects = np.rint(before * QUORUM) + np.rint(after - before)
    confirmed = np.zeros_like(effects)
    for index, name in enumerate(CLIENTS):
        for record in stage.crew.records(name):
            if record["action"] == "update_confirmed":
                confirmed[index, record["base_version"]] = 1
    # To a model that comes as changes 1 is added where about 0 is, and the difference sent.
    near = NEAR if stage.plan.downlink != RAW else 0.0
    exact = (abs(before * QUORUM - np.rint(before * QUORUM)) <= near).all()
    sum_error = abs(float(after.sum()) - version)
    return Reckoning(
        rounds=version,
        updates_confirmed=int(confirmed.sum()),
        lost=int(((confirmed == 1) & (effects < 1)).sum()),
        counted_twice=int((effects > 1).sum()),
        unconfirmed_effects=int(((confirmed == 0) & (effects == 1)).sum()),
        two_models=_two_models(stage.folder),
        sum_error=(sum_error if sum_error > near * version else 0.0) + (0.0 if exact else 1.0),
    )


def _two_models(folder: Path) -> int:
    """Versions that were more than one model; clients note what each model looks like."""
    digests = defaultdict(set)
    for path in folder.glob("seen-*.txt"):
        for line in path.read_text().splitlines():
            version, _, digest = line.partition(" ")
            if len(digest) == 16:  # a killed client may not have finished its line
                digests[version].add(digest)
    return sum(len(found) > 1 for found in digests.values())
