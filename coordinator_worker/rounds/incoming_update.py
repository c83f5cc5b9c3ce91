"""A transfer from a client as it arrives, piece by piece."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import sqrt

from coordinator_worker.aggregation.weighted_sum import sum_of_squares
from coordinator_worker.rounds.staging import Piece, Staging
from warren_shared.errors import Rejected
from warren_shared.protocol.messages import InitialManifest, UpdateManifest
from warren_shared.protocol.transfer import Incoming
from warren_shared.tensors.compression import RAW, Decoder
from warren_shared.tensors.layout import Layout


@dataclass(eq=False)
class IncomingUpdate:
    """A transfer that is arriving or has arrived: its pieces, and the deliveries it came in.

    The deliveries stay unacknowledged until the round that the update is in has closed; ``tags``
    has the newest of each message, in the messages' order.

    ``private``: an update that is not finite is no reason to reject it, since that would tell of
    its data; it counts as one that moves nothing (``is_void``). Nothing can be told of the bytes of
    one that ``is_masked``.
    """

    manifest: UpdateManifest | InitialManifest
    layout: Layout
    staging: Staging
    staleness_weight: float = 1.0
    sum_of_squares: float = 0.0
    tags: list[int] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    private: bool = False
    is_masked: bool = False
    is_void: bool = False

    def __post_init__(self) -> None:
        self.incoming = Incoming(self.manifest, self._store)
        self._decoder: Decoder | None = None
        is_update = isinstance(self.manifest, UpdateManifest) and not self.is_masked
        if (
            isinstance(self.manifest, UpdateManifest)
            and is_update
            and self.manifest.encoding != RAW
        ):
            read = partial(self.staging.read, self.pieces)
            encoding, transfer = self.manifest.encoding, self.manifest.transfer
            self._decoder = Decoder(self.layout, encoding, transfer, read)

    @property
    def hides_norm(self) -> bool:
        """Whether its norm is nobody's business."""
        return self.private or self.is_masked

    @property
    def norm(self) -> float:
        """L2 norm of what has arrived."""
        return sqrt(self.sum_of_squares)

    def _store(self, start: int, data: memoryview) -> None:
        if self._decoder is None and not self.is_masked:
            with self._tolerating():
                self.sum_of_squares += sum_of_squares(self.layout, start, data)
        last = start + len(data) == self.manifest.size_bytes
        self.pieces.append(self.staging.keep(start, data, last=last))

    def check_encoded(self) -> None:
        """Look at what has come whole, if it is encoded; raises Rejected(``not-finite``)."""
        if self._decoder is not None:
            with self._tolerating():
                self.sum_of_squares = self._decoder.sum_of_squares()

    @contextmanager
    def _tolerating(self) -> Iterator[None]:
        try:
            yield
        except Rejected:
            if not self.private:
                raise
            self.is_void = True

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """The tensors' bytes in pieces of (offset, bytes), each good until the next is asked."""
        if self._decoder is not None:
            return self._decoder.chunks()
        return self.staging.chunks(self.pieces)

    def read(self, start: int, into: memoryview) -> None:
        """Copy the tensors' bytes from ``start`` on until ``into`` is full."""
        if self._decoder is not None:
            self._decoder.read(start, into)
        else:
            self.staging.read(self.pieces, start, into)

    def release(self) -> None:
        """Give the pieces up."""
        self.staging.release(self.pieces)
        self.pieces.clear()
