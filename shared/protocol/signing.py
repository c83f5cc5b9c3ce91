"""What the coordinator says, signed (Ed25519, RFC 8032): a broker cannot make up a model.

A signature covers the whole header, and the header names the BLAKE3 digest of the weights: XXH3
finds damage, but an attacker can make other bytes with the same. BLAKE3 digests 4.6 GB/s on
one core of the machine of benchmarks/, SHA-256 1.7 even with its special instructions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import msgpack
from blake3 import blake3

from warren_shared.errors import Rejected
from warren_shared.protocol.keys import key_id, read_keys
from warren_shared.protocol.messages import PROTOCOL, Signed
from warren_shared.tensors.layout import Buffer, bytes_of

if TYPE_CHECKING:  # a worker without keys does without its 7 MB
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

_CONTEXT: Final = b"warren signature 1\n"  # so that no other use of the key can be mistaken for it

M = TypeVar("M", bound=Signed)


def content_digest(buffer: Buffer) -> str:
    """BLAKE3 of a buffer, 32 bytes as hex."""
    return blake3(bytes_of(buffer)).hexdigest()


class Signer:
    """Signs with each of ``keys``, so that those whose bundle knows only one of them are served."""

    def __init__(self, keys: Sequence["Ed25519PrivateKey"]) -> None:
        self._keys = [(key_id(key.public_key().public_bytes_raw()), key) for key in keys]

    @classmethod
    def of(cls, text: str | None) -> "Signer | None":
        """From a bundle's WARREN_SIGNING_KEYS; None if it has none."""
        if not text:
            return None
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(read_keys("WARREN_SIGNING_KEYS", text, Ed25519PrivateKey.from_private_bytes))

    @property
    def key_ids(self) -> tuple[str, ...]:
        """What its keys are called in signatures; public."""
        return tuple(name for name, _key in self._keys)

    def sign(self, message: M) -> M:
        """``message`` with signatures."""
        said = signed_bytes(message)
        signatures = {name: key.sign(said).hex() for name, key in self._keys}
        return message.model_copy(update={"signatures": signatures})


class Verifier:
    """Believes what is signed by one of ``keys``."""

    def __init__(self, keys: Sequence["Ed25519PublicKey"]) -> None:
        self._keys = {key_id(key.public_bytes_raw()): key for key in keys}

    @classmethod
    def of(cls, text: str | None) -> "Verifier | None":
        """From a bundle's WARREN_VERIFY_KEYS; None if it has none."""
        if not text:
            return None
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return cls(read_keys("WARREN_VERIFY_KEYS", text, Ed25519PublicKey.from_public_bytes))

    def check(self, message: Signed) -> None:
        """Raise Rejected(``signature``) unless the coordinator said this."""
        if not message.signatures:
            raise Rejected(
                "signature",
                "it is not signed (protocol 1), and this client (protocol"
                f" {PROTOCOL}) has keys and takes only what is: the coordinator is older than"
                " the keys, or was started without WARREN_SIGNING_KEYS",
            )
        known = [name for name in message.signatures if name in self._keys]
        if not known:
            raise Rejected(
                "signature", "it is signed with keys that are not in this client's bundle"
            )
        from cryptography.exceptions import InvalidSignature

        said = signed_bytes(message)
        for name in known:
            try:
                self._keys[name].verify(bytes.fromhex(message.signatures[name]), said)
            except InvalidSignature:
                raise Rejected("signature", "the signature is not the coordinator's") from None


def signed_bytes(message: Signed) -> bytes:
    """What a signature of ``message`` is over."""
    # Headers are exact types in the order of their declaration, so both ends pack the same bytes;
    # what is at its default stays out, or who knows one field more would pack others.
    said = message.header()
    said.pop("signatures", None)
    del said["protocol"]  # the signatures raise it, and it says nothing but how to read the rest
    packed: bytes = msgpack.packb(said)
    return _CONTEXT + packed
