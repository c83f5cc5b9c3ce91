"""What the command line says about the federation and the broker."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import re
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from broker_config.declaration.federation import Federation, Fleet
from broker_config.declaration.keeper import KeeperKeys
from broker_config.home.changes import Homes, remembered
from broker_config.home.marks import revoked
from broker_config.node.ports import NO_PORT
from broker_config.secrets.certificates import read_ca
from warren_shared.amqp.broker_url import host_and_port
from warren_shared.errors import BrokerConfigError
from warren_shared.files import private_folder, write_private

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker_config.broker.management_api import Management

_UNITS: Final = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_BINARY: Final = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def size(text: str) -> int:
    """Bytes of ``64MiB``, ``250 MB``, ``1.5g`` or ``1000000``."""
    matched = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmg]i?)?b?", text.strip().lower())
    if matched is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 64MiB")
    return int(float(matched[1]) * (_UNITS | _BINARY)[matched[2] or ""])


def fleet(text: str) -> Fleet:
    """The fleet of ``NAME:SIZE``."""
    name, separator, number = text.partition(":")
    if not separator or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no fleet like phone:20")
    return Fleet(name, int(number))


def keeper(text: str) -> str:
    """The keeper's public line, or "" for ``none``."""
    try:
        return "" if text.lower() == "none" else KeeperKeys.parse(text).line
    except BrokerConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def port(text: str) -> int:
    """A port number."""
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to 65535")
    return int(text)


def host(text: str) -> str:
    """A name or address that a machine is reached by; "" for this machine's own."""
    try:
        loopback = ipaddress.ip_address(text).is_loopback
    except ValueError:
        loopback = text == "localhost"
        if not re.fullmatch(r"(?!-)[\w-]+(\.[\w-]+)*", text):
            raise argparse.ArgumentTypeError(
                f"{text!r} is no host name or address, such as broker.example (without a port)"
            ) from None
    return "" if loopback else text


def optional_port(text: str) -> int:
    """A port number, or ``off``."""
    return NO_PORT if text.lower() == "off" else port(text)


def home(options: argparse.Namespace) -> Path:
    """The folder that everything is kept in."""
    return Path(options.home or os.environ.get("WARREN_HOME") or ".warren").expanduser().resolve()


def broker_home(options: argparse.Namespace) -> Path:
    """The home whose broker and passwords are used: with ``--on`` another one's, remembered.

    Users are the broker's, not a federation's, so all federations on it share their passwords.

    Raises:
        BrokerConfigError: that is no home, or ours has its own node.
    """
    mine = home(options)
    path = mine / "broker-home"
    given = getattr(options, "on", None)
    if given is None:
        return Path(path.read_text()) if path.exists() else mine
    other = Path(given).expanduser().resolve()
    if not (other / "credentials.json").exists():
        raise BrokerConfigError(f"{other} has no broker yet: `broker-config up --home {given}`")
    if (other / "broker-home").exists():
        raise BrokerConfigError(
            f"{other} itself uses the broker of another home: give --on "
            f"{(other / 'broker-home').read_text()}"
        )
    if other == mine or (mine / "node.json").exists():
        raise BrokerConfigError(
            f"{mine} has its own broker: give the federation on {other} another --home"
        )
    private_folder(mine)
    write_private(path, str(other))
    return other


def homes(options: argparse.Namespace) -> Homes:
    """The folder of the federation, and that of its broker's passwords; see `broker_home`."""
    return Homes(home(options), broker_home(options))


def federation(options: argparse.Namespace, enrolled: Sequence[str] | None = None) -> Federation:
    """The federation that ``home`` remembers, with what the options add or change.

    Whose access was revoked stays out, which is said, whatever the options name; only `enrol`,
    which adds ``enrolled``, lets it in again.

    Raises:
        BrokerConfigError: an impossible name or size, a home that holds another federation, or a
            keeper and updates that are not encrypted.
    """
    known = remembered(home(options))
    name = options.federation
    named = (*(options.client or ()), *(fleet.name for fleet in options.fleet or ()))
    if known is None:
        known = Federation(name or "warren")
        known = replace(known, fleets=()) if named else known
    if name not in (None, known.name):
        raise BrokerConfigError(
            f"{home(options)} holds the federation {known.name!r}: "
            f"give {name!r} its own home with --home"
        )
    model_bytes = options.model_bytes or known.model_bytes
    out = set(revoked(home(options)).names()) & set(named) if enrolled is None else set()
    for user in sorted(out):
        print(  # noqa: T201
            f"broker-config: {user} was revoked and stays out: `broker-config enrol {user}` lets "
            "it in again",
            file=sys.stderr,
        )
    clients = [client for client in options.client or () if client not in out]
    fleets = [fleet for fleet in options.fleet or () if fleet.name not in out]
    grown = known.enrolling((*clients, *(enrolled or ())), fleets)
    keeper = known.keeper if options.keeper is None else options.keeper
    return replace(
        grown,
        model_bytes=model_bytes,
        encrypt_updates=_encrypts_updates(options, known, keeper),
        keeper=keeper,
    )


