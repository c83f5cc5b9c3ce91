"""Message bodies in one piece, as they come off the wire."""

import itertools
import tempfile
from pathlib import Path

from coordinator_worker.staging import Staging
from shared import wire
from shared.chunks import Outgoing
from shared.messages import Message


def encode(message: Message, data: memoryview | bytes = b"") -> bytes:
    """One message body."""
    return b"".join(wire.encode(message, data))


def bodies_of(transfer: Outgoing, most: int | None = None) -> list[bytes]:
    """The (first ``most``) message bodies of a transfer."""
    return [b"".join(body) for body in itertools.islice(transfer, most)]


def staging(memory_bytes: int = 1 << 30) -> Staging:
    """Staging that spills into the system's folder for such things."""
    return Staging(Path(tempfile.gettempdir()), memory_bytes)
