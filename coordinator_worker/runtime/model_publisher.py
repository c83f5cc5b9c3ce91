"""Every client's mailbox as one model: what ``FederatedCoordinator.send`` sends to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Self

from warren_shared.amqp.publisher import BLOCKED, Publication
from warren_shared.amqp.session import Session
from warren_shared.naming import MODEL_EXCHANGE, NEWEST_QUEUE, mailboxes
from warren_shared.protocol.codec import encode, tensor_entries
from warren_shared.protocol.messages import ModelManifest, Newest
from warren_shared.protocol.model_header import ModelHeader
from warren_shared.protocol.signing import Signer, content_digest
from warren_shared.protocol.transfer import Outgoing, digest, new_transfer, transfer_fields
from warren_shared.tensors.layout import Array, Weights
from warren_shared.tensors.model_change import ModelChange


@dataclass(frozen=True)
class OutgoingMessages:
    """The messages of one transfer, addressed; made again each time they are iterated.

    The last, without which no client has a model, waits for ``may_end``. ``headers`` are for people
    who look at the first in the management UI; no program reads them.
    """

    bodies: Outgoing
    exchange: str
    routing_key: str
    may_end: Event
    headers: dict[str, Any]
    mark: Publication | None  # which goes out before the last, so that no newer model is unknown

    def __iter__(self) -> Iterator[Publication | None]:
        for number, body in enumerate(self.bodies, start=1):
            while number == len(self.bodies) and not self.may_end.is_set():
                yield BLOCKED
            if number == len(self.bodies) and self.mark is not None:
                yield self.mark
            kind, headers = ("model", self.headers) if number == 1 else ("chunk", None)
            yield Publication(
                self.exchange,
                self.routing_key,
                body,
                kind,
                mandatory=number == 1 and self.exchange == MODEL_EXCHANGE,
                headers=headers,
            )


class ModelPublisher:
    """Publishes global models through ``session``: to all clients, or again to one that joined.

    A version is announced, digested and signed once, however many clients take it; ``header`` says
    what its manifest does besides the weights. Model messages are transient: the coordinator can
    always publish its model again. ``spares``: each mailbox has a second one.

    With a ``change`` the newest model goes to everybody as what it moved by, and whole to a client
    that joined.
    """

    def __init__(
        self,
        session: Session,
        weights: Weights,
        signer: Signer | None,
        manifest: ModelManifest,
        *,
        header: ModelHeader,
        spares: bool,
    ) -> None:
        self._session = session
        self._signer = signer
        self._spares = spares
        self.header = header
        self._may_end = Event()
        self._may_end.set()
        self._announced = manifest
        self._outgoing = Outgoing(manifest, weights.buffer)
        self._whole: Outgoing | None = self._outgoing
        self._weights = weights
        self._change: ModelChange | None = None

    @classmethod
    def announce(
        cls,
        session: Session,
        weights: Weights,
        signer: Signer | None = None,
        *,
        header: ModelHeader,
        spares: bool = False,
    ) -> Self:
        """A publisher whose newest model is ``weights``, digested and signed, but not sent yet."""
        manifest = _manifest(weights, header, signer)
        return cls(session, weights, signer, manifest, header=header, spares=spares)

    def set_header(self, header: ModelHeader) -> None:
        """Say this of the next model."""
        self.header = header

    def set_change(self, change: ModelChange | None) -> None:
        """Send the next model as ``change`` from the version before it; with None whole."""
        self._change = change

    def hold_last_chunk(self) -> None:
        """Publish all of the next model but its last message, until ``release``."""
        self._may_end.clear()

    def wait_until_released(self) -> None:
        """Return when the next model may be published whole."""
        self._may_end.wait()

    def release(self) -> None:
        """The model may become whole."""
        self._may_end.set()
        self._session.resume_publishing()

    @property
    def manifest(self) -> ModelManifest:
        """How the newest model was announced to everybody."""
        return self._announced

    @property
    def weights_digest(self) -> int:
        """XXH3 of the newest model's weights."""
        return _weights_digest(self._announced)

    def get_weights(self) -> Weights:
        """Return the newest global model."""
        return self._weights

    def set_weights(self, weights: Sequence[Array]) -> None:
        """Publish ``weights`` to every mailbox; return when the broker has them all."""
        self._weights = Weights.of(weights)
        change, self._change = self._change, None
        if change is None:
            self._announced = _manifest(self._weights, self.header, self._signer)
            self._whole = self._outgoing = Outgoing(self._announced, self._weights.buffer)
        else:
            self._announced = _manifest_of_change(self._weights, change, self.header, self._signer)
            self._outgoing = Outgoing(self._announced, change.code)
            self._whole = None
        # After a partition a node may know no mailbox at all, and take models to nowhere.
        letters = self._letters(self._outgoing, MODEL_EXCHANGE, "", self._mark())
        self._session.publish(letters, waits_for_queue=True)

    def send_to(self, client: str) -> None:
        """Publish the newest model, whole, into the mailbox of ``client`` alone."""
        if self._whole is None:
            manifest = _as_whole(self._announced, self._weights, self._signer)
            self._whole = Outgoing(manifest, self._weights.buffer)
        for queue in mailboxes(client, spares=self._spares):
            self._session.publish(self._letters(self._whole, "", queue))

    def _mark(self) -> Publication:
        told = self._announced
        newest = Newest(
            federation=told.federation,
            run=told.run,
            version=told.version,
            digest=self.weights_digest,
        )
        return Publication("", NEWEST_QUEUE, encode(newest), "newest", persistent=True)

    def _letters(
        self,
        bodies: Outgoing,
        exchange: str,
        routing_key: str,
        mark: Publication | None = None,
    ) -> OutgoingMessages:
        told = {name: getattr(bodies.manifest, name) for name in ("run", "version", "final")}
        told["messages"] = len(bodies)
        return OutgoingMessages(bodies, exchange, routing_key, self._may_end, told, mark)


