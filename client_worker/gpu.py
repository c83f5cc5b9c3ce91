"""Which graphics cards this client may use: chosen before a framework looks for them."""

import os
import re
from typing import Final

from warren_shared.errors import ConfigError

NONE: Final = "none"
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_WANTED: Final = "WARREN_GPU_WANTED"  # of this process alone, for when the framework is there


def check_words(words: str) -> str:
    """``words`` as they are; raises ValueError if they name no cards."""
    if words != NONE and re.fullmatch(r"[0-9]{1,3}(,[0-9]{1,3})*", words) is None:
        raise ValueError(f"--gpu {words}: a card's number, several apart by commas, or none")
    return words


def choose(words: str | None) -> None:
    """Let frameworks that are imported from now on see these cards alone; None: as it is."""
    os.environ.pop(_WANTED, None)
    if words is None:
        return
    os.environ[VISIBLE] = "-1" if words == NONE else words
    if words != NONE:
        os.environ[_WANTED] = words
        # JAX takes three quarters of a card otherwise, and the second client on it finds no memory.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def check_seen(cards: int, framework: str) -> None:
    """Raise ConfigError if ``framework`` sees fewer ``cards`` than were asked for.

    It would train on the processor instead, twenty times as long, and say nothing.
    """
    wanted = os.environ.get(_WANTED)
    if wanted is None or cards >= len(wanted.split(",")):
        return
    raise ConfigError(
        f"--gpu {wanted}: {framework} sees {cards or 'no'} card{'s' * (cards != 1)} here; look at"
        f" `nvidia-smi` and at the {framework} that is installed, or leave --gpu out"
    )
