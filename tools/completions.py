"""Writes deploy/completions.bash, what bash completes of our commands, for ``make settings``.

The words are those of the very parsers that read the command lines.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

import client_worker.cli
import coordinator_worker.cli
import keeper_worker.cli
from broker_config.cli import _parser as broker_parser
from broker_config.cli import subcommands

FILE = Path(__file__).parents[1] / "deploy" / "completions.bash"
HEAD = """\
# Completes the commands of Warren and their flags in bash: source it, or copy it into
# /etc/bash_completion.d. In zsh: autoload -U +X bashcompinit && bashcompinit, then source it.
# Written by `make settings`.
"""
FUNCTION = """
_{name}() {{
  local words
  case "${{COMP_WORDS[1]}}" in
{cases}
    *) words="{main}" ;;
  esac
  [ "$COMP_CWORD" -gt 1 ] || words="{first}"
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _{name} {program}
"""
Main = Callable[[list[str]], int]


class _Built(BaseException):
    """Has the parser that was about to print its help."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _shown(parser: argparse.ArgumentParser, _file: object = None) -> None:
    raise _Built(parser)


def _parser_of(main: Main, *words: str) -> argparse.ArgumentParser:
    with patch.object(argparse.ArgumentParser, "print_help", _shown):
        try:
            main([*words])
        except _Built as built:
            return built.parser
    raise AssertionError(f"{words} shows no help")


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    every = [word for action in parser._actions for word in action.option_strings]
    return sorted(word for word in every if word.startswith("--"))


def _programs() -> Iterator[tuple[str, list[str], dict[str, list[str]]]]:
    """Each program, the flags that it takes without a command, and those of its commands."""
    under = {name: _flags(parser) for name, parser in subcommands(broker_parser()).items()}
    yield "broker-config", ["--help", "--version"], under
    for module in (client_worker.cli, coordinator_worker.cli, keeper_worker.cli):
        main, known = module.main, module.COMMANDS
        # The demo is asked for its flags by TensorFlow's long start alone.
        under = {
            name: _flags(_parser_of(main, name, "--help")) if name != "demo" else ["--help"]
            for name in known
        }
        program = module.__name__.partition(".")[0].replace("_", "-")
        yield program, _flags(_parser_of(main, "--help-all")), under


def completions() -> str:
    """The file."""
    text = HEAD
    for program, flags, under in _programs():
        text += FUNCTION.format(
            name=program.replace("-", "_"),
            program=program,
            cases="\n".join(f'    {name}) words="{" ".join(w)}" ;;' for name, w in under.items()),
            main=" ".join(flags),
            first=" ".join([*under, *flags]),
        )
    return text


if __name__ == "__main__":
    FILE.write_text(completions())
