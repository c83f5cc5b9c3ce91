"""A buffer as a series of message bodies, and back."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blake3 import blake3
from xxhash import xxh3_64

from warren_shared.errors import Rejected
from warren_shared.naming import CHUNK_BYTES
from warren_shared.protocol.codec import Body, encode
from warren_shared.protocol.messages import Chunk, Transfer
from warren_shared.tensors.layout import Buffer, bytes_of


@dataclass(frozen=True)
class Outgoing:
    """A transfer ready to go; iterating yields its message bodies, as often as it takes.

    A body is two pieces, a small one and a view of ``buffer``: a transfer costs no memory beyond
    its buffer, which must not change until all is confirmed.
    """

    manifest: Transfer
    buffer: Buffer

    def __iter__(self) -> Iterator[Body]:
        view = bytes_of(self.buffer)
        yield encode(self.manifest, view[:CHUNK_BYTES])
        for index in range(1, len(self)):
            start = index * CHUNK_BYTES
            header = Chunk(transfer=self.manifest.transfer, index=index)
            yield encode(header, view[start : start + CHUNK_BYTES])

    def __len__(self) -> int:
        return message_count(self.manifest.size_bytes)


def message_count(size_bytes: int) -> int:
    """How many messages a buffer of ``size_bytes`` takes."""
    return max(1, -(-size_bytes // CHUNK_BYTES))


def digest(buffer: Buffer) -> int:
    """XXH3 of a buffer, 64 bits: guards against damage at ten times the speed of a CRC."""
    return xxh3_64(bytes_of(buffer)).intdigest()


def new_transfer() -> str:
    """An id that no other transfer has."""
    return secrets.token_hex(8)


def transfer_fields(buffer: Buffer, transfer: str | None = None) -> dict[str, str | int]:
    """The fields of a manifest that announce ``buffer``, under a fresh transfer id unless told."""
    return {
        "transfer": transfer or new_transfer(),
        "size_bytes": buffer.nbytes,
        "digest": digest(buffer),
    }


class Incoming:
    """The receiving end of one transfer: hands each chunk to ``store(start, data)`` in order.

    ``content`` is a BLAKE3 digest that somebody vouches for; it is checked instead of the XXH3.

    Chunks of one sender arrive in order (one channel, one queue, and a queue that gives back what
    was not acknowledged in its order), so anything else is a fault and rejects the transfer.
    """

    def __init__(
        self,
        manifest: Transfer,
        store: Callable[[int, memoryview], None],
        content: str | None = None,
    ) -> None:
        self.manifest = manifest
        self._store = store
        self._next = 0
        self._content = content
        self._digest = xxh3_64() if content is None else blake3()

    def add(self, index: int, data: memoryview) -> bool:
        """Take one chunk; True when it was the last. Raises Rejected(``chunk``, ``digest``)."""
        start = index * CHUNK_BYTES
        expected = min(CHUNK_BYTES, self.manifest.size_bytes - start)
        if index != self._next:
            raise Rejected("chunk", f"chunk {index} came where {self._next} was due")
        if len(data) != expected or not data:  # a chunk after the last would be an empty one
            raise Rejected("chunk", f"chunk {index} holds {len(data)} bytes, not {expected}")
        self._digest.update(data)
        self._store(start, data)
        self._next += 1
        if start + expected < self.manifest.size_bytes:
            return False
        if not self._is_as_announced():
            raise Rejected("digest", "the bytes do not have the digest that was announced")
        return True

    def _is_as_announced(self) -> bool:
        if isinstance(self._digest, blake3):
            return self._digest.hexdigest() == self._content
        return self._digest.intdigest() == self.manifest.digest
