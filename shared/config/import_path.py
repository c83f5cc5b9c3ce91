"""What a user brings by its import path, ``package.module:attribute``."""

import importlib
import pkgutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from warren_shared.config.command_line import nearest
from warren_shared.config.validation_messages import and_
from warren_shared.errors import ConfigError
from warren_shared.observability.log import Log
from warren_shared.printable import printable

log = Log(__name__)

MAX_REASON = 300


def load(
    path: str,
    flag: str,
    fits: Callable[[Any, str], bool],
    *,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
    reason: Callable[[Exception], str] | None = None,
    action: str = "import_failed",
) -> Any:
    """The attribute that ``path`` names; modules are also looked for in the current folder.

    Args:
        path: as the user wrote it.
        flag: to which it was given, such as ``--task``.
        fits: whether an attribute of the module (and the module's name) is what the user may have
            meant by a name that is not there.
        around: entered while the module is imported.
        reason: one line about what the module raised.
        action: of the line in the log that has the module's traceback.

    Raises:
        ConfigError: it is no import path, there is no such thing, or importing it fails.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute or module_name.startswith("."):
        raise ConfigError(f"{flag} {path}: write it as package.module:attribute")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        with around():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            hint = "start in the folder that holds it, or install its package"
            hint += and_(nearest(missing.rpartition(".")[2], _beside(missing)))
        else:
            hint = f"install {missing}, which it imports"
        raise ConfigError(f"{flag} {path}: there is no module {missing}: {hint}") from None
    except SyntaxError as error:
        place = f"{Path(error.filename or module_name).name}, line {error.lineno}"
        raise ConfigError(f"{flag} {path}: {place}: {error.msg}") from None
    except ConfigError:
        raise
    except Exception as error:
        words = (reason or one_line)(error)
        what = f"{flag} {path}: importing {module_name} fails: {words}"
        log.exception(action, "%s", what, error=error)
        raise ConfigError(what) from error
    found = getattr(module, attribute, None)
    if found is None:
        known = [name for name, value in vars(module).items() if fits(value, module_name)]
        guess = and_(nearest(attribute, known))
        raise ConfigError(f"{flag} {path}: {module_name} has no {attribute}{guess}")
    return found


def one_line(error: BaseException) -> str:
    """``KeyError: 'age'``: one line, bounded, printable."""
    words = " ".join(printable(str(error)[: 2 * MAX_REASON]).split())
    return f"{type(error).__name__}: {words}".removesuffix(": ")[:MAX_REASON]


def is_own(value: object, module: str) -> bool:
    """Whether ``value`` is a function or a class of that module."""
    return callable(value) and getattr(value, "__module__", "") == module


def _beside(module: str) -> list[str]:
    """Modules where ``module`` was looked for: in its package, or in the current folder."""
    package = sys.modules.get(module.rpartition(".")[0])
    folders = list(getattr(package, "__path__", [str(Path.cwd())]))
    return [found.name for found in pkgutil.iter_modules(folders)]
