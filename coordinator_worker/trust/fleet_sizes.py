"""How many replicas a fleet has, as the broker says: a mailbox for each.

A fleet's user may publish under any user-checked name ``fleet.N``. Without a bound one login would
be a million clients: a place in the roster, a transfer under way and an allowance for each.
"""

import time
from collections.abc import Callable
from typing import Final

from warren_shared.naming import mailbox
from warren_shared.observability.log import Log
from warren_shared.service.broker_check import first_missing
from warren_shared.tls import Broker

log = Log(__name__)

MAX_REPLICAS: Final = 10_000  # as `broker-config` allows
ASK_EVERY_S: Final = 5.0  # of one fleet; a question is a connection with some 15 requests

# The number of the first replica that a fleet has not got, given the one that is claimed; None if
# the broker does not tell.
FindSize = Callable[[str, int], int | None]


class FleetSizes:
    """Answers whether a client is a replica that its fleet has.

    ``find`` asks the broker, ``clock`` gives monotonic seconds. A fleet that is made larger is seen
    at once, unless its user claimed a replica that does not exist in the last ASK_EVERY_S seconds.
    What is remembered is one number for each user that the broker vouched for.
    """

    def __init__(self, find: FindSize, clock: Callable[[], float] = time.monotonic) -> None:
        self._find = find
        self._clock = clock
        self._known: dict[str, int] = {}
        self._asked: dict[str, float] = {}

    @classmethod
    def of(cls, broker: Broker, federation: str) -> "FleetSizes":
        """By passive declares of the mailboxes, over a new connection for each question."""

        def find(fleet: str, claimed: int) -> int | None:
            def queue(number: int) -> str:
                return mailbox(f"{fleet}.{number}")

            name = f"coordinator · {federation} · how large {fleet} is"
            return first_missing(broker, name, queue, claimed, MAX_REPLICAS)

        return cls(find)

    def has(self, client: str) -> bool:
        """Whether ``client`` is no replica, or one that its fleet has.

        While the broker does not answer, a replica below MAX_REPLICAS is believed.
        """
        fleet, dot, number = client.partition(".")
        if not dot:
            return True
        claimed = int(number)
        if claimed < self._known.get(fleet, 0):
            return True
        now = self._clock()
        if claimed >= MAX_REPLICAS or now - self._asked.get(fleet, -ASK_EVERY_S) < ASK_EVERY_S:
            return False
        found = self._find(fleet, claimed)
        if found is None:
            return True
        self._asked[fleet] = now
        self._known[fleet] = max(found, self._known.get(fleet, 0))
        log.info(
            "fleet_size", "fleet %s has %d replicas", fleet, self._known[fleet], fleet=fleet,
            replicas=self._known[fleet],
        )  # fmt: skip
        return claimed < self._known[fleet]
