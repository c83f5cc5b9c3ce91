"""Keys as they stand in bundles: 32 bytes in base64url, several of them apart by commas."""

import base64
import binascii
from collections.abc import Callable
from typing import Final, TypeVar

from warren_shared.errors import ConfigError

KEY_ID_BYTES: Final = 8
_KEY_BYTES: Final = 32

K = TypeVar("K")


def read_keys(setting: str, text: str, make: Callable[[bytes], K]) -> tuple[K, ...]:
    """The keys in ``text``; `ConfigError` names ``setting``, never what it holds."""
    from cryptography.exceptions import InvalidKey

    try:
        raw = [base64.b64decode(key, altchars=b"-_", validate=True) for key in text.split(",")]
        if any(len(key) != _KEY_BYTES for key in raw):
            raise ValueError("of another length")
        return tuple(make(key) for key in raw)
    except (ValueError, binascii.Error, InvalidKey):
        raise ConfigError(
            f"{setting} holds no key: use the bundle as `broker-config` wrote it"
        ) from None


def key_id(public: bytes) -> str:
    """The name of a public key: its first bytes."""
    return public[:KEY_ID_BYTES].hex()
