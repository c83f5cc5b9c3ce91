"""Which algorithm a coordinator runs: its settings, and what they come to."""

from dataclasses import dataclass
from typing import Any

from coordinator_worker.aggregation import Aggregator, ServerOptimizer, aggregator, server_optimizer
from coordinator_worker.aggregation.coordinator import MASTER, NOISE, FederatedCoordinator, Model
from coordinator_worker.aggregation.private_cohort import RoundNoise
from coordinator_worker.aggregation.schedules import Schedule, schedule
from coordinator_worker.aggregation.settings import AlgorithmSettings
from coordinator_worker.state.training_state import State
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.compression import RAW
from warren_shared.tensors.frozen import FROZEN_WEIGHTS
from warren_shared.tensors.layout import Weights


@dataclass(frozen=True)
class Algorithm:
    """The parts of the algorithm, chosen and checked against each other."""

    aggregator: Aggregator
    optimizer: ServerOptimizer
    clip_norm: float | None
    average: float | None
    schedule: Schedule
    local: LocalTraining
    downlink: str = RAW

    @classmethod
    def from_settings(cls, settings: AlgorithmSettings) -> "Algorithm":
        """What ``settings`` name; raises ConfigError."""
        if settings.local_epochs is not None and settings.local_steps is not None:
            raise ConfigError("--local-epochs and --local-steps: give one of them")
        local = LocalTraining(
            proximal=settings.proximal,
            clip_norm=settings.local_clip_norm,
            epochs=settings.local_epochs,
            steps=settings.local_steps,
            scaffold=settings.scaffold,
            exchange=settings.exchange,
        )
        return cls(
            aggregator(settings.aggregator),
            server_optimizer(settings.server_optimizer),
            settings.clip_norm,
            settings.average,
            schedule(settings.learning_rate_schedule),
            local,
            settings.downlink,
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

    def coordinator(
        self, model: Model, state: State, noise: RoundNoise | None = None
    ) -> FederatedCoordinator:
        """The coordinator that goes on from ``state``; after a rollback with its slots reset.

        Raises ConfigError if the run was begun with another algorithm that remembers other things.
        """
        has_controls = state.weights.layout.controls_start < state.weights.layout.size_bytes
        if has_controls != self.local.scaffold:
            raise ConfigError(
                f"the checkpoint's run was begun with{'' if has_controls else 'out'} --scaffold:"
                " go on so, or begin a run in another --checkpoint-dir"
            )
        check_exchange(self.local.exchange, state)
        settings: dict[str, Any] = {
            "aggregator": self.aggregator,
            "server_optimizer": self.optimizer,
            "clip_norm": self.clip_norm,
            "average": self.average,
            "downlink": self.downlink,
            "noise": noise,
        }
        fresh = FederatedCoordinator([model], **settings)
        known, wanted = (slots.keys() - {MASTER, NOISE} for slots in (state.slots, fresh.slots))
        anew = state.rolled_back is not None and not known
        if state.version and not anew and known != wanted:
            raise ConfigError(
                "the checkpoint's run was begun with another --server-optimizer, --aggregator or"
                f" --average (it holds {', '.join(sorted(known)) or 'no moments'}): go on so, or"
                " begin a run in another --checkpoint-dir"
            )
        if known == wanted:
            # The master of a run that goes on with a raw downlink is where its next round begins.
            fresh.slots = {**fresh.slots, **state.slots}
        elif NOISE in state.slots:
            fresh.slots[NOISE] = state.slots[NOISE]
        return fresh


def check_exchange(exchange: str, state: State) -> None:
    """Raise ConfigError if the run that ``state`` is of exchanges other tensors than that."""
    was_trainable = FROZEN_WEIGHTS in state.fixed_state
    if was_trainable and exchange == "all":
        raise ConfigError(
            "the checkpoint's run was begun with --exchange trainable, so its models lack what is"
            " frozen: go on so, or begin a run in another --checkpoint-dir"
        )
    if exchange == "trainable" and not was_trainable:
        raise ConfigError(
            "the checkpoint's run was begun with --exchange all, or with a file that names no"
            " frozen weights: go on so, or begin a run in another --checkpoint-dir (a file for"
            " --exchange trainable is made by `client-worker export --exchange trainable`)"
        )
