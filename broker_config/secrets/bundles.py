"""Passwords of a federation's users, and the bundles that are handed to those who log in."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from broker_config.declaration.keeper import KeeperKeys
from broker_config.declaration.topology import ADMIN
from broker_config.secrets.keys import ensure_keys
from warren_shared import naming
from warren_shared.errors import BrokerConfigError
from warren_shared.files import write_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from broker_config.declaration.federation import Federation
    from broker_config.secrets.certificates import Authority
    from broker_config.secrets.keys import Keys


def load_passwords(home: Path) -> dict[str, str]:
    """The passwords kept in ``home``; empty if there are none yet.

    Raises:
        BrokerConfigError: the file is damaged.
    """
    path = home / "credentials.json"
    try:
        found = json.loads(path.read_text())
        return {str(user): str(password) for user, password in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise BrokerConfigError(f"{path} is damaged: restore it, or delete it and apply") from error


def ensure_passwords(home: Path, users: Iterable[str]) -> dict[str, str]:
    """Passwords for ``users``, of which those that are new are made up and kept in ``home``."""
    passwords = load_passwords(home)
    missing = [user for user in users if user not in passwords]
    return save_passwords(home, passwords | new_passwords(missing)) if missing else passwords


def new_passwords(users: Iterable[str]) -> dict[str, str]:
    """New passwords, not stored anywhere yet."""
    return {user: secrets.token_urlsafe(24) for user in users}


def save_passwords(home: Path, passwords: dict[str, str]) -> dict[str, str]:
    """Keep ``passwords`` in ``home``; return them."""
    write_private(home / "credentials.json", json.dumps(passwords, indent=2) + "\n")
    return passwords


@dataclass(frozen=True)
class Address:
    """Where a broker answers: AMQP as ``amqp://host:port``, management as ``http://host:port``.

    With TLS these are ``amqps`` and ``https``, and ``ca`` (base64 of its DER) vouches for it. Where
    users log in by certificate, ``mutual`` makes theirs.
    """

    amqp: str
    management: str
    ca: str = ""
    mutual: Authority | None = None

    def broker_url(self, user: str, password: str, vhost: str) -> str:
        """The URL a worker logs in with."""
        scheme, _, place = self.amqp.partition("://")
        login = quote(user, safe="") if self.mutual else _login(user, password)
        return f"{scheme}://{login}@{place}/{quote(vhost, safe='')}"

    @property
    def trust(self) -> str:
        """The line of a bundle that says who vouches for the broker."""
        return f"WARREN_CA={self.ca}\n" if self.ca else ""

    def tls(self, user: str) -> str:
        """The lines of the bundle of ``user`` that TLS needs."""
        text = self.trust
        if self.mutual:
            certificate, key = self.mutual.user(user).for_bundle()
            text += f"WARREN_TLS_CERTIFICATE={certificate}\nWARREN_TLS_KEY={key}\n"
        return text

    def management_url(self, user: str, password: str) -> str:
        """The URL of the management UI and API, with the login in it."""
        scheme, _, place = self.management.partition("://")
        return f"{scheme}://{_login(user, password)}@{place}"


def bundle_path(home: Path, user: str) -> Path:
    """The file to hand to the operator of ``user``."""
    return home / "bundles" / f"{user}.env"


def write_bundles(
    home: Path, federation: Federation, address: Address, passwords: Mapping[str, str]
) -> list[Path]:
    """Write one environment file per user whose password is known; return their paths."""
    written = []
    texts = _bundles(ensure_keys(home), federation, address, passwords)
    for user, text in texts.items():
        path = bundle_path(home, user)
        write_private(path, text + address.tls(user))
        written.append(path)
    return written


def outdated_bundles(
    home: Path, federation: Federation, address: Address, passwords: Mapping[str, str]
) -> list[Path]:
    """The bundles in ``home`` that say something else than `write_bundles` would.

    Those that are not there were handed over. A certificate may be older: it is good until it ends.
    """
    if not (home / "keys.json").exists():
        return []
    texts = _bundles(ensure_keys(home), federation, address, passwords)
    texts = {user: text + address.trust for user, text in texts.items()}
    return [
        path
        for user, text in texts.items()
        if (path := bundle_path(home, user)).exists()
        and _without_certificate(path.read_text()) != _without_certificate(text)
    ]


def _without_certificate(text: str) -> set[str]:
    return {line for line in text.splitlines() if not line.startswith("WARREN_TLS_")}


def _bundles(
    keys: Keys, federation: Federation, address: Address, passwords: Mapping[str, str]
) -> dict[str, str]:
    """What the bundle of each user says, but for TLS."""
    places = len(federation.clients) + sum(fleet.size for fleet in federation.fleets)
    trust = f"WARREN_VERIFY_KEYS={','.join(keys.verify)}\n"
    trust += f"WARREN_ENCRYPT_KEY={keys.encrypt}\n" if federation.encrypt_updates else ""
    extra = {
        naming.COORDINATOR_USER: f"WARREN_CLIENTS={places}\n"
        f"WARREN_SIGNING_KEYS={','.join(keys.signing)}\n"
        f"WARREN_DECRYPT_KEYS={','.join(keys.decrypt)}\n"
    }
    if federation.keeper:
        keeper = KeeperKeys.parse(federation.keeper)
        seeds = f"WARREN_KEEPER_KEY={keeper.encrypt}\n"
        answers = f"WARREN_KEEPER_VERIFY_KEY={keeper.verify}\n"
        # The coordinator names the key in its models, so that clients see that both mean one.
        extra[naming.COORDINATOR_USER] += seeds + answers
        # Of the keeper's private keys nothing is known here; with its public one it finds out that
        # it was started with others, which would open no seed.
        extra[naming.KEEPER_USER] = trust + seeds
        trust += seeds
    extra |= {client: f"WARREN_CLIENT={client}\n{trust}" for client in federation.clients}
    extra |= {fleet.name: f"WARREN_FLEET={fleet.name}\n{trust}" for fleet in federation.fleets}
    texts = {}
    spare = "WARREN_SPARE_MAILBOXES=true\n" if federation.spare_mailboxes else ""
    staff = (naming.COORDINATOR_USER, naming.WATCHER_USER, ADMIN.name)
    for user in (*staff, *federation.revocable):
        if user not in passwords:
            continue
        password = passwords[user]
        text = f"WARREN_BROKER_URL={address.broker_url(user, password, federation.name)}\n"
        text += extra.get(user, "")
        if user in (naming.WATCHER_USER, ADMIN.name):
            text += f"WARREN_MANAGEMENT_URL={address.management_url(user, password)}\n"
        elif user != naming.KEEPER_USER:  # it has no mailbox, and knows of none
            text += spare
        texts[user] = text
    return texts


def _login(user: str, password: str) -> str:
    return f"{quote(user, safe='')}:{quote(password, safe='')}"
