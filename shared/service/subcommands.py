"""A program with commands beside its main job; each is a module that is imported when called."""

import io
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from keyword import iskeyword

from warren_shared.config.command_line import unknown_command
from warren_shared.service import lifecycle


def print_anything() -> None:
    """Print ``?`` for a letter that standard output's encoding lacks, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def run(
    program: str,
    package: str,
    known: Mapping[str, str],
    main: Callable[[list[str]], int | None],
    argv: list[str] | None,
) -> int:
    """Call ``run(argv)`` of the module in ``package`` that the first word names, else ``main``.

    ``known`` says in a few words what each command is for. Returns the exit code.
    """
    print_anything()
    words = sys.argv[1:] if argv is None else argv
    name = words[0] if words else ""
    if name in known:
        word = name.replace("-", "_")
        module = import_module(f"{package}.{word}{'_' if iskeyword(word) else ''}")
        return lifecycle.run(f"{program} {name}", lambda: _while_read(module.run, words[1:]))
    if name and not name.startswith("-"):
        return lifecycle.run(program, lambda: _refuse(name, known))
    return lifecycle.run(program, lambda: main(words))


def _while_read(run: Callable[[list[str]], None], words: list[str]) -> None:
    try:
        run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # `… --json | head`; Python would complain again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(name: str, known: Mapping[str, str]) -> None:
    raise unknown_command(name, known)
