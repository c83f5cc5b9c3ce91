"""The settings file: TOML, keys named as the flags, one file for all workers.

wait-broker-s = 60              # common: all workers are told

[coordinator]
quorum = 3

[client.task]
task = "my_task:clinic"         # --task; all others are the task's own arguments
data = "patients.csv"
"""

import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from warren_shared.config.command_line import nearest
from warren_shared.config.settings_model import Settings
from warren_shared.errors import ConfigError

SECTIONS: Final = ("coordinator", "client", "keeper")
BUNDLE: Final = "env_file"


@dataclass
class SettingsFile:
    """What one worker takes from the file.

    ``values`` by name of the setting, ``places`` where each stands, as an error message says it;
    ``task`` has the task's own arguments as command line words.
    """

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    task: list[str] = field(default_factory=list)


def read(path: str, kind: type[Settings], common: Collection[str]) -> SettingsFile:
    """What ``path`` says to ``kind``; ``common`` are the settings that stand above the sections.

    A worker's settings have a ``SECTION``, and refuse whatever they do not know in it; a command
    that is told less than the worker passes over the rest.

    Raises ConfigError, in one line that names the file: it cannot be read, is no TOML, or has a
    key that there is not.
    """
    tables = _tables(path)
    section = str(getattr(kind, "SECTION", ""))
    found = SettingsFile()
    top = {key: value for key, value in tables.items() if key not in SECTIONS}
    own = tables.get(section, {})
    for name in SECTIONS:
        if not isinstance(tables.get(name, {}), dict):
            raise ConfigError(f"--settings {path}: {name} is a section: write [{name}]")
    own_names = {*kind.model_fields, BUNDLE}
    for name, place, value in _entries(path, "", top):
        if name not in {*common, BUNDLE}:
            raise ConfigError(_unknown_on_top(place, name, section, own_names, common))
        _put(found, kind, name, place, value)
    is_worker = set(common) <= own_names
    for name, place, value in _entries(path, section, own):
        if name == "task" and isinstance(value, dict):
            _put_task(found, kind, path, value)
        elif name in own_names:
            _put(found, kind, name, place, value)
        elif is_worker:
            raise ConfigError(_unknown(place, name, own_names))
    return found


def _tables(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"--settings {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # of TOML, and of UTF-8
        raise ConfigError(f"--settings {path} is not TOML: {error}") from None


def _entries(path: str, section: str, table: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Name, place and value of each; one that is there under both spellings is refused."""
    seen = set()
    for key, value in table.items():
        name, place = key.replace("-", "_"), _place(path, section, key)
        if name in seen:
            raise ConfigError(f"{place} is there twice, with - and with _: keep one")
        seen.add(name)
        yield name, place, value


def _place(path: str, section: str, key: str) -> str:
    return f"{path}: [{section}] {key.replace('_', '-')}" if section else f"{path}: {key}"


def _unknown_on_top(
    place: str, name: str, section: str, own: Collection[str], common: Collection[str]
) -> str:
    if name in own:
        return f"{place} belongs into [{section}]: all workers are told what stands above"
    return _unknown(place, name, common)


def _unknown(place: str, name: str, known: Collection[str]) -> str:
    hint = nearest(name, [one.replace("_", "-") for one in known])
    return f"{place} is no setting: {hint or 'see --help'}"


def _put(found: SettingsFile, kind: type[Settings], name: str, place: str, value: Any) -> None:
    if name != BUNDLE and name not in kind.model_fields:
        return  # the file is for others as well
    known = kind.model_fields.get(name)
    if isinstance(value, bool) and (known is None or known.annotation is not bool):
        raise ConfigError(f"{place}: true and false are no values of it")  # pydantic: 1 and 0
    found.values[name], found.places[name] = value, place


def _put_task(
    found: SettingsFile, kind: type[Settings], path: str, table: Mapping[str, Any]
) -> None:
    for name, place, value in _entries(path, "client.task", table):
        if name == "task":
            _put(found, kind, name, place, value)
        elif isinstance(value, str | int | float):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            found.task.append(f"--{name.replace('_', '-')}={text}")
        else:
            raise ConfigError(f"{place}: a task's argument is text, a number, true or false")
