"""Training of which nobody can tell whether a record took part: DP-SGD on all records at once.

A step is w <- w - learning_rate * d with d = s / examples + proximal * (w - anchor), s the noisy
sum of the records' clipped gradients (Abadi et al. 2016, "Deep Learning with Differential Privacy",
algorithm 1, without sampling). Each record is once in each step.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast

import numpy as np

from client_worker.privacy.budget import StepBudget
from client_worker.privacy.release import GradientRelease
from client_worker.privacy.terms import RECORD_PRIVACY, Refused
from client_worker.training.descent import descend
from client_worker.training.plan import TrainingPlan
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import TRAINABLE, Array


class PrivateModel(Protocol):
    """What a TrainableModel needs besides to keep records private.

    It may also have ``why_not_private(data)``, which returns the reason if it cannot, or "";
    ``epochs``, the steps of a round if the coordinator asks for no other number (1 without it); and
    ``private_step(gradients, learning_rate)``, which takes a step with the noisy gradient (by
    default plain gradient descent), after ``begin_private()`` at the start of each round.
    """

    def get_weights(self) -> Sequence[Array]:
        """As TrainableModel's."""
        ...

    def set_weights(self, weights: Sequence[Array], /) -> object:
        """As TrainableModel's."""
        ...

    def per_example_gradients(self, data: Any, /) -> Array | Iterable[Array]:
        """Each record's gradient at the current weights: shape (records, parameters), or parts.

        Columns are the trainable weights, flattened, in the order of ``get_weights``. A row depends
        on its record and the weights and on nothing else, to the last bit, and a record has one
        row. That cannot be checked here, and the promise rests on it.
        """
        ...


def why_not_private(model: object, data: Any) -> str:
    """What keeps ``model`` from private training on ``data``, in words; empty if nothing does."""
    own = getattr(model, "why_not_private", None)
    if own is not None and (reason := str(own(data))):
        return reason
    if not hasattr(model, "per_example_gradients"):
        return (
            f"{type(model).__name__} has no per_example_gradients(data), which returns an array"
            " (records, parameters)"
        )
    return ""


def private_fit(
    model: object,
    data: Any,
    learning_rate: float,
    plan: TrainingPlan,
    budget: StepBudget,
    roles: Sequence[str],
) -> int:
    """Train ``model`` on ``data``; return how many steps it took.

    ``roles``: of each of its arrays. What the steps cost is on the disk before the first.

    Raises:
        Refused: no step is left, or the plan asks for what does not go together with privacy.
    """
    for name, words in NOT_PRIVATE.items():
        if name in plan.asked():
            raise Refused(f"{RECORD_PRIVACY}: {words}")
    private = cast("PrivateModel", model)
    places = [place for place, role in enumerate(roles) if role == TRAINABLE]
    arrays = [np.array(array) for array in private.get_weights()]
    sizes = [arrays[place].size for place in places]
    release = GradientRelease(budget.terms, sum(sizes), budget.random)
    steps = budget.spend(plan.steps or plan.epochs or _epochs(model))
    if hasattr(model, "begin_private"):
        model.begin_private()
    for _ in range(steps):
        rows = private.per_example_gradients(data)
        noisy = release.sum([rows] if isinstance(rows, np.ndarray) else rows)
        noisy /= budget.terms.examples
        arrays = [np.array(array) for array in private.get_weights()]
        chosen = [arrays[place] for place in places]
        gradients = [
            flat.reshape(array.shape).astype(array.dtype)
            for flat, array in zip(np.split(noisy, np.cumsum(sizes)[:-1]), chosen, strict=True)
        ]
        anchor = [plan.anchor[place] for place in places] if plan.proximal else []
        if hasattr(model, "private_step"):
            for gradient, weight, origin in zip(gradients, chosen, anchor, strict=False):
                gradient += plan.proximal * (weight - origin)
            model.private_step(gradients, learning_rate)
        else:
            descend(chosen, gradients, learning_rate, TrainingPlan(anchor, plan.proximal))
            private.set_weights(arrays)
    return steps


NOT_PRIVATE = {
    "clip_norm": "the coordinator bounds gradients of batches (--local-clip-norm), and here those"
    " of single records are bounded: start it without",
    "correction": "the coordinator runs with --scaffold, whose control variates would be made of"
    " noise: start it without",
}


def _epochs(model: object) -> int:
    epochs = getattr(model, "epochs", 1)
    if not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f"the model's epochs are {epochs!r}: a whole number from 1 on")
    return epochs
