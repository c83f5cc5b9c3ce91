"""How long the broker may owe us a confirm before we connect again.

A cluster may lose what a live channel has published: the node that we talk to is cut off from the
queue's leader and comes back, and the confirm never comes. Nothing tells us; waiting is all that
there is to notice. What is slow is not lost: a confirm, or bytes that leave this machine, begin the
wait starts again.
"""

from typing import Final

FIRST_S: Final = 30.0
LONGEST_S: Final = 240.0
NOTHING_BYTES: Final = 256  # heartbeats come and go meanwhile


class ConfirmDeadline:
    """For one session; asked on its connection's thread, every few seconds."""

    def __init__(self) -> None:
        self._patience_s = FIRST_S
        self._since: float | None = None  # when something moved last
        self._progress = self._unsent_bytes = 0  # as of then

    def confirmed(self) -> None:
        """Something was confirmed: the broker does its work."""
        self._patience_s = FIRST_S

    def is_over(self, now: float, *, waits: bool, progress: int, unsent_bytes: int) -> bool:
        """Whether nothing has moved for too long; the next deadline is twice as long then.

        ``waits``: whether a confirm is due, and the broker has not told us to wait. ``progress``
        grows with each message sent or confirmed, ``unsent_bytes`` have not reached the broker.
        """
        moved = progress != self._progress or unsent_bytes < self._unsent_bytes - NOTHING_BYTES
        if not waits or self._since is None or moved:
            self._progress, self._unsent_bytes = progress, unsent_bytes
            self._since = now if waits else None
            return False
        if now - self._since < self._patience_s:
            return False
        self._since = None
        self._patience_s = min(LONGEST_S, 2 * self._patience_s)
        return True
