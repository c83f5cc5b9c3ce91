"""``parameter=value,…`` as a user writes it, for a function that takes these parameters."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from warren_shared.config.command_line import nearest
from warren_shared.config.validation_messages import valid
from warren_shared.errors import ConfigError

T = TypeVar("T")


def call(
    make: Callable[..., T], words: str, *, named: str, subject: str = "it", prefix: str = ""
) -> T:
    """What ``make`` returns for the parameters in ``words``.

    ``named`` is the flag with its value, as the user wrote it; ``subject`` what takes the
    parameters, and ``prefix`` what stands before them.

    Raises ConfigError for a parameter that is not known, is given twice or is missing, and for a
    value that ``make`` refuses (with ValueError).
    """
    parameters = inspect.signature(make, eval_str=True).parameters
    given: dict[str, Any] = {}
    for word in filter(None, words.split(",")):
        parameter, equals, text = word.partition("=")
        if not equals or parameter not in parameters:
            takes = ", ".join(parameters) or "no parameters"
            guess = nearest(parameter, parameters) if equals else ""
            hint = guess or f"write {prefix and 'NAME:'}PARAMETER=VALUE"
            raise ConfigError(f"{named}: {subject} takes {takes}; {hint}")
        if parameter in given:
            raise ConfigError(f"{named}: {parameter} is there twice")
        try:
            given[parameter] = TypeAdapter(parameters[parameter].annotation).validate_python(text)
        except ValidationError as error:
            said = valid(error.errors(include_url=False)[0])
            raise ConfigError(f"{named}: {parameter}: {said}") from None
    for parameter, facts in parameters.items():
        if facts.default is facts.empty and parameter not in given:
            raise ConfigError(
                f"{named}: {subject} needs {parameter}, as in {prefix}{parameter}=VALUE"
            )
    try:
        return make(**given)
    except ValueError as error:
        raise ConfigError(f"{named}: {error}") from None
