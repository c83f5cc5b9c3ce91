"""A step of gradient descent in numpy."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from client_worker.training.plan import TrainingPlan
from warren_shared.tensors.layout import Array


def descend(
    weights: Sequence[Array], gradients: Sequence[Array], learning_rate: float, guide: TrainingPlan
) -> None:
    """One step in place, w <- w - learning_rate * d, d as in TrainingPlan; spends ``gradients``."""
    if guide.clip_norm is not None:
        norm = sqrt(sum(float(np.vdot(array, array)) for array in gradients))
        if norm > guide.clip_norm:
            for array in gradients:
                array *= guide.clip_norm / norm
    for place, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        if guide.proximal:
            gradient += guide.proximal * (weight - guide.anchor[place])
        if guide.correction is not None:
            gradient += guide.correction[place]
        gradient *= learning_rate
        weight -= gradient
