"""One message body: it is understood or rejected, and takes no memory that it does not bring."""

from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.fuzz.frames import Wire, hostile
from tests.fuzz.instructions import Instructions, packed
from warren_shared.errors import Rejected
from warren_shared.protocol.codec import decode, encode, kind_of, layout_of
from warren_shared.protocol.encryption import UpdateDecryptor, UpdateEncryptor
from warren_shared.protocol.messages import InitialManifest, ModelManifest, Sealed, Transfer
from warren_shared.protocol.transfer import Incoming

KEY = X25519PrivateKey.from_private_bytes(bytes(range(32)))
OPENER = UpdateDecryptor([KEY], "f")
SEALER = UpdateEncryptor(KEY.public_key(), "f", "alfa")


# Built of instructions instead of taken as it is: a byte that begins no msgpack object.
BUILT: Final = b"\xc1"
# The rest says how a broker's frames look, and then the body, which may be built.
FRAMED: Final = b"\xc7"
WIRE: Final = Wire()

_TABLE: Final = [{"name": "w", "shape": [2, 2], "dtype": "float32"}]
_TRANSFER: Final = {"transfer": "ab" * 8, "size_bytes": 16, "digest": 0}
HEADERS: Final[tuple[dict[str, Any], ...]] = (
    {"kind": "model", "federation": "f", "run": "ab" * 4, "version": 3, "tensors": _TABLE,
     "config": {"epochs": 2}, "local": {"epochs": 1}, "signatures": {}, "content": None,
     **_TRANSFER},
    {"kind": "update", "federation": "f", "run": "ab" * 4, "client": "alfa", "base_version": 1,
     "num_examples": 5, "layout": "cd" * 8, "metrics": {"loss": 0.5}, "local_steps": 3,
     "evaluation": {"num_examples": 2, "means": {"loss": 0.1}, "confusion": [[1, 0], [0, 1]],
                    "scores": []}, **_TRANSFER},
    {"kind": "initial", "federation": "f", "client": "phone.3", "tensors": _TABLE, **_TRANSFER},
    {"kind": "chunk", "transfer": "ab" * 8, "index": 1},
    {"kind": "sealed", "key": "ab" * 8},
    {"kind": "join", "federation": "f", "client": "alfa"},
    {"kind": "probe"},
    {"kind": "notice", "notice": "rejected", "reason": "stale", "detail": "late",
     "base_version": 1, "config": {"seed": 1}},
)  # fmt: skip


def built(told: Instructions) -> bytes:
    """A message with a few things wrong."""
    header: dict[str, Any] = {"protocol": 1, **HEADERS[told.below(len(HEADERS))]}
    for _ in range(told.below(4)):
        names = sorted(header)
        name = names[told.below(len(names))]
        inner = header[name]
        if isinstance(inner, dict) and inner and told.below(2):
            key = sorted(inner)[told.below(len(inner))]
            header[name] = {**inner, key: told.value()}
        else:
            header[name] = told.value()
    data = told.bytes(told.below(40))
    body = packed(header, data)
    return b"".join(SEALER.seal((body,))) if told.below(8) == 7 else body


def data_of(data: bytes) -> bytes:
    """The body that comes out of the connection, for an input of the fuzzer."""
    if data.startswith(FRAMED):
        told = Instructions(data[1:])
        user = ("alfa", "phone", None)[told.below(3)]
        properties, cut = hostile(told, user), told.below(256)
        rest = told.rest()
        body = built(Instructions(rest[1:])) if rest.startswith(BUILT) else rest
        came = WIRE.deliver(body, 1, properties, cut)
        assert came.unreadable or came.user == user, "nobody is believed but the broker"
        assert came.user in (user, None)
        return bytes(came.body)
    return built(Instructions(data[1:])) if data.startswith(BUILT) else data


def run(data: bytes) -> None:
    """Whatever a receiver does with one body; raises nothing."""
    data = data_of(data)
    kind_of(data)
    try:
        message, rest = decode(data)
    except Rejected:
        return
    # What was understood means the same when it is said again.
    again, same = decode(b"".join(encode(message, rest)))
    assert again == message
    assert same == rest
    try:
        if isinstance(message, Sealed):
            decode(OPENER.open(message, rest, "alfa"))
        if isinstance(message, ModelManifest | InitialManifest):
            layout = layout_of(message.tensors, message.size_bytes)
            assert layout.size_bytes == message.size_bytes
        if isinstance(message, Transfer):
            stored: list[tuple[int, int]] = []
            incoming = Incoming(message, lambda start, piece: stored.append((start, len(piece))))
            incoming.add(0, rest)
            assert sum(size for _, size in stored) <= message.size_bytes
            incoming.add(1, rest)
    except Rejected:
        pass
