"""Clients of which an open round has nothing although they are there: the broker lost something.

A queue that was purged or deleted, a disk that was lost, a mailbox that could not be reached: the
client waits for a model, and we for its update, and neither would ever hear of it. Once a round has
been open for long, and all that was in the queue has been read, they are told what is missing.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Final

from coordinator_worker.state.training_state import State

MOST: Final = 200  # asked for each time; of more a sample
SINCE: Final = 3  # the protocol that knows this notice


class Missing:
    """Whom to tell, and when: ``look`` says whom to look for, ``seen`` who is there.

    What is delivered after our own question has come back was published after it, so ``told`` comes
    then.
    """

    def __init__(self) -> None:
        self._version = -1
        self._there: tuple[str, ...] = ()
        self._looked_for: tuple[str, ...] = ()
        self._older: set[str] = set()
        self._is_new = True

    def begin(self) -> None:
        """We are the active coordinator now, and may not know everybody who joined the last one."""
        self._is_new, self._there = True, ()

    def heard(self, client: str | None, reads: int) -> None:
        """Something came from ``client``, which reads protocols up to ``reads``."""
        if client is None:
            return
        if reads >= SINCE:
            self._older.discard(client)
        elif len(self._older) < MOST:
            self._older.add(client)

    def look(self, state: State | None, here: Iterable[str], first: Sequence[str]) -> list[str]:
        """Clients of which there is nothing ``here`` in the open round, ``first`` those."""
        self._there = ()
        members = set(state.roster if state is not None else ()) - set(here) - set(first)
        others = sorted(members)
        if len(others) > MOST:
            others = random.sample(others, MOST)
        found = [*first, *others][:MOST]
        self._version = state.version if state is not None else -1
        self._looked_for = tuple(found)
        return found

    def seen(self, away: Sequence[str] | None) -> bool:
        """Those are away, None if that is not known; whether there is anybody to be told."""
        self._there = tuple(c for c in self._looked_for if c not in (away or ()))
        if self._is_new and not self._there:
            self._there = ("",)  # nothing is known yet of the clients that are there
        return bool(self._there)

    def told(self, state: State, here: Iterable[str]) -> list[str] | None:
        """Whom to tell now that the queue has been read so far, each time only once; None: all."""
        there, self._there = self._there, ()
        if state.version != self._version or not there:
            return []
        if self._is_new and not self._older:
            self._is_new = False
            return None
        return sorted(set(there) - set(here) - self._older - {""})
