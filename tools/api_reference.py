"""Writes docs/reference.md from docstrings and commands; ``make settings`` runs it."""

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from broker_config.cli import _parser as broker_parser
from broker_config.cli import subcommands
from client_worker.cli import COMMANDS as CLIENT
from coordinator_worker.cli import COMMANDS as COORDINATOR
from keeper_worker.cli import COMMANDS as KEEPER

ABOUT = """\
# Reference

Written by `make settings` from docstrings; a test fails when it is not current. Settings have
[a page of their own](settings.md), algorithms [another](algorithms.md).
"""
JSON = """\
Each explains its flags with `--help`. With `--json`, those that list or check something print one
JSON object a line, and nothing else on standard output; a number that is not finite is null. The
exit code is the same with and without. In bash or zsh, `source deploy/completions.bash` completes
commands and flags.
"""
MODULES = {
    "warren_fl": None,
    "warren_fl.curve": ["Curve"],
    "client_worker": None,  # None: what the module says is public
    "client_worker.models": None,
    "client_worker.partition": ["iid", "shards", "by_column", "dirichlet"],
    "client_worker.tasks.feature_statistics": None,
    "coordinator_worker": None,
    "warren_shared.tensors.update": ["Update"],
    "warren_shared.tensors.evaluation": ["Evaluation", "of_scores", "of_classes"],
    "warren_shared.errors": None,
}
PROPERTIES = (property, functools.cached_property)
PROGRAMS = {
    "coordinator-worker": ("coordinate a federation", COORDINATOR),
    "client-worker": ("take part in one", CLIENT),
    "keeper-worker": ("keep the seeds of masked updates", KEEPER),
}


def reference() -> str:
    """The whole document."""
    return "\n".join([ABOUT, *_commands(), *(part for name in MODULES for part in _module(name))])


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield JSON
    yield "| command | what it is for |\n| --- | --- |"
    for program, (main, commands) in PROGRAMS.items():
        yield f"| `{program}` | {main} |"
        yield from (f"| `{program} {name}` | {about} |" for name, about in commands.items())
    for name, parser in subcommands(broker_parser()).items():
        about = str(parser.description).rstrip(".")
        yield f"| `broker-config {name}` | {about[0].lower()}{about[1:]} |"
    yield ""


def _module(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    yield f"## `{name}`\n"
    yield f"{_text(module)}\n"
    for attribute in MODULES[name] or _public(module):
        found = getattr(module, attribute)
        yield f"### `{attribute}{_signature(found)}`\n"
        yield f"{_text(found)}\n"
        if inspect.isclass(found):
            yield from _methods(found)


def _public(module: Any) -> list[str]:
    """The names that a module exports, else those of the classes and functions that it defines."""
    named = getattr(module, "__all__", None)
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]
    return list(named or own)


def _methods(kind: type) -> Iterator[str]:
    fields = getattr(kind, "__dataclass_fields__", {})
    for name, value in vars(kind).items():
        if name in fields:
            continue
        told = inspect.getdoc(value) if not name.startswith("_") else None
        if not told or not (
            inspect.isroutine(value) or isinstance(value, (*PROPERTIES, classmethod))
        ):
            continue
        callable_ = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        signature = "" if isinstance(value, PROPERTIES) else _signature(callable_)
        yield f"- **`{name}{signature}`** {_indented(_marked(told))}"
    yield ""


def _signature(found: Any) -> str:
    """Parameters and their defaults; what they are stands in the docstring."""
    if inspect.isclass(found) and issubclass(found, BaseException):
        return ""
    if getattr(found, "_is_protocol", False):
        return ""
    try:
        parameters = list(inspect.signature(found).parameters.values())
    except ValueError:
        return ""
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in parameters
        if parameter.name not in ("self", "cls")
    ]
    text = re.sub(r"<function (\w+) at 0x\w+>", r"\1", str(inspect.Signature(bare)))
    text = re.sub(r"<factory>|\bLocalTraining\([^)]*\)", "…", text)  # each is long
    return text.replace("(/, ", "(").replace(", /", "")


def _text(found: Any) -> str:
    return _marked(inspect.getdoc(found) or "")


def _marked(text: str) -> str:
    """A docstring as Markdown: double backticks are single ones, ``Raises:`` a paragraph."""
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    text = re.sub(r"(?:^[^\n]+\n)+(?:^[│├└].*\n)+", lambda tree: f"```\n{tree[0]}```\n", text,
                  flags=re.MULTILINE)  # fmt: skip
    return re.sub(r"^(Raises):\n((?: {4}.*\n?)+)", _raises, text, flags=re.MULTILINE)


def _raises(match: re.Match[str]) -> str:
    entries = re.split(r"\n {4}(?=\w+: )", match[2].strip("\n"))
    told = (re.sub(r"^(\w+): ", r"`\1` if ", " ".join(entry.split())) for entry in entries)
    return f"Raises {'; '.join(entry.rstrip('.') for entry in told)}."


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.splitlines()).lstrip()


if __name__ == "__main__":
    sys.stdout.write(reference())
