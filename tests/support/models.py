"""The least that is a model."""

from collections.abc import Sequence

from warren_shared.tensors.layout import Array


class Holder:
    """Has weights and nothing else."""

    def __init__(self, weights: Sequence[Array]) -> None:
        self._weights = list(weights)

    def get_weights(self) -> Sequence[Array]:
        return self._weights

    def set_weights(self, weights: Sequence[Array]) -> None:
        self._weights = [array.copy() for array in weights]
