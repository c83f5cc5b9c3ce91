"""A command line that says what is wrong with it in one line, with what was probably meant."""

from __future__ import annotations

import argparse
import difflib
import os
from typing import TYPE_CHECKING, Any, Final, NoReturn

from broker_config.errors import BrokerConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# What this command reads of the environment; workers read more.
VARIABLES: Final = (
    "WARREN_AMQP_ADDRESS", "WARREN_HOME", "WARREN_MANAGEMENT_PASSWORD", "WARREN_MANAGEMENT_URL",
)  # fmt: skip


class WrongArguments(BrokerConfigError):
    """The command line is wrong."""


class Parser(argparse.ArgumentParser):
    """Raises WrongArguments where argparse would print its usage and leave."""

    def error(self, message: str) -> NoReturn:
        """Say it in one line."""
        raise WrongArguments(f"{message.removeprefix('argument ')}; see --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            mend = _guess(str(value), known) or f"there are {', '.join(known)}"
            raise WrongArguments(f"unknown command {value}: {mend}; see --help")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """What ``argv`` says.

    Raises:
        WrongArguments: it has what the command does not know, or lacks something.
    """
    options, rest = parser.parse_known_args(argv)
    if rest:
        flag = rest[0].partition("=")[0]
        known = _flags(parser, options.command)
        raise WrongArguments(f"unknown option {flag}: {_guess(flag, known) or 'see --help'}")
    return options


def strays() -> list[str]:
    """A line for each variable that was probably meant as one of ours, and is none."""
    found = [name for name in os.environ if name.startswith("WARREN_") and name not in VARIABLES]
    guesses = {name: _guess(name, VARIABLES, cutoff=0.9) for name in found}
    return [f"{name} is no setting: {guess}" for name, guess in guesses.items() if guess]


def _guess(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"did you mean {near[0]}?" if near else ""


def _flags(parser: argparse.ArgumentParser, command: str) -> list[str]:
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    chosen = commands.choices[command]
    return [word for action in chosen._actions for word in action.option_strings]
