"""What every settings class is, and what environment variables and bundles say to it.

This is the part of pydantic-settings that a worker needs. That package imports sources for cloud
services, command lines and YAML, which was 15 ms of each start.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict

PREFIX: Final = "WARREN_"


def _as_words(value: object) -> object:
    return (value,) if isinstance(value, str) else value  # the environment has room for one


# A flag that may be given more than once.
Words = Annotated[tuple[str, ...], BeforeValidator(_as_words)]


class Settings(BaseModel):
    """A pydantic model whose fields are settings; `warren_shared.config.settings.load` reads it."""

    model_config = ConfigDict(extra="ignore", validate_default=True)


def in_environment(kind: type[Settings]) -> dict[str, Any]:
    """The settings of ``kind`` that the environment sets."""
    return _named(kind, os.environ)


def in_bundle(kind: type[Settings], bundle: str | Path, encoding: str = "utf-8") -> dict[str, Any]:
    """The settings of ``kind`` that the file ``bundle`` sets; none if it is no file.

    Raises OSError or ValueError if it cannot be read.
    """
    return _named(kind, dotenv_values(bundle, encoding=encoding))


def _named(kind: type[Settings], variables: Mapping[str, str | None]) -> dict[str, Any]:
    """``variables`` by name of the setting; upper or lower case is the same in both."""
    known = {name.lower(): value for name, value in variables.items() if value is not None}
    return {
        name: known[variable]
        for name in kind.model_fields
        if (variable := f"{PREFIX}{name}".lower()) in known
    }
