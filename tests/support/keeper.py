"""A keeper's public line, for tests that need one and no keeper."""

import base64
from typing import Final


def base64url(raw: bytes) -> str:
    """``raw`` as keys stand in bundles."""
    return base64.urlsafe_b64encode(raw).decode("ascii")


VERIFY: Final = base64url(b"v" * 32)
ENCRYPT: Final = base64url(b"e" * 32)
KEEPER: Final = f"{VERIFY}.{ENCRYPT}"
OTHER_KEEPER: Final = f"{base64url(b'w' * 32)}.{base64url(b'f' * 32)}"
