"""How one round's local training is to go, beyond data and learning rate."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.layout import Array

LOCAL_STEPS: Final = "local_steps"  # the name, among fit's metrics, of how many steps it took


@dataclass(frozen=True)
class TrainingPlan:
    """What ``fit(data, learning_rate, guide)`` is given.

    A step from weights w with the gradient g of a mini-batch is w - learning_rate * d with

        d = clip(g) + proximal * (w - anchor) + correction

    clip(g) = g * min(1, clip_norm / ||g||), the norm over all tensors together. ``proximal`` and
    ``anchor``, the global model's weights, are FedProx's (Li et al. 2020, equation 2: the gradient
    of mu/2 ||w - anchor||^2); ``correction`` is SCAFFOLD's c - c_i (Karimireddy et al. 2020,
    equation 3). Both are arrays in the order of ``get_weights()``, not to be written to. ``steps``,
    counted in mini-batches, goes before ``epochs``, and both before what the model was made with.
    """

    anchor: Sequence[Array]
    proximal: float = 0.0
    correction: Sequence[Array] | None = None
    clip_norm: float | None = None
    epochs: int | None = None
    steps: int | None = None

    @classmethod
    def of(
        cls,
        local: LocalTraining,
        anchor: Sequence[Array],
        correction: Sequence[Array] | None = None,
    ) -> "TrainingPlan":
        """The guide of what the coordinator asks for."""
        return cls(
            anchor, local.proximal, correction, local.clip_norm, local.epochs, local.steps
        )  # fmt: skip

    def asked(self) -> list[str]:
        """Names of what is asked for; empty if training is to go as the task says."""
        names = ("proximal", "correction", "clip_norm", "epochs", "steps")
        return [name for name in names if getattr(self, name) not in (None, 0.0)]


def takes_plan(fit: Callable[..., Any]) -> bool:
    """Whether ``fit`` has a third parameter, or one that is called ``guide``."""
    try:
        parameters = list(inspect.signature(fit).parameters.values())
    except (TypeError, ValueError):
        return False
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(places) >= 3 and places[2].name == "guide"


def run_fit(
    fit: Callable[..., Any],
    data: Any,
    learning_rate: float,
    guide: TrainingPlan,
    reasons: Sequence[str],
) -> Any:
    """Call ``fit`` with the guide if it takes one.

    Raises ConfigError if it takes none and ``reasons`` say that one is needed.
    """
    if takes_plan(fit):
        return fit(data, learning_rate, guide)
    if reasons:
        raise ConfigError(
            f"training with {', '.join(reasons)} was asked for, and this model's fit takes no"
            " guide: give it a third parameter `guide` and heed it"
            " (client_worker.training.plan), or start the coordinator without"
        )
    return fit(data, learning_rate)
