"""Adds masks up, in memory that is taken once."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keeper_worker.sums.rules import Plan
from warren_shared.privacy.mask import FIGURES, WEIGHTS, Ring, add_mask
from warren_shared.tensors.layout import Buffer
from warren_shared.tensors.ring import dtype_of


class Adder:
    """One sum at a time: ``begin``, perhaps noise, ``add``; its bytes are good until the next."""

    def __init__(self, on_progress: Callable[[], None] = lambda: None) -> None:
        self._memory: Buffer = np.empty(0, np.uint8)
        self._on_progress = on_progress

    def begin(self, plan: Plan) -> tuple[Buffer, Ring]:
        """All bytes of the answer, zeros, and of them the sum for the weights."""
        if self._memory.nbytes < plan.size_bytes:
            self._memory = np.empty(0, np.uint8)  # the old one first, or both would be there
            self._memory = np.empty(plan.size_bytes, np.uint8)
        buffer = self._memory[: plan.size_bytes]
        buffer[:] = 0
        dtype: Any = np.dtype(dtype_of(plan.ring)).newbyteorder("<")
        return buffer, buffer.view(dtype)[: plan.elements]

    def add(self, plan: Plan, buffer: Buffer) -> None:
        """Add the masks of ``plan`` to what ``begin`` gave."""
        dtype: Any = np.dtype(dtype_of(plan.ring)).newbyteorder("<")
        all_of_it = buffer.view(dtype)
        total = all_of_it[: plan.elements]
        for one, weight in plan.members:
            add_mask(total, one.seed, weight, WEIGHTS)
            self._on_progress()
        at = plan.elements
        for group in plan.groups:
            figures = all_of_it[at : at + group.elements]
            for one in group.members:  # once each: they are counts
                add_mask(figures, one.seed, stream=FIGURES)
            at += group.elements
