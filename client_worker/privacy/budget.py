"""How many noisy steps a site has left."""

import os
from typing import Protocol

from client_worker.privacy.terms import Random, RecordPrivacy, Refused


class StepBudget(Protocol):
    """Grants the steps of ``terms``; noise is made of ``random``, which is ``os.urandom``'s."""

    terms: RecordPrivacy
    random: Random

    def spend(self, steps: int) -> int:
        """Up to ``steps`` steps, which count as taken from now on, whatever becomes of them.

        Raises Refused if there are none.
        """
        ...


class MemoryBudget:
    """A budget that is forgotten with this process; another ``random`` is for experiments."""

    def __init__(self, terms: RecordPrivacy, random: Random = os.urandom) -> None:
        self.terms = terms
        self.random = random
        self.left = terms.steps

    def spend(self, steps: int) -> int:
        """As StepBudget's."""
        granted = min(steps, self.left)
        if granted < 1:
            raise Refused(f"all {self.terms.steps} steps of this site's budget are spent")
        self.left -= granted
        return granted


def budget_of(privacy: "str | RecordPrivacy | StepBudget | None") -> StepBudget | None:
    """What a user gives for ``record_privacy``, as a budget. Raises ConfigError."""
    if privacy is None:
        return None
    if isinstance(privacy, str):
        privacy = RecordPrivacy.parse(privacy)
    return MemoryBudget(privacy) if isinstance(privacy, RecordPrivacy) else privacy
