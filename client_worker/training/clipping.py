"""A bound on how far one update goes."""

from math import isfinite, sqrt

import numpy as np

from warren_shared.tensors.layout import TRAINABLE, Weights


def clip(delta: Weights, norm: float) -> float:
    """Shorten ``delta`` in place to the L2 norm ``norm``, if its trainable tensors are longer.

    Returns how long they were. One that is not finite stays as it is: the coordinator decides what
    becomes of it.
    """
    runs = [
        delta.buffer[run.start : run.stop].view(run.dtype)
        for run in delta.layout.runs
        if run.role == TRAINABLE
    ]
    with np.errstate(over="ignore", invalid="ignore"):
        length = sqrt(sum(float(np.dot(values, values)) for values in runs))
    if isfinite(length) and length > norm:
        for values in runs:
            np.multiply(values, norm / length, out=values)
    return length
