"""The keeper's keys, in a file of its folder: made once, by `keeper-worker keys`.

The ledger is made with them and names them. So a ledger that is gone is noticed, and what is
revealed again with a new one would need new keys, which open no seed of before.
"""

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from keeper_worker.ledger import journal
from warren_shared.errors import ConfigError
from warren_shared.files import writable, write_private
from warren_shared.protocol.encryption import SEEDS, UpdateDecryptor
from warren_shared.protocol.keys import key_id
from warren_shared.protocol.signing import Signer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

FILE: Final = "keys.json"
FLAG: Final = "--state-dir"
FORMAT: Final = 1
_BYTES: Final = 32


@dataclass(frozen=True)
class KeeperKeys:
    """What answers are signed with, what seeds are sealed to, and what noise is drawn with."""

    signing: "Ed25519PrivateKey"
    decrypt: "X25519PrivateKey"
    noise: bytes

    @classmethod
    def new(cls) -> Self:
        """Keys that nobody else has."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        return cls(Ed25519PrivateKey.generate(), X25519PrivateKey.generate(), os.urandom(_BYTES))

    @property
    def encrypt_key_id(self) -> str:
        """What the key of the seeds is called."""
        return key_id(self.decrypt.public_key().public_bytes_raw())

    @property
    def public_line(self) -> str:
        """What `broker-config apply --keeper` takes: VERIFY.ENCRYPT."""
        verify = self.signing.public_key().public_bytes_raw()
        return f"{_text(verify)}.{_text(self.decrypt.public_key().public_bytes_raw())}"

    def signer(self) -> Signer:
        """Signs answers."""
        return Signer([self.signing])

    def decryptor(self, federation: str) -> UpdateDecryptor:
        """Opens seeds."""
        return UpdateDecryptor([self.decrypt], federation, SEEDS, "this keeper")


def make(folder: Path) -> tuple[KeeperKeys, bool]:
    """The keys in ``folder``, and whether they were made now.

    Raises:
        ConfigError: the folder cannot be written, or holds what is damaged.
    """
    writable(folder, FLAG)
    if (folder / FILE).exists():
        return read(folder), False
    keys = KeeperKeys.new()
    try:
        # Before the keys: those that have no ledger are known to have lost it.
        journal.create(folder, keys.encrypt_key_id)
        told = {
            "format": FORMAT,
            "signing": _text(keys.signing.private_bytes_raw()),
            "decrypt": _text(keys.decrypt.private_bytes_raw()),
            "noise": _text(keys.noise),
        }
        write_private(folder / FILE, f"{json.dumps(told)}\n")
    except OSError as error:
        raise ConfigError(f"{FLAG} {folder} cannot be written: {error.strerror}") from None
    return keys, True


def read(folder: Path) -> KeeperKeys:
    """The keys in ``folder``.

    Raises:
        ConfigError: there are none, or they cannot be read.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    path = folder / FILE
    try:
        found: Any = json.loads(path.read_bytes())
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError("of another format")
        signing, decrypt, noise = (
            base64.b64decode(found[name], altchars=b"-_", validate=True)
            for name in ("signing", "decrypt", "noise")
        )
        if len(noise) != _BYTES:
            raise ValueError("of another length")
        return KeeperKeys(
            Ed25519PrivateKey.from_private_bytes(signing),
            X25519PrivateKey.from_private_bytes(decrypt),
            noise,
        )
    except FileNotFoundError:
        raise ConfigError(
            f"{FLAG} {folder} holds no keys: run `keeper-worker keys --state-dir {folder}`, and"
            " give the line that it prints to whoever runs the broker"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path} is damaged: restore it from a backup, or make new keys in another folder"
        ) from None


def own(folder: Path, bundled: str | None) -> KeeperKeys:
    """The keys in ``folder``, which have to be those of the bundle, where it names them.

    Raises:
        ConfigError: as `read`, and if they are others: they would open no seed, and a seed that
            cannot be opened is dropped.
    """
    found = read(folder)
    mine = found.public_line.partition(".")[2]
    if bundled and bundled.rstrip("=") != mine.rstrip("="):
        raise ConfigError(
            f"{FLAG} {folder} has other keys than the bundle names: name the folder in which"
            " `keeper-worker keys` made those, or have the administrator run `broker-config apply"
            " --keeper` with the line of these and hand out all bundles again"
        )
    return found


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()
