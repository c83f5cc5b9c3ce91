"""The coordinator's keys: what it signs its models with, and what updates are encrypted to.

All are 32 bytes as base64url text: Ed25519 (RFC 8032) for signatures, X25519 (RFC 7748) for
encryption. They are made where the federation is administered and travel in bundles; the broker
never sees one.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from warren_shared.errors import BrokerConfigError
from warren_shared.files import write_private

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# The key in use and the one before it, so that bundles may be handed out one by one.
_KEPT: Final = 2


@dataclass(frozen=True)
class Keys:
    """Private keys, the newest first.

    Not ``in_bundles``: a rotation has made the newest, and has not written all bundles yet.
    """

    signing: tuple[str, ...]
    decrypt: tuple[str, ...]
    in_bundles: bool = True

    @property
    def verify(self) -> tuple[str, ...]:
        """The public keys of ``signing``."""
        return tuple(_public(Ed25519PrivateKey.from_private_bytes, key) for key in self.signing)

    @property
    def encrypt(self) -> str:
        """The public key of the newest of ``decrypt``."""
        return _public(X25519PrivateKey.from_private_bytes, self.decrypt[0])


def ensure_keys(home: Path) -> Keys:
    """The keys kept in ``home``, made now if there are none yet.

    Raises:
        BrokerConfigError: the file is damaged.
    """
    path = home / "keys.json"
    try:
        found = json.loads(path.read_text())
        done = bool(found.get("in_bundles", True))
        keys = Keys(tuple(found["signing"]), tuple(found["decrypt"]), done)
        if not (keys.verify and keys.encrypt):
            raise ValueError("no key")
    except FileNotFoundError:
        return rotate_keys(home, Keys((), ()), in_bundles=True)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise BrokerConfigError(
            f"{path} is damaged: restore it, or delete it and hand out all bundles again"
        ) from error
    return keys


def rotate_keys(home: Path, keys: Keys, *, in_bundles: bool = False) -> Keys:
    """New keys in front of ``keys``, kept in ``home``; the oldest is given up."""
    signing = _text(Ed25519PrivateKey.generate().private_bytes_raw())
    decrypt = _text(X25519PrivateKey.generate().private_bytes_raw())
    new = Keys((signing, *keys.signing)[:_KEPT], (decrypt, *keys.decrypt)[:_KEPT], in_bundles)
    return _save(home, new)


def bundled(home: Path, keys: Keys) -> Keys:
    """Remember that all bundles have ``keys``."""
    return _save(home, replace(keys, in_bundles=True))


def _save(home: Path, keys: Keys) -> Keys:
    write_private(home / "keys.json", json.dumps(asdict(keys), indent=2) + "\n")
    return keys


def _public(load: Callable[[bytes], Ed25519PrivateKey | X25519PrivateKey], private: str) -> str:
    return _text(load(base64.urlsafe_b64decode(private)).public_key().public_bytes_raw())


def _text(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode("ascii")
