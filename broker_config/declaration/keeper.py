"""The keeper's public keys: the one line that a federation knows of its third party."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from warren_shared.errors import BrokerConfigError

_KEY: Final = re.compile("[A-Za-z0-9_-]{43}=?")


@dataclass(frozen=True)
class KeeperKeys:
    """What ``keeper-worker keys`` prints at the keeper's own organisation, as base64url text.

    ``verify`` is an Ed25519 key, which the keeper signs with; ``encrypt`` an X25519 key, to which
    clients encrypt their seeds.
    """

    verify: str
    encrypt: str

    @classmethod
    def parse(cls, line: str) -> KeeperKeys:
        """The keys of ``VERIFY.ENCRYPT``, with or without padding.

        Raises:
            BrokerConfigError: that is no such line, or a key with which nothing would be secret.
        """
        try:
            verify, encrypt = (_raw(part) for part in line.strip().split("."))
            _check_encrypt(encrypt)
        except ValueError:
            raise BrokerConfigError(
                f"{line!r} is no keeper: give the line VERIFY.ENCRYPT that `keeper-worker keys`"
                " prints at the keeper's organisation (--keeper none: no keeper)"
            ) from None
        return cls(_text(verify), _text(encrypt))

    @property
    def line(self) -> str:
        """The line, with padding."""
        return f"{self.verify}.{self.encrypt}"


def _raw(text: str) -> bytes:
    if not _KEY.fullmatch(text):
        raise ValueError("no 32 bytes as base64url")
    return base64.urlsafe_b64decode(text.rstrip("=") + "=")


def _check_encrypt(key: bytes) -> None:
    # The few points of low order make the same secret with every key: seeds would be public.
    # RFC 7748, section 6.1: an exchange with one gives zeros, which `exchange` refuses.
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(key))


def _text(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode("ascii")
