"""What becomes of a message that must not count: kept for a look, told to its sender, counted."""

from collections import Counter
from enum import Enum, auto

from coordinator_worker.rounds.outcome import Refused
from coordinator_worker.rounds.rate_limiter import TokenBucket
from coordinator_worker.runtime.notices import Notices
from warren_shared.amqp.delivery import Delivery
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.naming import REJECTED_QUEUE


class Handling(Enum):
    """What was done with a rejected message."""

    DEAD_LETTERED = auto()  # a copy is kept, and its sender was told
    COUNTED = auto()  # its sender floods
    COUNTED_FIRST = auto()  # the first of a sender that is only counted


class Rejections:
    """Dead-letters through ``session``; ``counted`` since the round began, by reason.

    Of a sender that floods only the first are kept and answered, the others are counted and gone:
    each would cost a round trip to the broker, and honest updates wait behind it. Being late has an
    separate allowance and is no flood: a fleet shares one user, and may be late as a whole.
    ``redacts``: the copy has the reason and not the message, as in a private run.
    """

    def __init__(self, session: Session, notices: Notices, *, redacts: bool = False) -> None:
        self._session = session
        self._notices = notices
        self._redacts = redacts
        self._token_bucket, self._late = TokenBucket(), TokenBucket()
        self.counted: Counter[str] = Counter()

    def put(self, outcome: Refused, delivery: Delivery) -> Handling:
        """Dead-letter a copy with the reason and tell the sender; the original may go then.

        Of a sender that floods it is only counted.

        The broker's own dead-lettering could not say why.
        """
        rejected, client = outcome.rejected, outcome.client or "unknown"
        self.counted[rejected.reason] += 1
        sender = delivery.user or ""
        is_late = rejected.reason == "stale"
        allowance = self._late if is_late else self._token_bucket
        if not allowance.take(sender):
            first = not is_late and allowance.news(sender)
            return Handling.COUNTED_FIRST if first else Handling.COUNTED
        headers = {"reason": rejected.reason, "detail": rejected.detail, "client": client}
        body = (b"",) if self._redacts else (delivery.body,)
        # To the queue itself: what comes through the exchange was written by no coordinator.
        letter = Publication("", REJECTED_QUEUE, body, "rejected", persistent=True, headers=headers)
        self._session.publish([letter])
        if outcome.client is not None:
            self._notices.tell(
                client,
                reads=delivery.reads,
                notice="rejected",
                reason=rejected.reason,
                detail=rejected.detail,
                base_version=outcome.base_version,
            )
        return Handling.DEAD_LETTERED
