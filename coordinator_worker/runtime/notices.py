"""What the coordinator says to clients besides models."""

import contextlib
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.errors import Stopped
from warren_shared.naming import MODEL_EXCHANGE, UPDATE_QUEUE, mailboxes
from warren_shared.protocol.codec import encode
from warren_shared.protocol.messages import MAX_HERE, PROTOCOL, Notice, Probe
from warren_shared.protocol.signing import Signer


class Notices:
    """Speaks through ``session``, in messages that ``signer`` signs if there is one.

    With ``spares`` each mailbox has a second one, and what is in the first is in both.
    """

    def __init__(self, session: Session, signer: Signer | None, *, spares: bool = False) -> None:
        self._session = session
        self._signer = signer
        self._spares = spares

    def tell(self, client: str, *, reads: int = PROTOCOL, **notice: Any) -> None:
        """Put a notice into the mailbox of ``client``, if it has one.

        To one that ``reads`` no protocol with signatures it goes without: such a client asks for
        none, and could not be told that it is too old.
        """
        self._post(client, Notice(**notice), reads)

    def call_all_hands(self, version: int, client: str | None = None) -> None:
        """Ask those who were not drawn for ``version`` to train from it too: all, or ``client``."""
        notice = Notice(notice="all-hands", base_version=version)
        self._post(client, notice)

    def tell_missing(
        self, client: str | None, run: str, version: int, here: Collection[str] = ()
    ) -> None:
        """Tell ``client``, or all but those ``here``, that nothing of theirs has come."""
        notice = Notice(
            notice="missing", run=run, base_version=version, here=sorted(here)[:MAX_HERE]
        )
        self._post(client, notice, mandatory=True)

    def call_together(self) -> None:
        """Ask every client to join: those that stayed on after another run don't know of this."""
        self._session.publish([self._letter(MODEL_EXCHANGE, "", Notice(notice="join"))])

    def _post(
        self, client: str | None, notice: Notice, reads: int = PROTOCOL, *, mandatory: bool = False
    ) -> None:
        targets = [(MODEL_EXCHANGE, "")]
        if client is not None:
            targets = [("", queue) for queue in mailboxes(client, spares=self._spares)]
        for exchange, key in targets:
            letter = self._letter(exchange, key, notice, reads)
            self._session.post(replace(letter, mandatory=mandatory))

    def _letter(
        self, exchange: str, routing_key: str, notice: Notice, reads: int = PROTOCOL
    ) -> Publication:
        if self._signer is not None and reads >= Notice.SIGNED_SINCE:
            notice = self._signer.sign(notice)
        headers = {"notice": notice.notice} | ({"reason": notice.reason} if notice.reason else {})
        return Publication(exchange, routing_key, encode(notice), "notice", headers=headers)


def probe(session: Session) -> None:
    """Send a message to the active coordinator; wait until the queue has it."""
    with contextlib.suppress(Stopped):
        session.publish([Publication("", UPDATE_QUEUE, encode(Probe()), "probe")])
