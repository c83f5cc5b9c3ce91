"""The command line of a settings model: a flag for each setting, grouped, with help to read."""

import argparse
import difflib
import textwrap
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NoReturn, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from warren_shared.config.settings_model import Settings
from warren_shared.errors import ConfigError
from warren_shared.version import release

OTHERS: Final = "options"  # heading of settings that no group names

EPILOG: Final = """\
Where settings come from, the first that names one wins: the command line, the environment
(--wait-broker-s is WARREN_WAIT_BROKER_S), the --env-file, the --settings file (TOML, keys named as
the flags; docs/settings.md). --config is no file: it is what the federation's tasks are told.

exit codes: 0 done, or asked to stop; 1 the broker is not there or refuses, or a check failed;
2 the input is wrong; anything else is a bug, and starting again is right
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all of our errors do, and not the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message.removeprefix('argument ')}; see --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise unknown_command(str(value), [str(choice) for choice in action.choices])


def unknown_command(name: str, known: Collection[str]) -> ConfigError:
    """Of a subcommand that is none of the ``known``."""
    hint = nearest(name, known) or f"there are {', '.join(known)}"
    return ConfigError(f"unknown command {name}: {hint}; see --help")


def unknown_option(word: str, known: Iterable[str]) -> ConfigError:
    """Of ``word``, which is none of the ``known`` flags, with or without ``=VALUE``."""
    flag = word.partition("=")[0]
    return ConfigError(f"unknown option {flag}: {nearest(flag, known) or 'see --help'}")


class _Version(argparse.Action):
    """Prints which release this is, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"{parser.prog} {release()}")  # noqa: T201
        parser.exit()


class _Help(argparse.Action):
    """Prints the help with the settings in ``const`` alone, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        for action in parser._actions:
            if action.dest not in self.const:
                action.help = argparse.SUPPRESS
        parser.print_help()
        parser.exit()


def _add_help(made: argparse.ArgumentParser, common: Collection[str]) -> None:
    """``--help`` with what most people set, ``--help-all`` with every setting."""
    shown = ("help", "help_all", "version", "env_file", "settings", "broker_url", *common)
    made.add_argument(
        "-h", "--help", action=_Help, nargs=0, const=shown,
        help="show commands and the most common settings, and exit",
    )  # fmt: skip
    made.add_argument("--help-all", action="help", help="show all settings, and exit")


def add_version(made: argparse.ArgumentParser) -> None:
    """Give a program's parser ``--version``."""
    made.add_argument("--version", action=_Version, nargs=0, help="show the release and exit")


def flag_of(name: str) -> str:
    """The flag of the setting ``name``; ``json_`` is one that a model has a method for."""
    return "--" + name.rstrip("_").replace("_", "-")


def has_flag(field: FieldInfo) -> bool:
    """Whether a setting may stand on the command line, which everybody can read."""
    return SecretStr not in get_args(field.annotation)


def flags(kind: type[Settings]) -> list[str]:
    """All flags of ``kind``."""
    named = [flag_of(name) for name, field in kind.model_fields.items() if has_flag(field)]
    return ["--settings", "--env-file", *named]


def nearest(name: str, known: Iterable[str], cutoff: float = 0.7) -> str:
    """A question about what ``name`` was to be; the user means an existing name."""
    by_word = {_word(one): one for one in known}
    near = difflib.get_close_matches(_word(name), by_word, n=1, cutoff=cutoff)
    return f"did you mean {by_word[near[0]]}?" if near else ""


def _word(name: str) -> str:
    return name.removeprefix("--").replace("_", "-")


def grouped(kind: type[Settings]) -> dict[str, list[str]]:
    """The settings of ``kind`` under the headings that its classes' ``GROUPS`` give them.

    One that no group names stands where the one before it in its class does.
    """
    heading = {
        name: title
        for base in reversed(kind.__mro__)
        for title, names in getattr(base, "GROUPS", {}).items()
        for name in names
    }
    found: dict[str, list[str]] = {}
    last = OTHERS
    for name in kind.model_fields:
        last = heading.get(name, last)
        found.setdefault(last, []).append(name)
    return found


def parser(
    kind: type[Settings],
    description: str,
    own: argparse.ArgumentParser | None = None,
    commands: Mapping[str, str] | None = None,
) -> argparse.ArgumentParser:
    """A parser for the settings of ``kind``; what is not given is None."""
    about = textwrap.fill(description, 80)
    made = Parser(
        prog=own.prog if own else None,
        usage=f"%(prog)s {'[COMMAND] ' if commands else ''}[OPTION ...]",
        description=f"{about}\n\n{listing(commands)}" if commands else about,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[own] if own else [],
        add_help=not commands,
    )
    if commands:
        _add_help(made, getattr(kind, "COMMON", ()))
        add_version(made)
    add(made, kind)
    return made


def add(made: argparse.ArgumentParser, kind: type[Settings]) -> None:
    """Add the flags of ``kind`` to a parser, grouped."""
    files = made.add_argument_group("where settings come from")
    files.add_argument("--settings", metavar="FILE", help="read settings from a TOML file")
    files.add_argument(
        "--env-file", metavar="FILE", help="read settings from FILE, lines of WARREN_NAME=value"
    )
    for title, names in grouped(kind).items():
        group = made.add_argument_group(title)
        for name in names:
            if has_flag(kind.model_fields[name]):
                _add(group, name, kind.model_fields[name])


def listing(commands: Mapping[str, str]) -> str:
    """``commands`` and what they are for, as they stand in the help."""
    width = max(map(len, commands))
    return "\n".join(["commands:", *(f"  {name:{width}}  {commands[name]}" for name in commands)])


def _add(group: Any, name: str, field: FieldInfo) -> None:
    text = f"{field.description}{default_of(field)}".replace("%", "%%")
    if field.annotation is bool:
        # --no-NAME switches off what a file or the environment has switched on.
        group.add_argument(
            flag_of(name),
            action=argparse.BooleanOptionalAction,
            default=None,
            dest=name,
            help=text,
        )
    elif is_repeatable(field):
        group.add_argument(flag_of(name), action="append", metavar=_word_of(field), help=text)
    else:
        metavar = "|".join(choices(field)) or name.rpartition("_")[2].upper()
        group.add_argument(flag_of(name), metavar=metavar, dest=name, help=text)


def _word_of(field: FieldInfo) -> str:
    """What each word of a flag that may be repeated is."""
    told = field.json_schema_extra
    return str(told["metavar"]) if isinstance(told, Mapping) else "NAME=VALUE"


def is_repeatable(field: FieldInfo) -> bool:
    """Whether a flag may be given more than once."""
    return str in get_args(field.annotation) and ... in get_args(field.annotation)


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The words that a setting may be, if it is one of a few."""
    options = get_args(field.annotation)
    return options if all(isinstance(option, str) for option in options) else ()


def default_of(field: FieldInfo) -> str:
    """What help says about the default; nothing if that is none."""
    default: Any = field.get_default()
    return "" if default in (None, (), False) or field.is_required() else f" (default: {default})"
