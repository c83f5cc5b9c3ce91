"""Who listens, inside a worker, to what happens in it: metrics, traces, curves."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)


class Listener(Protocol[E_contra]):
    """Hears everything and keeps what it is there for; must be quick, and safe on any thread."""

    def on_event(self, event: E_contra) -> None:
        """Take an event; its class says what happened."""
        ...

    def close(self) -> None:
        """Nothing more will be heard."""
        ...


class EventBus(Generic[E]):
    """All listeners of a worker, for events of one family; if there are none they cost nothing."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener[E], ...] = ()

    def subscribe(self, listeners: Iterable[Listener[E]]) -> None:
        """Let these hear what happens from now on."""
        self._listeners = (*self._listeners, *listeners)

    def publish(self, event: E) -> None:
        """Let every listener hear of ``event``."""
        for listener in self._listeners:
            listener.on_event(event)

    def close(self) -> None:
        """Close all listeners."""
        for listener in self._listeners:
            listener.close()


class Phase(NamedTuple):
    """Something that took time, by the clock that never jumps; ``about`` says whose it was."""

    name: str
    began: float
    ended: float
    about: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


class Timings:
    """What the time of a round, or of one update, went into; ``done`` in the order of the ends."""

    def __init__(self) -> None:
        self.began = monotonic()
        self.done: list[Phase] = []

    @contextmanager
    def measure(self, name: str, **about: Any) -> "Iterator[None]":
        """Time what is done in the block; a block that fails is not counted."""
        began = monotonic()
        yield
        self.done.append(Phase(name, began, monotonic(), about))

    def timing(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        """``function``, timed; it may be called on another thread."""

        def timed(*arguments: P.args, **named: P.kwargs) -> R:
            with self.measure(name):
                return function(*arguments, **named)

        return timed

    def seconds(self, name: str) -> float:
        """How long all that is called ``name`` took together."""
        return sum(phase.seconds for phase in self.done if phase.name == name)
