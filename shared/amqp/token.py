"""An OAuth2 access token instead of a password, in a file that another process renews.

The broker checks the token, we only look when it ends. It is read at each login, and while a
connection lasts as often as its life demands: a new one goes to the broker without connecting again
(`connection.update-secret`).
"""

import base64
import binascii
import json
import time
from pathlib import Path
from typing import Final, Self

from warren_shared.errors import ConfigError
from warren_shared.observability.log import Log

log = Log(__name__)

LOOKS_IN_A_LIFE: Final = 8  # so that what is renewed in its last quarter is seen in time
SHORTEST_LOOK_S: Final = 0.2
LONGEST_LOOK_S: Final = 30.0
LAST_PART: Final = 0.1  # of its life; by then it should have been renewed


class TokenFile:
    """The ``token`` that is in ``path``, and those that will be there later; see `read`."""

    def __init__(self, path: Path, token: str) -> None:
        self.path = path
        self._token = token
        self._since = time.time()
        self._warned = False

    @classmethod
    def read(cls, path: Path) -> Self:
        """The token in ``path``; raises ConfigError if there is none to begin with."""
        try:
            token = _read(path)
        except OSError as error:
            raise ConfigError(
                f"--token-file {path} cannot be read ({error.strerror}): have it written first, and"
                " let this worker read it"
            ) from None
        if not token:
            raise ConfigError(f"--token-file {path} is empty: have the token written into it")
        return cls(path, token)

    def __repr__(self) -> str:
        """Nothing that is secret."""
        return f"TokenFile({str(self.path)!r})"

    @property
    def token(self) -> str:
        """The newest; while the file cannot be read, or is half written, the last one."""
        self.renewed()
        return self._token

    def renewed(self) -> bool:
        """Read the file again; whether there is another token in it than the last time."""
        try:
            token = _read(self.path)
        except (OSError, ConfigError) as error:
            log.warning("token_unreadable", "the token's file cannot be read: %s", error)
            return False
        if not token or token == self._token:
            return False
        self._token, self._since, self._warned = token, time.time(), False
        return True

    @property
    def has_ended(self) -> bool:
        """Whether the broker cannot take it any more."""
        end = expiry(self._token)
        return end is not None and end <= time.time()

    def look_s(self) -> float:
        """Seconds until the file is to be looked at again; says so if the token is about to end."""
        end = expiry(self._token)
        if end is None:
            return LONGEST_LOOK_S
        left, life = end - time.time(), max(end - self._since, 0.0)
        if left < LAST_PART * life and not self._warned:
            self._warned = True
            log.warning(
                "token_ends", "the token in %s ends in %d s and has not been renewed",
                self.path, max(0, left),
            )  # fmt: skip
        return min(max(life / LOOKS_IN_A_LIFE, SHORTEST_LOOK_S), LONGEST_LOOK_S)


def expiry(token: str) -> float | None:
    """When ``token`` ends, in seconds since 1970, as it says itself; None if it says nothing."""
    _, _, rest = token.partition(".")
    claims = rest.partition(".")[0]
    try:
        found = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        return float(found["exp"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> str:
    """What ``path`` has, but for blanks around it."""
    text = path.read_bytes().strip()
    if not text.isascii() or any(byte <= 32 for byte in text):
        raise ConfigError(f"--token-file {path} holds no token: it is one line without blanks")
    return text.decode("ascii")
