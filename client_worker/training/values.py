"""The numbers that a task gives, checked before anything is trained."""

from math import isfinite
from operator import index
from typing import Any

from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import MAX_EXAMPLES


def whole_examples(value: Any) -> int:
    """Return ``num_examples`` as a plain int; a whole float such as 20.0 is one.

    Raises ConfigError if it is no whole number from 1 to MAX_EXAMPLES.
    """
    found = number("num_examples", value)
    if not found.is_integer() or not 1 <= found <= MAX_EXAMPLES:
        raise ConfigError(f"num_examples is {value}; an update needs at least one: give a whole"
                          " number")  # fmt: skip
    try:
        return index(value)
    except TypeError:
        return int(found)


def positive(name: str, value: Any) -> float:
    """Return ``value`` as a plain float. Raises ConfigError if it is not finite and above 0."""
    found = number(name, value)
    if found <= 0:
        raise ConfigError(f"{name} is {value}: give a number above 0")
    return found


def number(name: str, value: Any) -> float:
    """Return ``value`` as a plain float. Raises ConfigError if it is no finite number."""
    shape = getattr(value, "shape", ())
    if isinstance(value, str | bytes) or callable(shape) or tuple(shape):
        raise ConfigError(f"{name} is a {type(value).__name__}: give a number")
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name} is a {type(value).__name__}: give a number") from None
    if not isfinite(found):
        raise ConfigError(f"{name} is {found}: give a finite number")
    return found
