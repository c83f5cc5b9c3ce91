"""Algorithms by name: ``NAME`` or ``NAME:parameter=value,…`` as a user writes them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from warren_shared.config.command_line import nearest
from warren_shared.config.validation_messages import and_, valid
from warren_shared.errors import ConfigError

T = TypeVar("T")


def choose(kind: str, spec: str, known: Mapping[str, Callable[..., T]]) -> T:
    """What ``spec`` names among ``known``; ``kind`` is the flag that it was given to.

    Raises ConfigError for a name or a parameter that is not known, for one that is missing, and
    for a value that the algorithm refuses (with ValueError).
    """
    name, _, rest = spec.partition(":")
    make = known.get(name)
    if make is None:
        guess = and_(nearest(name, known))
        raise ConfigError(f"--{kind} {name}: there are {', '.join(sorted(known))}{guess}")
    parameters = inspect.signature(make, eval_str=True).parameters
    given: dict[str, Any] = {}
    for word in filter(None, rest.split(",")):
        parameter, equals, text = word.partition("=")
        if not equals or parameter not in parameters:
            takes = ", ".join(parameters) or "no parameters"
            guess = nearest(parameter, parameters) if equals else ""
            hint = guess or "write NAME:PARAMETER=VALUE"
            raise ConfigError(f"--{kind} {spec}: {name} takes {takes}; {hint}")
        try:
            given[parameter] = TypeAdapter(parameters[parameter].annotation).validate_python(text)
        except ValidationError as error:
            said = valid(error.errors(include_url=False)[0])
            raise ConfigError(f"--{kind} {spec}: {parameter}: {said}") from None
    for parameter, facts in parameters.items():
        if facts.default is facts.empty and parameter not in given:
            raise ConfigError(f"--{kind} {spec}: {name} needs {parameter}, as in"
                              f" {name}:{parameter}=VALUE")  # fmt: skip
    try:
        return make(**given)
    except ValueError as error:
        raise ConfigError(f"--{kind} {spec}: {error}") from None
