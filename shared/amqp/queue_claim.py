"""Which queues of a row a session consumes: as many as it wants, of those without a consumer."""

import random
from collections import deque
from collections.abc import Sequence
from typing import Final

# How many queues are asked at once whether they are free; twice as many each time, so that the
# first place is found at once, and the one behind a thousand that are taken in six answers' time.
FIRST_WINDOW: Final = 32
FIRST_S: Final = 0.002  # a try takes about as long
LONGEST_S: Final = 1.0


class QueueClaim:
    """``wanted`` of ``queues``: the first that are free, so that a row fills from its beginning.

    Those that we ``had`` before are tried first: who only lost its connection stays who it was, and
    a thousand that come back when the broker does do not collide. Else it is asked which of a
    row are free (``to_ask``, ``answered``, ``missing``). Of two that hear that one is free the
    slower finds it ``taken``. That closes the channel, and with it all that were got over it
    before; the row is asked again, after a while drawn by lot: of a hundred that come in one
    instant all would try the same one, again and again.
    """

    def __init__(self, queues: Sequence[str], wanted: int = 1, had: Sequence[str] = ()) -> None:
        self.held: list[str] = []
        self._row = queues
        self._wanted = wanted
        self._asked = self._there = 0  # how many of the row were asked for, and how many are there
        self._is_known = not self.is_row  # whether all that is free is known
        self._free: deque[str] = deque(had if self.is_row else queues)
        self._tried: str | None = None
        self._conflicts = 0

    @property
    def is_row(self) -> bool:
        """Whether there is a choice."""
        return len(self._row) > 1

    @property
    def complete(self) -> bool:
        """Whether there is no need to try another."""
        return len(self.held) == self._wanted

    # --- which are free -------------------------------------------------------------------------

    def to_ask(self) -> Sequence[str]:
        """Queues to ask for now, all at once and in this order; none if it is time to try."""
        if self._is_known or len(self.held) + len(self._free) >= self._wanted:
            return ()
        begin = self._asked
        self._asked += max(FIRST_WINDOW, self._asked, self._wanted)
        return self._row[begin : self._asked]

    def answered(self, consumers: int) -> bool:
        """The next of those that were asked for has so many; whether it was the last of them."""
        queue = self._row[self._there]
        if not consumers and queue not in self.held:
            self._free.append(queue)
        self._there += 1
        self._is_known = self._there == len(self._row)
        return self._is_known or self._there == self._asked

    def reopened(self) -> None:
        """The channel is gone, and with it what was got over it; the row is asked from its start.

        What was tried last is tried again first.
        """
        again = [*self.held, *((self._tried,) if self._tried is not None else ())]
        self.held.clear()
        self._tried = None
        self._asked = self._there = 0
        self._is_known = not self.is_row
        self._free = deque(dict.fromkeys([*again, *self._free]))

    def missing(self) -> bool:
        """There is no such queue, and the channel is gone; whether that is no mistake.

        What was asked for ends the row. One that was ours and is no more is given up.
        """
        self.held.clear()
        if self._there < self._asked:
            self._is_known = True
            return self._there > 0
        if self.is_row and not self._asked:
            self._free.clear()
            return True
        return False

    # --- trying them ----------------------------------------------------------------------------

    def next(self) -> str | None:
        """The queue to try now; None if no more are free."""
        self._tried = self._free.popleft() if self._free else None
        return self._tried

    def got(self) -> None:
        """The queue that was tried is ours."""
        if self._tried is not None:
            self.held.append(self._tried)

    def taken(self) -> float:
        """It is somebody else's, and the channel is gone; in how many seconds to go on."""
        self.held.clear()
        if not self.is_row:
            return 0.0
        self._free.clear()
        self._asked = self._there = 0
        self._is_known = False
        self._conflicts += 1
        return random.uniform(0.0, min(LONGEST_S, FIRST_S * 2.0**self._conflicts))  # noqa: S311

    def shortage(self) -> str:
        """What to say when the row has not enough for us."""
        first = self._row[0]
        if not self.is_row:
            return f"{first} is taken: another process consumes it under this identity"
        there, free = self._there, len(self.held)
        taken = f"all {there} places from {first} on are taken"
        if free:
            taken = f"of {there} places from {first} on only {free} are free"
        return f"{taken}: enlarge the fleet with `broker-config apply --fleet NAME:SIZE`"
