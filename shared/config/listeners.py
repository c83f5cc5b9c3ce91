"""``--listen module:attribute``: listeners that the user brings, which no round suffers from."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar

from warren_shared.config.import_path import is_own, load, one_line
from warren_shared.errors import ConfigError, WarrenError
from warren_shared.observability.event_bus import Listener
from warren_shared.observability.log import Log

log = Log(__name__)

FLAG: Final = "--listen"
E = TypeVar("E")


class GuardedListener(Generic[E]):
    """Passes events on to a user's listener; what it raises is logged once, and goes no further.

    It goes on to get events, since the next one may be of another kind.
    """

    def __init__(self, listener: Listener[E], name: str) -> None:
        self._listener, self._name = listener, name
        self._failures = 0

    def on_event(self, event: E) -> None:
        """Pass ``event`` on."""
        self._call(lambda: self._listener.on_event(event), type(event).__name__)

    def close(self) -> None:
        """Pass it on, if the listener has such a method."""
        close = getattr(self._listener, "close", None)
        if close is not None:
            self._call(close, "close")
        if self._failures > 1:
            log.warning("listener_failed", "the listener %s failed %d times", self._name,
                        self._failures)  # fmt: skip

    def _call(self, call: Callable[[], object], about: str) -> None:
        try:
            call()
        except Exception as error:
            self._failures += 1
            if self._failures == 1:
                words = f"{about} ({one_line(error)})"
                log.exception(
                    "listener_failed",
                    "the listener %s failed at %s; the round goes on, and this is said once",
                    self._name, words, error=error,
                )  # fmt: skip


class _Function(Generic[E]):
    """A function of one event as a listener."""

    def __init__(self, function: Callable[[E], object]) -> None:
        self._function = function

    def on_event(self, event: E) -> None:
        """Pass it on."""
        self._function(event)

    def close(self) -> None:
        """There is nothing to close."""


def from_words(words: Iterable[str]) -> list[Listener[Any]]:
    """The listeners that import paths name, each guarded.

    An attribute is a listener, a function of one event, or a class or function without parameters
    that makes a listener.

    Raises:
        ConfigError: there is no such thing, it is none of these, or making it fails.
    """
    return [guarded(load(path, FLAG, is_own), path) for path in words]


def guarded(found: Any, name: str) -> GuardedListener[Any]:
    """What the user gave under ``name`` as a listener that cannot do harm.

    Raises:
        ConfigError: it is no listener and makes none.
    """
    if not inspect.isclass(found) and hasattr(found, "on_event"):
        return GuardedListener(found, name)
    if not callable(found):
        raise ConfigError(
            f"{FLAG} {name}: it is no listener (an object with on_event(event)), no function of one"
            " event, and nothing that makes a listener"
        )
    if not inspect.isclass(found) and _needs_one(found):
        return GuardedListener(_Function(found), name)
    try:
        made = found()
    except WarrenError:
        raise
    except Exception as error:
        raise ConfigError(f"{FLAG} {name}: making it fails: {one_line(error)}") from error
    if not hasattr(made, "on_event"):
        raise ConfigError(
            f"{FLAG} {name} made {type(made).__name__}, which has no method on_event(event)"
        )
    return GuardedListener(made, name)


def _needs_one(function: Callable[..., Any]) -> bool:
    """Whether a function is to be called with an event; one without a signature is."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        return True
    open_ = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(each.default is each.empty and each.kind not in open_ for each in parameters) or any(
        each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters
    )
