"""Which algorithm a coordinator runs: its settings, and what they come to."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings

from coordinator_worker.aggregation import (
    Aggregator,
    ServerOptimizer,
    aggregator,
    server_optimizer,
)
from coordinator_worker.coordinator import FederatedCoordinator, Model
from coordinator_worker.quorum import Policy
from coordinator_worker.schedules import Schedule, schedule
from coordinator_worker.state import State
from shared.errors import ConfigError
from shared.layout import Weights
from shared.messages import LocalTraining

if TYPE_CHECKING:
    from coordinator_worker.settings import CoordinatorSettings


class LearningSettings(BaseSettings):
    """Flags of the algorithm, one for each part; docs/algorithms.md has them all."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "the algorithm (docs/algorithms.md)": ("aggregator",),
        "how clients train": ("learning_rate_schedule", "proximal", "local_clip_norm"),
    }

    aggregator: str = Field(
        "mean", description="what makes one delta of a round's updates, as NAME[:PARAMETER=VALUE,…]"
    )
    server_optimizer: str = Field(
        "sgd", description="how that delta moves the model, as NAME[:PARAMETER=VALUE,…]"
    )
    clip_norm: float | None = Field(
        None, gt=0, description="bound of an update's L2 norm; a longer one counts shortened"
    )
    average: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="keep a running mean of the versions, of which each round leaves this share,"
        " and end the run with it",
    )
    learning_rate_schedule: str = Field(
        "constant",
        description="factor on the clients' learning rate by version, as NAME[:PARAMETER=VALUE,…]",
    )
    proximal: float = Field(
        0.0, ge=0, description="FedProx's mu: holds local training near the global model"
    )
    local_clip_norm: float | None = Field(
        None, gt=0, description="bound of the L2 norm of each gradient in local training"
    )
    local_epochs: int | None = Field(None, ge=1, description="instead of the tasks' own")
    local_steps: int | None = Field(
        None, ge=1, description="train for so many steps a round instead of epochs"
    )
    scaffold: bool = Field(
        False, description="correct the drift of local training by control variates (SCAFFOLD)"
    )


@dataclass(frozen=True)
class Learning:
    """The parts of the algorithm, chosen and checked against each other."""

    aggregator: Aggregator
    optimizer: ServerOptimizer
    clip_norm: float | None
    average: float | None
    schedule: Schedule
    local: LocalTraining

    @classmethod
    def of(cls, settings: LearningSettings) -> "Learning":
        """What ``settings`` name; raises ConfigError."""
        if settings.local_epochs is not None and settings.local_steps is not None:
            raise ConfigError("--local-epochs and --local-steps: give one of them")
        local = LocalTraining(
            proximal=settings.proximal,
            clip_norm=settings.local_clip_norm,
            epochs=settings.local_epochs,
            steps=settings.local_steps,
            scaffold=settings.scaffold,
        )
        return cls(
            aggregator(settings.aggregator),
            server_optimizer(settings.server_optimizer),
            settings.clip_norm,
            settings.average,
            schedule(settings.learning_rate_schedule),
            local,
        )

    def policy(self, settings: "CoordinatorSettings") -> Policy:
        """When an update counts and when a round closes, for this algorithm.

        Raises ConfigError if a round could close with fewer updates than the aggregator needs.
        """
        least = self.aggregator.least
        if settings.quorum < least:
            raise ConfigError(
                f"--quorum {settings.quorum}: --aggregator {settings.aggregator} needs at least"
                f" {least} updates; raise the quorum, or let it reckon with fewer faulty clients"
            )
        if settings.deadline_s is not None and settings.min_quorum < least:
            raise ConfigError(
                f"--min-quorum {settings.min_quorum}: --aggregator {settings.aggregator} needs at"
                f" least {least} updates, also after the deadline"
            )
        return Policy(
            settings.quorum,
            settings.max_staleness,
            settings.staleness_exponent,
            settings.min_quorum,
            settings.staleness_hinge,
            self.aggregator.needs_local_steps,
            settings.max_examples,
        )

    def local_at(self, version: int) -> LocalTraining:
        """How clients are to train from ``version``."""
        return self.local.model_copy(update={"learning_rate_factor": self.schedule(version)})

    def initial(self, weights: Weights) -> Weights:
        """``weights`` with what else begins with them: control variates of zero."""
        layout = weights.layout
        if not self.local.scaffold or layout.controls_start < layout.size_bytes:
            return weights
        longer = Weights.empty(layout.with_controls)
        longer.buffer[: layout.size_bytes] = weights.buffer
        return longer

    def coordinator(self, model: Model, state: State) -> FederatedCoordinator:
        """The coordinator that goes on from ``state``; after a rollback with slots begun anew.

        Raises ConfigError if the run was begun with another algorithm that remembers other things.
        """
        has_controls = state.weights.layout.controls_start < state.weights.layout.size_bytes
        if has_controls != self.local.scaffold:
            raise ConfigError(
                f"the checkpoint's run was begun with{'' if has_controls else 'out'} --scaffold:"
                " go on so, or begin a run in another --checkpoint-dir"
            )
        settings: dict[str, Any] = {
            "aggregator": self.aggregator,
            "server_optimizer": self.optimizer,
            "clip_norm": self.clip_norm,
            "average": self.average,
        }
        fresh = FederatedCoordinator([model], **settings)
        anew = state.rolled_back is not None and not state.slots
        if state.version and not anew and fresh.slots.keys() != state.slots.keys():
            raise ConfigError(
                "the checkpoint's run was begun with another --server-optimizer, --aggregator or"
                f" --average (it holds {', '.join(state.slots) or 'no moments'}): go on so, or"
                " begin a run in another --checkpoint-dir"
            )
        if state.slots.keys() == fresh.slots.keys():
            fresh.slots = dict(state.slots)
        return fresh
