"""Getting a training run its initial weights from one of the clients."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 10.0
MAX_SLOW: Final = 6  # reminders that one transfer is waited for before the next is asked, too


class InitialWeightsRequest:
    """Asks one client at a time, in the order in which they joined.

    All could be asked at once and the first answer taken, but then each of a hundred clients would
    send a model that is not needed. A client that sends nothing for ``PATIENCE_S`` seconds gives
    way to the next. One whose weights are on their way is waited for, but after a minute the next
    is asked as well, or one that sends a piece now and then would keep a run from ever beginning.
    All clients that were asked may send; the first whose weights are whole begins the run.
    """

    def __init__(self, ask: Callable[[str], None], remind: Callable[[], None]) -> None:
        self._ask, self._remind = ask, remind
        self._joined: deque[str] = deque()  # the first is the one that was asked
        self._asked: set[str] = set()
        self._moved = False
        self._slow = 0  # reminders in a row at which something had moved
        self._timer: threading.Timer | None = None

    def joined(self, client: str) -> None:
        """``client`` is there and knows no model."""
        first = not self._joined
        if client not in self._joined:
            self._joined.append(client)
        if self._joined[0] == client:  # also if it joins again: what it had sent may be lost
            self._ask_now(client)
        if first:
            self._start_timer()

    def was_asked(self, client: str) -> bool:
        """Whether ``client`` may send initial weights: it was asked for them, by us."""
        return client in self._asked

    def reset(self) -> None:
        """We are no longer the one that asks; who is there joins again when we are.

        No client would act on the reminder meanwhile, and without one only the first is ever asked.
        """
        self._joined.clear()
        self._asked.clear()
        self._moved = False
        self._slow = 0
        if self._timer is not None:
            self._timer.cancel()

    def refused(self, client: str) -> None:
        """Something of ``client`` must not count: it gives way to the next, till it joins again."""
        if client not in self._joined:
            return
        was_first = self._joined[0] == client
        self._joined.remove(client)
        self._asked.discard(client)
        if was_first and self._joined:
            self._ask_now(self._joined[0])

    def moved(self) -> None:
        """A piece of somebody's initial weights has come."""
        self._moved = True

    def reminded(self) -> None:
        """``remind`` was called ``PATIENCE_S`` ago."""
        if not self._joined:
            return  # it was under way when we were reset
        self._slow = self._slow + 1 if self._moved else 0
        if not self._moved or self._slow >= MAX_SLOW:
            self._joined.rotate(-1)
            self._slow = 0
            self._ask_now(self._joined[0])
        self._moved = False
        self._start_timer()

    def _ask_now(self, client: str) -> None:
        self._asked.add(client)
        self._ask(client)

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(PATIENCE_S, self._remind)
        self._timer.daemon = True
        self._timer.start()
