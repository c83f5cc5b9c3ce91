"""What pydantic finds wrong with a value, as a person says it: what was given, what is valid."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic_core import ErrorDetails

from warren_shared.config.command_line import nearest

LONGEST: Final = 40  # characters of a value that is quoted

_NUMBERS: Final = ("int_parsing", "int_type", "int_from_float", "int_parsing_size")
_FLOATS: Final = ("float_parsing", "float_type", "finite_number")


def _choices(context: Mapping[str, Any], given: str) -> str:
    known = re.findall(r"'([^']*)'", context["expected"])
    guess = nearest(given.lower(), known) or nearest(given.upper(), known)
    return f"there are {' and '.join(known) if len(known) < 3 else ', '.join(known)}{and_(guess)}"


_SAID: Final[Mapping[str, Callable[[Mapping[str, Any], str], str]]] = {
    "greater_than_equal": lambda context, _: f"the least is {context['ge']:g}",
    "greater_than": lambda context, _: f"has to be more than {context['gt']:g}",
    "less_than_equal": lambda context, _: f"the most is {context['le']:g}",
    "less_than": lambda context, _: f"has to be less than {context['lt']:g}",
    "literal_error": _choices,
    "bool_parsing": lambda *_: "write true or false",
    **dict.fromkeys(_NUMBERS, lambda *_: "write a whole number"),
    **dict.fromkeys(_FLOATS, lambda *_: "write a number"),
}


def complaint(place: str, error: ErrorDetails) -> str:
    """``--quorum 0: the least is 1``: where it stands, what was given, what is valid.

    The value of what may be a secret, or is too long, is not said.
    """
    given = f" {str(error['input'])[:LONGEST]}" if error["type"] in _SAID else ""
    return f"{place}{given}: {valid(error)}"


def valid(error: ErrorDetails) -> str:
    """``the least is 1``."""
    said = _SAID.get(error["type"])
    if said is None:
        return error["msg"].removeprefix("Value error, ")
    return said(error.get("ctx", {}), str(error["input"]))


def and_(guess: str) -> str:
    """``guess`` as the end of a line that says already what there is."""
    return f"; {guess}" if guess else ""
