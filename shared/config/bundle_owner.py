"""Whose bundle a program was given, before the broker refuses it in its own words."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

from warren_shared.errors import ConfigError
from warren_shared.naming import COORDINATOR_USER, KEEPER_USER, WATCHER_USER, speaks_for

CLIENT: Final = "client"
_STAFF: Final = {
    COORDINATOR_USER: "the coordinator's",
    WATCHER_USER: "the watcher's",
    KEEPER_USER: "the keeper's",
    "admin": "the administrator's",
}


def variables(bundle: str | Path | None) -> dict[str, str]:
    """Environment variables, and below them what ``bundle`` sets."""
    found: Mapping[str, str | None] = {}
    if bundle:
        found = dotenv_values(bundle, encoding="utf-8-sig", interpolate=False)
    return {name: value for name, value in found.items() if value} | dict(os.environ)


def owner_kind(user: str, given: Mapping[str, str]) -> str:
    """``coordinator``, ``watcher``, ``keeper``, ``admin`` or ``client``; "" if nothing tells.

    A broker that was not set up by ``broker-config`` may have users of any name, so a client is
    known by the variables that only a client's bundle has, never by its name alone.
    """
    if user in _STAFF:
        return user
    client, fleet = given.get("WARREN_CLIENT", ""), given.get("WARREN_FLEET", "")
    return CLIENT if user == fleet or speaks_for(user, client) else ""


def refuse_others(user: str, given: Mapping[str, str], *, allowed: str, whose: str) -> None:
    """Raise ConfigError if the bundle of ``user`` is of another kind than ``allowed``.

    Args:
        user: the broker user that the URL names.
        given: the variables that were set, by name.
        allowed: a kind of ``owner_kind``.
        whose: for whom the right bundle is, such as ``the coordinator``.
    """
    kind = owner_kind(user, given)
    if kind in ("", allowed):
        return
    owner = _STAFF.get(kind, f"that of the client or fleet {user!r}")
    right = "that of your client" if allowed == CLIENT else f"bundles/{allowed}.env"
    raise ConfigError(
        f"this bundle is {owner}, and {whose} needs its own: name {right} with --env-file"
    )
