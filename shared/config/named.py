"""Algorithms by name: ``NAME`` or ``NAME:parameter=value,…`` as a user writes them."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from warren_shared.config import parameters
from warren_shared.config.command_line import nearest
from warren_shared.config.validation_messages import and_
from warren_shared.errors import ConfigError

T = TypeVar("T")


def choose(kind: str, spec: str, known: Mapping[str, Callable[..., T]]) -> T:
    """What ``spec`` names among ``known``; ``kind`` is the flag that it was given to.

    Raises ConfigError for a name that is not known, and for its parameters as
    `warren_shared.config.parameters` says.
    """
    name, _, rest = spec.partition(":")
    make = known.get(name)
    if make is None:
        guess = and_(nearest(name, known))
        raise ConfigError(f"--{kind} {name}: there are {', '.join(sorted(known))}{guess}")
    return parameters.call(make, rest, named=f"--{kind} {spec}", subject=name, prefix=f"{name}:")
