"""Writes docs/settings.md from the code; ``make settings`` runs it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parents[1]))

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from client_worker.settings import ClientSettings
from coordinator_worker.settings import CoordinatorSettings
from keeper_worker.settings import KeeperSettings
from warren_shared.config import command_line
from warren_shared.config.settings import WorkerSettings
from warren_shared.config.settings_model import Settings

ABOUT = """\
# Settings

Written by `make settings` from the code; a test fails when it is not current.

A worker takes each setting from the first of these that names it:

1. the command line: `--wait-broker-s 60`;
2. the environment: `WARREN_WAIT_BROKER_S=60`;
3. the bundle, lines of `WARREN_NAME=value`: `--env-file FILE` or `WARREN_ENV_FILE`;
4. the settings file, TOML: `--settings FILE` or `WARREN_SETTINGS`;
5. its default.

Keys of the settings file are the names below, with dashes or underscores. What all workers are
told stands above the sections, the rest in `[coordinator]`, `[client]` or `[keeper]`; one file will
do for all machines. The task's own arguments stand in `[client.task]`, beside its path, `task`.
`env-file` may name the bundle there. A key that there is not is refused, with the nearest that
there is.

```toml
wait-broker-s = 60
log-format = "json"

[coordinator]
quorum = 3
rounds = 20
config = ["seed=7"]

[client]
state-dir = "state"

[client.task]
task = "my_task:site"
seed = 7
```

`--config` is no file: it is what every client's task is told with the model, and has the
environment variable `WARREN_CONFIG`, with room for one `NAME=VALUE`. Secrets have no flag, since
everybody can read a command line; `broker-config` writes them into the bundles.
"""


def reference() -> str:
    """The whole document."""
    common = set(WorkerSettings.model_fields)
    parts = [ABOUT, "## All workers\n", *_tables(WorkerSettings, set())]
    parts += ["## `[coordinator]`\n", *_tables(CoordinatorSettings, common)]
    parts += ["## `[client]`\n", *_tables(ClientSettings, common)]
    parts += ["## `[keeper]`\n", *_tables(KeeperSettings, common)]
    return "\n".join(parts)


def _tables(kind: type[Settings], without: set[str]) -> Iterator[str]:
    for title, names in command_line.grouped(kind).items():
        rows = [_row(name, kind.model_fields[name]) for name in names if name not in without]
        if rows:
            yield f"### {title[0].upper()}{title[1:]}\n"
            yield "| key | value | default | what it does |\n| --- | --- | --- | --- |"
            yield "\n".join(rows) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    key = command_line.flag_of(name).removeprefix("--")
    default = "needed" if field.is_required() else _written(field.get_default())
    told = str(field.description).replace("|", "\\|")
    return f"| `{key}` | {_value(field)} | {default} | {told} |"


def _value(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    if command_line.choices(field):
        return " or ".join(f"`{choice}`" for choice in command_line.choices(field))
    if command_line.is_repeatable(field):
        return "list of texts"
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    words = {bool: "true or false", int: "whole number", float: "number", Path: "path", str: "text"}
    words[SecretStr] = "secret text"
    (kind,) = (kind for kind in kinds if kind is not type(None))
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bounds = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in signs.items()
        if hasattr(limit, name)
    ]
    return " ".join([words[kind], ", ".join(bounds)]).strip()


def _written(default: object) -> str:
    if default in (None, ()):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    sys.stdout.write(reference())
