"""What the keeper says: signed with its key, and sealed to the coordinator."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.naming import UNMASKED_EXCHANGE
from warren_shared.protocol.codec import Body, encode
from warren_shared.protocol.encryption import UpdateEncryptor
from warren_shared.protocol.masking import request_digest
from warren_shared.protocol.messages import MAX_REASON, FigureSum, Revealed, Unmask, Unmasked
from warren_shared.protocol.signing import Signer, content_digest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.layout import Buffer


@dataclass(frozen=True)
class _Letters:
    """Messages of one answer, each sealed as it goes out: a sum costs no second copy."""

    bodies: Iterable[Body]
    kind: str
    encryptor: UpdateEncryptor

    def __iter__(self) -> Iterator[Publication]:
        for number, body in enumerate(self.bodies):
            yield Publication(
                UNMASKED_EXCHANGE,
                "",
                self.encryptor.seal(body),
                "chunk" if number else self.kind,
                persistent=True,
                mandatory=True,
            )


class Answers:
    """Publishes over ``session``, and returns when the broker has confirmed."""

    def __init__(self, session: Session, signer: Signer, encryptor: UpdateEncryptor) -> None:
        self._session, self._signer, self._encryptor = session, signer, encryptor

    def revealed(
        self,
        request: Unmask,
        rounds: int,
        transfers: Sequence[str],
        reason: str = "",
        detail: str = "",
    ) -> None:
        """Say what was revealed, or why nothing is; raises as Session.publish does."""
        told = Revealed(
            federation=request.federation,
            run=request.run,
            version=request.version,
            asked=request_digest(request),
            transfers=list(transfers),
            reason=reason,
            detail=detail[: 4 * MAX_REASON],
            rounds=rounds,
        )
        self._publish([encode(self._signer.sign(told))], told.kind)

    def unmasked(
        self, request: Unmask, rounds: int, buffer: Buffer, figures: Sequence[FigureSum]
    ) -> None:
        """Send a sum, which must not change until this returns."""
        manifest = Unmasked(
            federation=request.federation,
            run=request.run,
            version=request.version,
            asked=request_digest(request),
            content=content_digest(buffer),
            figures=list(figures),
            rounds=rounds,
            **transfer_fields(buffer),  # type: ignore[arg-type]
        )
        self._publish(Outgoing(self._signer.sign(manifest), buffer), manifest.kind)

    def _publish(self, bodies: Iterable[Body], kind: str) -> None:
        self._session.publish(_Letters(bodies, kind, self._encryptor))
