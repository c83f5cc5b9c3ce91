"""Whether a command line of a document is one that our programs, or the Makefile, would take."""

import contextlib
import functools
import importlib.util
import io
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import broker_config.cli
import client_worker.cli
import coordinator_worker.cli
import keeper_worker.cli
from client_worker.settings import ClientSettings
from coordinator_worker.aggregation.algorithm import Algorithm
from coordinator_worker.rounds.policy import Policy
from coordinator_worker.rounds.stopping import StoppingCriteria
from coordinator_worker.settings import CoordinatorSettings
from keeper_worker.settings import KeeperSettings
from tests.support.processes import ROOT
from warren_shared.config.command_line import nearest
from warren_shared.config.settings import load
from warren_shared.errors import ConfigError

PROGRAMS: Final[dict[str, Callable[[list[str]], int]]] = {
    "broker-config": broker_config.cli.main,
    "client-worker": client_worker.cli.main,
    "coordinator-worker": coordinator_worker.cli.main,
    "keeper-worker": keeper_worker.cli.main,
}
# What documents name beside our own. Whatever is not here is a misspelling, until it is added.
OTHERS: Final = re.compile(
    r"\.|apt-get|base64|cat|cd|chmod|cp|crontab|curl|docker|echo|export|git|helm|install|journalctl|kill"
    r"|kubectl|loginctl|ls|mkdir|mv|rm|rsync|scp|source|ss|ssh|systemctl|systemd-analyze|tail|tar|timeout"
    r"|ufw|umask|useradd"
)
_FLAG: Final = re.compile(r"--[a-z][a-z0-9-]*")
_OPERATORS: Final = frozenset(["&", "&&", "||", "|", ";", "(", ")"])
_ENVIRONMENT: Final = re.compile(r"[A-Z][A-Z0-9_]*=.*", re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a console block, each as its words; with prompts, only what they prompt."""
    lines = text.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    for line in lines:
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in lexer:
            if word in _OPERATORS:
                yield from _told(words)
                words = []
            else:
                words.append(word)
        yield from _told(words)


def _told(words: list[str]) -> Iterator[list[str]]:
    """The command without what only says how, and by whom, it is run."""
    for redirect in (">", ">>", "<", "2>"):
        if redirect in words:
            words = words[: words.index(redirect)]
    while words and _ENVIRONMENT.fullmatch(words[0]):
        words = words[1:]
    if words[:1] == ["sudo"]:
        words = words[1:]
        while words and words[0].startswith("-"):
            words = words[2 if words[0] in ("-u", "-g") else 1 :]
        yield from _told(words)
    elif words:
        yield words


def complaint(words: list[str]) -> str:
    """What is wrong with a command; "" if nothing is."""
    program, arguments = Path(words[0]).name, words[1:]
    if program in PROGRAMS:
        return _ours(program, arguments)
    if program == "make":
        return _make(arguments)
    if program in ("pip", "pip3"):
        return _pip(arguments)
    if program.startswith("python"):
        return _python(arguments)
    if OTHERS.fullmatch(words[0]):
        return ""
    return f"what is {program}? (tests/support/command_lines.py lists what may be named)"


def flags_complaint(program: str, arguments: list[str]) -> str:
    """What is wrong with the names of a command's flags; their values may be anything."""
    command, known = _known_flags(program, arguments)
    if command is None:
        return f"{program} has no command {arguments[0]}"
    given = [word.partition("=")[0] for word in arguments if _FLAG.match(word)]
    tasks_own = program == "client-worker" and command in ("", "check", "evaluate")
    for flag in given:
        if flag not in known and not (tasks_own and not nearest(flag, known)):
            return f"{program} {command} has no {flag} {nearest(flag, known)}"
    return ""


def _ours(program: str, arguments: list[str]) -> str:
    if said := flags_complaint(program, arguments):
        return said
    try:
        if program == "broker-config":
            with contextlib.redirect_stderr(io.StringIO()) as told:
                broker_config.cli._parser().parse_args(arguments)
        elif not arguments or arguments[0].startswith("-"):
            _load(program, arguments)
    except ConfigError as error:
        return str(error)
    except SystemExit as end:
        return told.getvalue() if end.code else ""
    return ""


def _load(program: str, arguments: list[str]) -> None:
    """Read a worker's settings as it would, but for the files, which are on the reader's disk."""
    if "--help" in arguments:
        return
    words = list(arguments)
    if "--env-file" in words and "--virtual" in words:  # the bundle names the fleet
        words += ["--fleet", "somebody"]
    for flag in ("--env-file", "--settings"):
        while flag in words:
            at = words.index(flag)
            del words[at : at + 2]
    if "--broker-url" not in words:
        words = ["--broker-url", "amqp://somebody:x@localhost/f", *words]
    if program == "client-worker":
        if "--task" not in words:
            words = ["--task", "tests.tasks:line", *words]
        load(ClientSettings, description="", argv=words, keep_unknown=True)[0].mailboxes()
        return
    if program == "keeper-worker":
        keys = ["--verify-keys", "x", "--encrypt-key", "x"]  # of the bundle
        load(KeeperSettings, description="", argv=[*keys, *words])
        return
    settings, _ = load(CoordinatorSettings, description="", argv=words)
    Policy.from_settings(settings, Algorithm.from_settings(settings).aggregator)
    StoppingCriteria.from_settings(settings)


def _known_flags(program: str, arguments: list[str]) -> tuple[str | None, frozenset[str]]:
    """The subcommand that is called ("" for none, None for one that there is not), its flags."""
    first = arguments[0] if arguments else ""
    command = "" if first.startswith("-") else first
    found = _flags_in_help(program, command)
    return (command, found) if found else (None, found)


@functools.cache
def _flags_in_help(program: str, command: str) -> frozenset[str]:
    with (
        contextlib.redirect_stdout(io.StringIO()) as told,
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(SystemExit),
    ):
        every = "--help" if command or program == "broker-config" else "--help-all"
        PROGRAMS[program]([*([command] if command else []), every])
    return frozenset(_FLAG.findall(told.getvalue()))


def _make(arguments: list[str]) -> str:
    makefile = (ROOT / "Makefile").read_text()
    for word in arguments:
        name, is_variable, _ = word.partition("=")
        if is_variable and not re.search(rf"\$\((if |or )?{name}\b", makefile):
            return f"the Makefile reads no {name}"
        if not is_variable and not re.search(rf"^{re.escape(name)}:", makefile, re.MULTILINE):
            return f"there is no `make {name}`"
    return ""


def _pip(arguments: list[str]) -> str:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for word in arguments:
        found = re.fullmatch(r"(?:\.|.*\.whl)\[([\w,-]+)\]", word)
        if found and (missing := set(found[1].split(",")) - set(extras)):
            return f"there is no extra {min(missing)}"
    return ""


def _python(arguments: list[str]) -> str:
    if arguments[:1] != ["-m"] or arguments[1] in ("venv", "pip"):
        return ""
    found = importlib.util.find_spec(arguments[1])
    return "" if found else f"there is no module {arguments[1]}"
