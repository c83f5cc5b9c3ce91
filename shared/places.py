"""Which queues of a row a session consumes: as many as it wants, of those that nobody else has."""

from collections import deque
from collections.abc import Sequence


class Places:
    """``wanted`` of ``queues``, in order.

    Each is tried by consuming it exclusively. That of a queue which is taken closes the channel,
    and with it all that were got over it before: those are tried again first on the next channel.
    """

    def __init__(self, queues: Sequence[str], wanted: int = 1) -> None:
        self.held: list[str] = []
        self.tried = 0
        self._first = queues[0] if queues else ""
        self._is_row = len(queues) > 1
        self._wanted = wanted
        self._row = iter(queues)
        self._again: deque[str] = deque()
        self._asked: str | None = None

    @property
    def complete(self) -> bool:
        """Whether there is no need to try another."""
        return len(self.held) == self._wanted

    def next(self) -> str | None:
        """The queue to try now; None at the end of the row."""
        if self._again:
            self._asked = self._again.popleft()
        else:
            self._asked = next(self._row, None)
            self.tried += self._asked is not None
        return self._asked

    def got(self) -> None:
        """The queue that was tried is ours."""
        if self._asked is not None:
            self.held.append(self._asked)

    def taken(self) -> None:
        """It is somebody else's, and the channel is gone."""
        self._again.extend(self.held)
        self.held.clear()

    def is_end(self) -> bool:
        """Whether a queue that does not exist means the end of the row, and not a mistake."""
        return self.tried > 1

    def shortage(self, there: int) -> str:
        """What to say when the row of ``there`` queues has not enough for us."""
        if not self._is_row:
            return f"{self._first} is taken: another process consumes it under this identity"
        free = len(self.held)
        taken = f"all {there} places from {self._first} on are taken"
        if free:
            taken = f"of {there} places from {self._first} on only {free} are free"
        return f"{taken}: enlarge the fleet with `broker-config apply --fleet NAME:SIZE`"
