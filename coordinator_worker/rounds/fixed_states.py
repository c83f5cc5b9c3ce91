"""Whether clients agree in what is not exchanged: a vocabulary, the edges of bins."""

from collections.abc import Mapping
from typing import Final

from warren_shared.naming import user_of
from warren_shared.observability.log import Log

log = Log(__name__)

MAX_NAMES: Final = 1000  # of states that are remembered: names come from clients
MAX_OF_ONE: Final = 64  # of them that one user has brought, all replicas of a fleet together
MAX_WARNED: Final = 3  # lines for each time that a client joins


class FixedStates:
    """Compares the state that each joining client reports with the first client's.

    A client compares itself with the run's (`ModelManifest.fixed_state`) and ends if it differs;
    this is for runs that began with a file, where no client has said what is right.
    """

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str]] = {}  # name -> digest, and who said it

    def compare(self, client: str, told: Mapping[str, str]) -> None:
        """Warn of each state of ``client`` that is another than the first one of its name."""
        user, _, _ = client.partition(".")
        brought = sum(1 for _, who in self._first.values() if user_of(who) == user)
        warned = 0
        for name, digest in told.items():
            if name not in self._first:
                if len(self._first) >= MAX_NAMES or brought >= MAX_OF_ONE:
                    continue
                brought += 1
            known, other = self._first.setdefault(name, (digest, client))
            if digest != known and other != client and warned < MAX_WARNED:
                warned += 1
                log.warning(
                    "fixed_state_differs",
                    "%s and %s have another %s: the same number means another thing to each, and"
                    " their mean nothing; give every site the same",
                    client,
                    other,
                    name,
                    client=client,
                )
