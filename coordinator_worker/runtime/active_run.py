"""A training run that has a model: the four objects that begin together."""

from dataclasses import dataclass, replace
from typing import Self

from coordinator_worker.aggregation.coordinator import AnyCohort, FederatedCoordinator
from coordinator_worker.aggregation.masked_cohort import MaskedCohort, Masking
from coordinator_worker.aggregation.private_cohort import RoundNoise
from coordinator_worker.rounds.round import Round
from coordinator_worker.runtime.model_publisher import ModelPublisher
from coordinator_worker.state.training_state import State
from warren_shared.tensors.layout import Weights


@dataclass(eq=False)
class ActiveRun:
    """``state`` is its newest version, ``round`` the open one.

    ``publisher`` sends models to the clients, ``coordinator`` computes them. ``share``: the most
    that one client weighs in a round's metrics; ``alone``: only this coordinator changes the model;
    ``noise`` is that of a private run, ``masking`` that of one whose updates are masked.
    """

    state: State
    publisher: ModelPublisher
    coordinator: FederatedCoordinator
    share: float
    alone: bool
    noise: RoundNoise | None
    masking: Masking | None
    round: Round

    @classmethod
    def begin(
        cls,
        state: State,
        publisher: ModelPublisher,
        coordinator: FederatedCoordinator,
        *,
        share: float,
        alone: bool,
        noise: RoundNoise | None = None,
        masking: Masking | None = None,
    ) -> Self:
        """A run that goes on from ``state``, with its first round open."""
        state = replace(state, slots=coordinator.slots)
        first = Round(_cohort(coordinator, state, None, masking, alone=alone), share)
        return cls(state, publisher, coordinator, share, alone, noise, masking, first)

    def begin_round(self, memory: Weights | None = None) -> None:
        """Open the next round, whose sum may take ``memory``."""
        cohort = _cohort(self.coordinator, self.state, memory, self.masking, alone=self.alone)
        self.round = Round(cohort, self.share)

    def begin_round_again(self) -> None:
        """Drop the updates of the open round: the broker delivers them again, here or elsewhere."""
        self.round.cohort.release()
        self.begin_round(self.round.cohort.sum.total)


def _cohort(
    coordinator: FederatedCoordinator,
    state: State,
    memory: Weights | None,
    masking: Masking | None,
    *,
    alone: bool,
) -> AnyCohort:
    """What gathers a round's updates; its sum may take ``memory``."""
    if masking is not None:
        return MaskedCohort(state.weights.layout, masking, memory)
    return coordinator.begin(memory, state.weights, alone=alone)
