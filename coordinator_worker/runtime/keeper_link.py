"""What the coordinator asks of the keeper, and what comes back: the sum of a round's masks.

The request is signed and persistent, so it outlives either side's crash. Only the active
coordinator consumes answers: whoever consumed before it would take them away. The same request is
answered with the same bytes, and another set for a version is refused with the set that was given;
so nothing has to be remembered here (docs/secure-aggregation.md). An answer names its request by a
digest: what a coordinator before us was told, and did not read any more, is in the queue, too.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from coordinator_worker.runtime.inbox import Inbox, Lost
from coordinator_worker.settings import CoordinatorSettings
from warren_shared.amqp.delivery import Delivery, Subscription
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.errors import Rejected
from warren_shared.naming import KEEPER_USER, UNMASK_QUEUE, UNMASKED_QUEUE
from warren_shared.observability.log import Log
from warren_shared.protocol.codec import decode, encode
from warren_shared.protocol.encryption import MASKS, UpdateDecryptor
from warren_shared.protocol.masking import request_digest
from warren_shared.protocol.messages import Chunk, FigureSum, Revealed, Sealed, Unmask, Unmasked
from warren_shared.protocol.signing import Signer, Verifier
from warren_shared.protocol.transfer import Incoming

log = Log(__name__)

READER: Final = "the coordinator"
LOOK_S: Final = 1.0
# Without an answer: the broker may have lost the request, or the answer (a queue that was purged or
# deleted). The keeper answers what it finds twice once.
AGAIN_S: Final = 30.0
LONGEST_S: Final = 1800.0


class Masks(Protocol):
    """Where the sum of the masks goes."""

    def begin_unmasking(self, sums: list[FigureSum]) -> int:
        """Sums of these figures come behind that of the weights; how many bytes that is."""
        ...

    def subtract(self, start: int, data: memoryview) -> None:
        """Take a piece off."""
        ...


class Damaged(Exception):
    """What came is not what was announced, and half of it is subtracted already."""


@dataclass
class _Answer:
    """A sum that is arriving, in the deliveries ``tags``."""

    manifest: Unmasked
    incoming: Incoming
    tags: list[int]


class KeeperLink:
    """Asks through ``models``, whose requests ``signer`` signs; answers have a connection.

    ``answers`` makes that connection, of which deliveries go to the inbox that it is given.
    """

    def __init__(
        self,
        models: Session,
        signer: Signer,
        opener: UpdateDecryptor,
        verifier: Verifier,
        answers: Callable[[Inbox], Session],
        patience_s: float,
    ) -> None:
        self._models = models
        self._signer = signer
        self._opener = opener
        self._verifier = verifier
        self._make = answers
        self._patience_s = patience_s
        self._session: Session | None = None
        self._inbox: Inbox | None = None
        self._taken = 0  # bytes of the open round's masks that are subtracted

    @classmethod
    def of(cls, settings: CoordinatorSettings, models: Session, signer: Signer) -> "KeeperLink":
        """As ``settings`` say; raises ConfigError if a key is none."""
        federation = settings.federation
        opener = UpdateDecryptor.of(settings.secret(settings.decrypt_keys), federation, MASKS)
        verifier = Verifier.of(settings.keeper_verify_key)
        if verifier is None:
            raise RuntimeError("a keeper without a key is refused before")

        def answers(inbox: Inbox) -> Session:
            return Session.for_broker(
                settings.broker,
                f"coordinator · {federation} · masks in",
                Subscription((UNMASKED_QUEUE,), inbox.deliver, tag="coordinator"),
                on_lost=lambda: inbox.put(Lost()),
            )

        return cls(models, signer, opener, verifier, answers, settings.wait_broker_s)

    def open(self) -> None:
        """We are the active coordinator: take what the keeper says."""
        self.close()
        inbox = Inbox(lambda: session.pause(), lambda: session.resume())  # noqa: PLW0108
        session = self._make(inbox)
        session.start(self._patience_s)
        self._session, self._inbox = session, inbox

    def close(self) -> None:
        """Leave the answers to whoever is active next."""
        if self._session is not None:
            self._session.close()
        self._session = self._inbox = None

    def ask(
        self, request: Unmask, masks: Masks, goes_on: Callable[[float], bool]
    ) -> Revealed | Unmasked | None:
        """Subtract what the keeper gives for ``request`` from ``masks``; return how it told it.

        ``goes_on`` is asked now and then with the seconds that the keeper has taken; None once it
        says no.

        Raises:
            Damaged: the round has to be begun again.
        """
        asked = request_digest(request)
        self._put(request)
        self._taken = 0
        began = time.monotonic()
        again_s = AGAIN_S
        answer: _Answer | None = None
        while goes_on(waited_s := time.monotonic() - began):
            if waited_s > again_s:
                again_s = waited_s + min(waited_s, LONGEST_S)
                self._put(request)
            if self._session is None or self._inbox is None:
                self.open()
                continue
            item = self._inbox.get_within(LOOK_S)
            if isinstance(item, Lost):
                answer = None  # it comes again from its beginning
            if not isinstance(item, Delivery) or item.epoch != self._session.epoch:
                continue
            told, data = self._told(item, asked)
            if isinstance(told, Revealed):
                self._session.acknowledge([item.tag], item.epoch)
                return told
            if isinstance(told, Unmasked):
                answer = self._begin(told, masks)
            if answer is None or told is None or told.transfer != answer.manifest.transfer:
                self._session.acknowledge([item.tag], item.epoch)
                continue
            answer.tags.append(item.tag)
            if self._add(answer, told, data):
                self._session.acknowledge(answer.tags, item.epoch)
                return answer.manifest
        return None

    def _put(self, request: Unmask) -> None:
        message = encode(self._signer.sign(request))
        self._models.publish(
            [Publication("", UNMASK_QUEUE, message, "unmask", persistent=True, mandatory=True)],
            waits_for_queue=True,
        )

    def _told(
        self, item: Delivery, asked: str
    ) -> tuple[Revealed | Unmasked | Chunk | None, memoryview]:
        """What the keeper says to the request of that digest; None if it says nothing."""
        try:
            told, data = self._read(item)
        except Rejected as rejected:
            log.warning("answer_dropped", "not an answer of the keeper: %s", rejected)
            return None, item.body
        if isinstance(told, Revealed | Unmasked) and told.asked != asked:
            log.info("answer_dropped", "the keeper's answer to another request of ours")
            return None, item.body
        return told, data

    def _read(self, item: Delivery) -> tuple[Revealed | Unmasked | Chunk, memoryview]:
        if item.user != KEEPER_USER or item.unreadable:
            raise Rejected("identity", f"it is of {item.user!r}")
        sealed, body = decode(item.body, READER)
        if not isinstance(sealed, Sealed):
            raise Rejected("sealed", "it is not sealed")
        message, data = decode(self._opener.open(sealed, body, item.user), READER)
        if isinstance(message, Revealed | Unmasked):
            self._verifier.check(message)
        elif not isinstance(message, Chunk):
            raise Rejected("malformed", f"a keeper may not send a {message.kind}")
        return message, data

    def _begin(self, told: Unmasked, masks: Masks) -> _Answer:
        expected = masks.begin_unmasking(told.figures)
        if told.size_bytes != expected:
            raise Damaged(f"{told.size_bytes} bytes of masks for {expected} of updates")

        def store(start: int, data: memoryview) -> None:
            fresh = max(self._taken - start, 0)  # what came before, over a link that was lost
            if fresh < len(data):
                masks.subtract(start + fresh, data[fresh:])
            self._taken = max(self._taken, start + len(data))

        return _Answer(told, Incoming(told, store, told.content), [])

    @staticmethod
    def _add(answer: _Answer, told: Chunk | Unmasked, data: memoryview) -> bool:
        try:
            return answer.incoming.add(told.index if isinstance(told, Chunk) else 0, data)
        except Rejected as rejected:
            raise Damaged(str(rejected)) from None