def _encrypts_updates(options: argparse.Namespace, known: Federation, keeper: str) -> bool:
    asked: bool | None = options.encrypt_updates
    if not keeper:
        return known.encrypt_updates if asked is None else asked
    if asked is False:
        raise BrokerConfigError(
            "--no-encrypt-updates: with a keeper they are encrypted, since keeper and broker"
            " together could read them otherwise; --keeper none takes it away"
        )
    if asked is None and not known.encrypt_updates:
        print(  # noqa: T201
            "broker-config: with a keeper updates are encrypted (--encrypt-updates)",
            file=sys.stderr,
        )
    return True


def remembered_federation(options: argparse.Namespace) -> Federation:
    """The federation that ``home`` remembers.

    Raises:
        BrokerConfigError: it remembers none.
    """
    found = remembered(home(options))
    if found is None:
        raise BrokerConfigError(f"{home(options)} has no federation: name its folder with --home")
    return found


def management_url(options: argparse.Namespace) -> str | None:
    """The management URL of the operator's own broker; None if none is named.

    Raises:
        BrokerConfigError: a password stands on the command line, for everybody to see.
    """
    given: str | None = options.management_url
    if given is None:
        return os.environ.get("WARREN_MANAGEMENT_URL") or None
    if ":" in given.partition("://")[2].rpartition("@")[0]:
        raise BrokerConfigError(
            "a password on the command line shows in the process list: "
            "put it in WARREN_MANAGEMENT_PASSWORD, or the whole URL in WARREN_MANAGEMENT_URL"
        )
    return given


@dataclass(frozen=True)
class Trust:
    """How the operator's own broker speaks TLS: who vouches for it, and who logs in how.

    ``ca`` is base64 of its DER.
    """

    ca: str = ""
    client_certificates: bool = False


def trust(options: argparse.Namespace) -> Trust:
    """As `home` remembers it, with what the options change, which is remembered.

    Raises:
        BrokerConfigError: ``--ca`` names no certificate, or the file was damaged.
    """
    path = home(options) / "tls" / "broker.json"
    try:
        known = Trust(**json.loads(path.read_text())) if path.exists() else Trust()
    except (ValueError, TypeError) as error:
        raise BrokerConfigError(f"{path} is damaged ({error}): delete it, apply again") from error
    ca = read_ca(options.ca) if options.ca else known.ca
    given = options.client_certificates
    found = Trust(ca, known.client_certificates if given is None else given)
    if found != known:
        write_private(path, json.dumps(asdict(found), indent=2) + "\n")
    return found


_HOST_NAME: Final = re.compile(r"(?!-)[\w-]+(\.[\w-]+)*\.?")


def amqp_address(options: argparse.Namespace, management: Management) -> str:
    """Where workers reach the operator's own broker, without a login; remembered with it.

    Raises:
        BrokerConfigError: no address like ``amqps://broker.example:5671``, or a list of such.
    """
    given = ",".join(options.amqp_address or ()) or os.environ.get("WARREN_AMQP_ADDRESS")
    path = home(options) / "amqp-address"
    if given:
        address = _addresses(given)
        write_private(path, f"{management.address} {address}\n")
        return address
    # Of another broker it says nothing.
    known = path.read_text().split() if path.exists() else []
    if len(known) == 2 and known[0] == management.address:
        return known[1]
    return f"amqp://{','.join(host_and_port(host, 5672) for host in management.hosts)}"


_WRONG: Final = (
    "--amqp-address is no address like amqps://broker.example:5671, without a login (several:"
    " amqps://node-1:5671,node-2:5671)"
)


def _addresses(given: str) -> str:
    """One address for all the hosts in ``given``, of which each may have the scheme."""
    found = [_one_address(each.strip()) for each in _join_scheme(given.strip())]
    schemes = {scheme for scheme, _, _ in (each.partition("://") for each in found)}
    if len(schemes) != 1:
        raise BrokerConfigError(f"{_WRONG}: amqp:// or amqps://, the same for all")
    places = dict.fromkeys(each.partition("://")[2] for each in found)
    return f"{schemes.pop()}://{','.join(places)}"


def _join_scheme(given: str) -> list[str]:
    """``given`` at its commas; a host without a scheme has that of the one before it."""
    found: list[str] = []
    scheme = ""
    for each in map(str.strip, given.split(",")):
        before, separator, place = each.partition("://")
        scheme = before if separator else scheme
        found.append(each if separator or not scheme else f"{scheme}://{place or before}")
    return found


def _one_address(given: str) -> str:
    # Not quoted: who writes a login into it has written a password.
    try:
        parts = urlsplit(given)
        parts.port  # noqa: B018  raises what it is worth
    except ValueError:
        raise BrokerConfigError(_WRONG) from None
    host = parts.hostname or ""
    if parts.scheme not in ("amqp", "amqps") or not host or "@" in given:
        raise BrokerConfigError(_WRONG)
    if ":" not in host and not _HOST_NAME.fullmatch(host):
        raise BrokerConfigError(_WRONG)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise BrokerConfigError(f"{_WRONG}, vhost and options, which come from the federation")
    return f"{parts.scheme}://{parts.netloc}"