def _weights_digest(manifest: ModelManifest) -> int:
    found = manifest.weights_digest
    return manifest.digest if found is None else found


def _manifest_of_change(
    weights: Weights, change: ModelChange, header: ModelHeader, signer: Signer | None
) -> ModelManifest:
    """How ``weights`` are announced to who has the version before them."""
    return _manifest(
        weights,
        header,
        signer,
        fields={
            **transfer_fields(change.code, change.transfer),
            "base": header.version - 1,
            "weights_digest": digest(weights.buffer),
        },
    )


def _as_whole(change: ModelManifest, weights: Weights, signer: Signer | None) -> ModelManifest:
    """How the model is announced that ``change`` leads to, to who has not the one before it."""
    fields = {
        "transfer": new_transfer(),
        "size_bytes": weights.buffer.nbytes,
        "digest": _weights_digest(change),
        "base": None,
        "weights_digest": None,
        "signatures": {},
    }
    manifest = change.model_copy(update=fields)
    return signer.sign(manifest) if signer is not None else manifest


def _manifest(
    weights: Weights,
    header: ModelHeader,
    signer: Signer | None,
    fields: Mapping[str, str | int] | None = None,
) -> ModelManifest:
    """How ``weights`` are announced; ``fields`` are those of the transfer, if it is not theirs."""
    manifest = ModelManifest(
        tensors=tensor_entries(weights.layout),
        **(fields or transfer_fields(weights.buffer)),  # type: ignore[arg-type]
        federation=header.federation,
        run=header.run,
        version=header.version,
        config=dict(header.config),
        local=header.local,
        max_staleness=header.max_staleness,
        participation=header.participation,
        final=header.final,
        fixed_state=dict(header.fixed_state),
        uplink=header.uplink,
        downlink=header.downlink,
        privacy=header.privacy,
        secure=header.secure,
        content=content_digest(weights.buffer) if signer is not None else None,
    )
    return signer.sign(manifest) if signer is not None else manifest
