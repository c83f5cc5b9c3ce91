"""The same updates for every contestant, in whatever process it runs: numbers from a seed."""

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

TENSORS: Final = 4
EXAMPLES: Final = 1000


def flat(number: int, size_bytes: int) -> "npt.NDArray[Any]":
    """Update ``number`` as one float32 array of ``size_bytes``, centred on zero."""
    drawn = np.random.default_rng(number).random(size_bytes // 4, np.float32)
    return np.subtract(drawn, np.float32(0.5), out=drawn)


def tensors(update: "npt.NDArray[Any]") -> list["npt.NDArray[Any]"]:
    """The tensors of a flat update, which are views of it."""
    return np.split(update, TENSORS)


def examples(number: int) -> int:
    """How many examples stand behind update ``number``: its weight, never 1."""
    return EXAMPLES + 7 * number
