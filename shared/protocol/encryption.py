"""Messages that only one worker can read: HPKE (RFC 9180), one encryption for each message.

X25519, HKDF-SHA256, AES-256-GCM, base mode: what `cryptography` offers whole. The federation, the
sender's user and the purpose are bound in, so what one user sealed is nothing in another's name or
another queue. The whole body is sealed, header and metrics too; what the broker still sees is who
sends, when, and how much.

Updates are sealed to the coordinator, the seeds of masks to the keeper, and what the keeper says to
the coordinator again.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from warren_shared.errors import Rejected
from warren_shared.protocol.codec import Body, encode
from warren_shared.protocol.keys import key_id, read_keys
from warren_shared.protocol.messages import Sealed

if TYPE_CHECKING:  # a worker without keys does without its 7 MB
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.hpke import Suite


# What is sealed, as it is bound in, and the setting that has the key.
UPDATES: Final = "sealed"
SEEDS: Final = "mask"
MASKS: Final = "unmasked"
_SETTINGS: Final = {
    UPDATES: "WARREN_ENCRYPT_KEY",
    SEEDS: "WARREN_KEEPER_KEY",
    MASKS: "WARREN_ENCRYPT_KEY",
}


class UpdateEncryptor:
    """Seals what ``user`` sends to the coordinator of ``federation``, or to its keeper."""

    def __init__(
        self, key: "X25519PublicKey", federation: str, user: str, purpose: str = UPDATES
    ) -> None:
        self._key = key
        self._suite = _suite()
        self._info = _info(federation, user, purpose)
        self._header = Sealed(key=key_id(key.public_bytes_raw()))

    @classmethod
    def of(
        cls, text: str | None, federation: str, user: str, purpose: str = UPDATES
    ) -> "UpdateEncryptor | None":
        """From a bundle's WARREN_ENCRYPT_KEY, of seeds WARREN_KEEPER_KEY; None if it has none."""
        if not text:
            return None
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        (key, *_) = read_keys(_SETTINGS[purpose], text, X25519PublicKey.from_public_bytes)
        return cls(key, federation, user, purpose)

    @property
    def key_id(self) -> str:
        """What the key is called."""
        return self._header.key

    def seal(self, body: Body) -> Body:
        """``body`` as one that only its reader can read; 48 bytes and a header longer."""
        return encode(self._header, self._suite.encrypt(b"".join(body), self._key, self._info))


class UpdateDecryptor:
    """Opens what is sealed to one of ``keys``; ``reader`` is who we are, as senders are told."""

    def __init__(
        self,
        keys: Sequence["X25519PrivateKey"],
        federation: str,
        purpose: str = UPDATES,
        reader: str = "this coordinator",
    ) -> None:
        self._keys = {key_id(key.public_key().public_bytes_raw()): key for key in keys}
        self._federation = federation
        self._purpose = purpose
        self._reader = reader

    @classmethod
    def of(cls, text: str | None, federation: str, purpose: str = UPDATES) -> "UpdateDecryptor":
        """From a bundle's WARREN_DECRYPT_KEYS; opens nothing if it has none."""
        if not text:
            return cls((), federation, purpose)
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        read = X25519PrivateKey.from_private_bytes
        return cls(read_keys("WARREN_DECRYPT_KEYS", text, read), federation, purpose)

    def open(self, sealed: Sealed, data: memoryview, user: str | None) -> bytes:
        """The body that ``user`` sealed; raises Rejected(``sealed``)."""
        key = self._keys.get(sealed.key)
        if key is None:
            raise Rejected(
                "sealed",
                f"it is encrypted to a key that is not {self._reader}'s: hand its sender the newest"
                " bundle",
            )
        from cryptography.exceptions import InvalidTag

        try:
            info = _info(self._federation, user or "", self._purpose)
            return _suite().decrypt(data, key, info)
        except (InvalidTag, ValueError):
            raise Rejected("sealed", "it was not encrypted by the user who sent it") from None


def _suite() -> "Suite":
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _info(federation: str, user: str, purpose: str) -> bytes:
    return f"warren {purpose} 1\n{federation}\n{user}".encode()
