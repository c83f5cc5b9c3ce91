"""Whether the broker still delivers to us, after it has chosen us.

A broker's node that was cut off from the others for longer than their net tick comes back and says
nothing: our connection is as it was, and another coordinator has long been the active one. It waits
for the checkpoint folder, which we hold, and neither one folds. All that shows it is that a message
which we put into the queue does not come back.
"""

from typing import Final, Literal

LOOK_S: Final = 5.0
ANSWER_S: Final = 10.0  # from the queue to the active coordinator

Step = Literal["ask", "let go"]


class Activity:
    """What the active coordinator knows about being it; times are monotonic seconds."""

    def __init__(self) -> None:
        self._heard = 0.0
        self._is_open = False  # we have asked, and nothing was delivered since
        self._asked: float | None = None  # when the queue had our question, until it comes back

    def heard(self, now: float) -> None:
        """Something was delivered."""
        self._heard, self._asked, self._is_open = now, None, False

    def asked(self, now: float) -> None:
        """The queue has our question; the answer may have come before this news."""
        if self._is_open and self._asked is None:
            self._asked = now

    def next_step(self, now: float) -> Step | None:
        """What to do now, asked every ``LOOK_S``; to let go, once an answer is overdue."""
        if now - self._heard < LOOK_S:
            return None
        if self._asked is None:
            self._is_open = True
            return "ask"
        if now - self._asked < ANSWER_S:
            return None
        self._asked, self._is_open = None, False
        return "let go"
