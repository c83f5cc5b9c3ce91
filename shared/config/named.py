"""Algorithms by name, ``NAME`` or ``NAME:parameter=value,…`` as a user writes them.

Or a user's own, ``package.module:attribute`` or ``package.module:attribute,parameter=value,…``.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import ParamSpec, TypeVar

from warren_shared.config import parameters
from warren_shared.config.command_line import nearest
from warren_shared.config.import_path import is_own, load, one_line
from warren_shared.config.validation_messages import and_
from warren_shared.errors import ConfigError, TaskFailed, WarrenError
from warren_shared.observability.log import Log

log = Log(__name__)

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


def choose(
    kind: str, spec: str, known: Mapping[str, Callable[..., T]], own: type[T] | None = None
) -> T:
    """What ``spec`` names among ``known``; ``kind`` is the flag that it was given to.

    With ``own`` it may also be the import path of such a thing, or of a function that makes one.

    Raises ConfigError for a name that is not known, and for its parameters as
    `warren_shared.config.parameters` says.
    """
    name, _, rest = spec.partition(":")
    make = known.get(name)
    if make is not None:
        return parameters.call(
            make, rest, named=f"--{kind} {spec}", subject=name, prefix=f"{name}:"
        )
    if own is not None and is_import_path(spec, known):
        return _own(kind, spec, own)
    guess = and_(nearest(name, known))
    raise ConfigError(f"--{kind} {name}: there are {', '.join(sorted(known))}{guess}")


def is_import_path(spec: str, known: Mapping[str, object]) -> bool:
    """Whether ``spec`` names something of the user's: the rest of a known name's is parameters."""
    name, colon, rest = spec.partition(":")
    attribute = rest.partition(",")[0]
    return name not in known and bool(colon and attribute) and "=" not in attribute


def _own(kind: str, spec: str, own: type[T]) -> T:
    path, _, words = spec.partition(",")
    flag, named, flag_and_path = f"--{kind}", f"--{kind} {spec}", f"--{kind} {path}"
    found = load(path, flag, is_own)
    if isinstance(found, own):
        if words:
            raise ConfigError(f"{named}: {path} is made already, and takes no parameters")
        return _watched(found, flag_and_path)
    if not callable(found):
        raise ConfigError(f"{named}: {path} is no {own.__name__} and no function that makes one")
    subject = path.partition(":")[2]
    try:
        made = parameters.call(found, words, named=named, subject=subject, prefix=f"{path},")
    except WarrenError:
        raise
    except Exception as error:
        raise ConfigError(f"{named}: making it fails: {one_line(error)}") from error
    if not isinstance(made, own):
        raise ConfigError(f"{named} made {type(made).__name__}, not {own.__name__}")
    return _watched(made, flag_and_path)


def _watched(made: T, named: str) -> T:
    """``made``, whose functions fail as a user's code does: in one line, the traceback in the log.

    Otherwise they would fail as our own code, with an exit code that says that it is our bug.
    """
    if not is_dataclass(made) or isinstance(made, type):
        return made
    functions = {
        each.name: _reporting(value, f"{named}: {each.name}")
        for each in fields(made)
        if callable(value := getattr(made, each.name))
    }
    return replace(made, **functions)


def _reporting(function: Callable[P, R], named: str) -> Callable[P, R]:
    def call(*arguments: P.args, **words: P.kwargs) -> R:
        try:
            return function(*arguments, **words)
        except WarrenError:
            raise
        except Exception as error:
            message = f"{named} fails: {one_line(error)}"
            log.exception("algorithm_failed", "%s", message, error=error)
            raise TaskFailed(f"{message}; the log has the traceback") from error

    return call
