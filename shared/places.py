"""Which queues of a row a session consumes: as many as it wants, of those that nobody else has."""

from collections import deque
from collections.abc import Sequence
from typing import Final

# How many queues are asked at once whether they are free; twice as many each time, so that the
# first place is found at once, and the one behind a thousand that are taken in six answers' time.
FIRST_WINDOW: Final = 32


class Places:
    """``wanted`` of ``queues``, in order.

    Which of a row are free is asked first (``to_ask``, ``answered``, ``ended``); of two that hear
    that one is free the slower finds it taken. Consuming such a queue closes the channel, and with
    it all that were got over it before: those are tried again first on the next channel.
    """

    def __init__(self, queues: Sequence[str], wanted: int = 1) -> None:
        self.held: list[str] = []
        self._row = queues
        self._wanted = wanted
        self._asked = self._there = 0  # how many of the row were asked for, and how many are there
        self._is_whole = len(queues) < 2  # no row: it need not be asked whether it is free
        self._free: deque[str] = deque(queues[:1] if self._is_whole else ())
        self._tried: str | None = None

    @property
    def complete(self) -> bool:
        """Whether there is no need to try another."""
        return len(self.held) == self._wanted

    def to_ask(self) -> Sequence[str]:
        """Queues to ask for now, all at once and in this order; none if it is time to try."""
        if self._is_whole or len(self.held) + len(self._free) >= self._wanted:
            return ()
        begin = self._asked
        self._asked += max(FIRST_WINDOW, self._asked, self._wanted)
        return self._row[begin : self._asked]

    def answered(self, consumers: int) -> bool:
        """The next of those that were asked for has so many; whether it was the last of them."""
        if not consumers:
            self._free.append(self._row[self._there])
        self._there += 1
        self._is_whole = self._there == len(self._row)
        return self._is_whole or self._there == self._asked

    @property
    def is_asking(self) -> bool:
        """Whether answers are still to come."""
        return not self._is_whole and self._there < self._asked

    def ended(self) -> None:
        """The next of those that were asked for is not there: the row ends; so did the channel."""
        self._is_whole = True
        self._again()

    def next(self) -> str | None:
        """The queue to try now; None if no more are free."""
        self._tried = self._free.popleft() if self._free else None
        return self._tried

    def got(self) -> None:
        """The queue that was tried is ours."""
        if self._tried is not None:
            self.held.append(self._tried)

    def taken(self) -> None:
        """It is somebody else's, and the channel is gone."""
        self._again()

    def is_empty(self) -> bool:
        """Whether not even the first queue is there: that is a mistake, and not the row's end."""
        return self._there == 0

    def shortage(self) -> str:
        """What to say when the row has not enough for us."""
        first = self._row[0]
        if len(self._row) < 2:
            return f"{first} is taken: another process consumes it under this identity"
        there, free = self._there, len(self.held)
        taken = f"all {there} places from {first} on are taken"
        if free:
            taken = f"of {there} places from {first} on only {free} are free"
        return f"{taken}: enlarge the fleet with `broker-config apply --fleet NAME:SIZE`"

    def _again(self) -> None:
        self._free.extendleft(reversed(self.held))
        self.held.clear()
