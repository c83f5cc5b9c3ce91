"""A model as one vector, for those who look at it as a point in space."""

from collections.abc import Sequence

import numpy as np

from warren_shared.tensors.layout import Array


def flat(arrays: Sequence[Array]) -> Array:
    """All of ``arrays`` as one vector (a copy)."""
    return np.concatenate([np.ravel(array) for array in arrays])


def shaped(vector: Array, like: Sequence[Array]) -> list[Array]:
    """``vector`` cut into arrays of the shapes of ``like``, as views."""
    ends = np.cumsum([array.size for array in like])
    parts = np.split(vector, ends[:-1])
    return [part.reshape(array.shape) for part, array in zip(parts, like, strict=True)]
