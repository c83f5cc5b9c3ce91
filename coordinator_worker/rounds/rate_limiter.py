"""How much attention one sender gets: enough for any mistake, not enough to stop the others."""

import time
from collections.abc import Callable
from typing import Final

# A fleet's replicas share one user, so this is for all of them together.
BURST: Final = 50
PER_SECOND: Final = 1.0
MAX_SENDERS: Final = 10_000


class TokenBucket:
    """A bucket of ``burst`` tokens for each sender, filled at ``per_second``.

    A full bucket is not remembered, so what is remembered are the senders of the last minute or so.
    ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        burst: int = BURST,
        per_second: float = PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst, self._per_second, self._clock = burst, per_second, clock
        self._spent: dict[str, tuple[float, float]] = {}  # by sender: tokens missing, and when
        self._over: set[str] = set()

    def take(self, sender: str) -> bool:
        """Take a token of ``sender``; False if there is none."""
        now = self._clock()
        missing, when = self._spent.get(sender, (0.0, now))
        missing = max(0.0, missing - (now - when) * self._per_second)
        given = missing + 1 <= self._burst
        if sender not in self._spent and len(self._spent) >= MAX_SENDERS:
            self._forget(now)
        self._spent[sender] = (missing + given, now)
        if not missing:
            self._over.discard(sender)
        return given

    def news(self, sender: str) -> bool:
        """Whether ``sender`` is over its allowance for the first time since its bucket was full."""
        if sender in self._over:
            return False
        self._over.add(sender)
        return True

    def _forget(self, now: float) -> None:
        """Forget whose buckets are full by now, and if all are in use, everybody."""
        left = {
            sender: (missing, when)
            for sender, (missing, when) in self._spent.items()
            if missing > (now - when) * self._per_second
        }
        self._spent = left if len(left) < MAX_SENDERS else {}
        self._over &= self._spent.keys()
