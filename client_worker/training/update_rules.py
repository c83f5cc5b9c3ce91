"""What a client does with a global model: the update rules, functions of two tensors."""

from collections.abc import Callable
from typing import Any

from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Array

UpdateRule = Callable[[Array, Array], Any]  # (local tensor, global tensor) -> where training begins


def replace(local: Array, new: Array) -> Array:  # noqa: ARG001  # a rule has both
    """Training begins at the global model (McMahan et al. 2017, algorithm 1)."""
    return new


def interpolate(alpha: float) -> UpdateRule:
    """Training begins at (1 - ``alpha``) * w_local + ``alpha`` * w_global; 1 is ``replace``.

    w_local is what this client's last round of training ended with.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"interpolate({alpha}): alpha is between 0 and 1")

    def mix(local: Array, new: Array) -> Any:
        return (1 - alpha) * local + alpha * new

    return mix
