"""Message bodies in one piece, as they come off the wire."""

import itertools
import tempfile
from pathlib import Path

from coordinator_worker.rounds.staging import Staging
from warren_shared.protocol import codec
from warren_shared.protocol.messages import Message
from warren_shared.protocol.transfer import Outgoing


def encode(message: Message, data: memoryview | bytes = b"") -> bytes:
    """One message body."""
    return b"".join(codec.encode(message, data))


def bodies_of(transfer: Outgoing, most: int | None = None) -> list[bytes]:
    """The (first ``most``) message bodies of a transfer."""
    return [b"".join(body) for body in itertools.islice(transfer, most)]


def staging(memory_bytes: int = 1 << 30) -> Staging:
    """Staging that spills into the system's folder for such things."""
    return Staging(Path(tempfile.gettempdir()), memory_bytes)
