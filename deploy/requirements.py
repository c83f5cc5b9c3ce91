"""Print what pyproject.toml needs, and with the extras that are named: for the Dockerfile."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], *extras: str) -> list[str]:
    """The requirements of ``project`` and its ``extras``, those that an extra names included."""
    found = list(project["dependencies"])
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[([\w,-]+)\]", line)
            more = requirements(project, *own[1].split(",")) if own else [line]
            found += [one for one in more if one not in found]
    return found


if __name__ == "__main__":
    told = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    print("\n".join(requirements(told, *sys.argv[1:])))  # noqa: T201
