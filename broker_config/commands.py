"""What each subcommand of ``broker-config`` does; returns the exit code."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from typing import TYPE_CHECKING, Any

from broker_config import options as read
from broker_config.broker.management_api import Management
from broker_config.declaration.definitions import definitions as as_definitions
from broker_config.declaration.topology import topology
from broker_config.home import changes
from broker_config.home.drift import findings
from broker_config.home.lock import alone
from broker_config.node import lifecycle as private
from broker_config.node import unit
from broker_config.node.foreground import attend
from broker_config.node.install import starts_at_boot
from broker_config.node.ports import Ports
from broker_config.secrets.bundles import (
    Address,
    bundle_path,
    ensure_passwords,
    load_passwords,
    write_bundles,
)
from broker_config.secrets.certificates import Authority
from broker_config.secrets.keys import bundled, ensure_keys, rotate_keys
from warren_shared import strict_json
from warren_shared.errors import BrokerConfigError
from warren_shared.files import private_folder
from warren_shared.naming import KEEPER_USER

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from broker_config.declaration.federation import Federation
    from broker_config.node.record import Node

    Command = Callable[[argparse.Namespace], int]


def _alone(home: str) -> Callable[[Command], Command]:
    """A command that has its home to itself, and that of its broker's passwords.

    ``home`` is "made" if need be, "kept" private if it is there, or only "read".
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def locked(options: argparse.Namespace) -> int:
            folder = read.home(options)
            if home == "made" and not folder.is_dir():
                read.broker_home(options)  # refused before a folder is made for it
            if home == "made" or (home == "kept" and folder.is_dir()):
                private_folder(folder)
            with contextlib.ExitStack() as held:
                if folder.is_dir():
                    held.enter_context(alone(folder))
                    credentials = read.broker_home(options)
                    if credentials.is_dir():
                        held.enter_context(alone(credentials))
                return command(options)

        return locked

    return decorate


def up(options: argparse.Namespace) -> int:
    """Start the private node, or find it running; with ``--foreground`` stay with it."""
    if options.foreground:
        attend(read.home(options), lambda: _up(options))
    else:
        _up(options)
    return 0


@_alone("made")
def _up(options: argparse.Namespace) -> int:
    federation = read.federation(options)
    keeper_before = _keeper(options)
    ports = Ports(
        amqp=options.port or 0,
        management=options.management_port or 0,
        prometheus=options.prometheus_port or 0,
    )
    home, server = read.home(options), options.server
    if (other := read.broker_home(options)) != home:
        raise BrokerConfigError(
            f"{home} has a federation on the broker of {other}: `broker-config up --home {other}`"
            " starts that, `broker-config apply` is for this"
        )
    if options.replace_lost:
        private.replace_lost(home)
    node = private.up(
        home, federation, ports, server=server, tls=options.tls, host=options.host,
        nodes=options.nodes,
    )  # fmt: skip
    _table(
        ("broker", f"{node.address.amqp}/{federation.name}"),
        *_management_rows(node),
        ("bundles", _bundles(node.home, federation)),
    )
    if federation.keeper != keeper_before:
        _hand_over_all(node.home, federation)
    _warn_of_debians_broker()
    return 0


@_alone("kept")
def down(options: argparse.Namespace) -> int:
    """Stop the private node."""
    home = read.home(options)
    stopped = private.down(home)
    _say("stopped" if stopped else f"no private node is running in {home}")
    return 0


def install(options: argparse.Namespace) -> int:
    """Write the systemd unit of the private node."""
    unit.install(read.home(options), options)
    return 0


def status(options: argparse.Namespace) -> int:
    """Show how the private node is; 1 if it is not running."""
    home = read.home(options)
    found = private.status(home)
    node = found.node
    if options.json:
        _say_json([_status(home, found)])
        return 0 if found.running else 1
    if node is None:
        _table(("running", "no"), ("home", str(home)), ("to start", "broker-config up"))
        return 1
    running = "yes" if found.version else "yes, but it does not answer"
    if found.members:
        every = (node, *found.members)
        running += f", {sum(each.running for each in every)} of {len(every)} nodes"
    _table(
        ("running", running if found.running else "no"),
        ("version", found.version or "-"),
        *(
            ("node" if each is node else "", f"{each.name} ({_process(each)})")
            for each in (node, *found.members)
        ),
        ("broker", node.address.amqp),
        *_management_rows(node),
        ("other ports", f"distribution {node.ports.distribution}, epmd {node.ports.epmd}"),
        *(("log" if each is node else "", str(each.log)) for each in (node, *found.members)),
    )
    return 0 if found.running else 1


@_alone("made")
def apply(options: argparse.Namespace) -> int:
    """Bring the broker to the declared state."""
    return _apply(options, read.federation(options))


@_alone("made")
def enrol(options: argparse.Namespace) -> int:
    """Add clients."""
    federation = read.federation(options, options.name)
    code = _apply(options, federation)
    _hand_over(read.home(options), options.name)
    return code


@_alone("read")
def check(options: argparse.Namespace) -> int:
    """Print one line per difference; 1 if there are any."""
    federation = read.federation(options)
    opened, node = _broker(options)
    with opened as management:
        address = _address(options, node, management)
        found = findings(read.homes(options), federation, address, management)
    if options.json:
        _say_json({"kind": each.kind, "name": each.name, "detail": each.detail} for each in found)
    else:
        for difference in found:
            _say(str(difference))
    if node is not None:
        _warn_of_debians_broker()
    return 1 if found else 0


@_alone("kept")
def definitions(options: argparse.Namespace) -> int:
    """Print RabbitMQ's definitions."""
    declared = topology(read.federation(options))
    passwords = None
    if options.password_hashes:
        passwords = ensure_passwords(
            read.broker_home(options), [user.name for user in declared.users]
        )
    _say(json.dumps(as_definitions(declared, passwords), indent=2))
    return 0


@_alone("kept")
def revoke(options: argparse.Namespace) -> int:
    """End the access of clients and fleets, or of the keeper."""
    federation = read.remembered_federation(options)
    opened, node = _broker(options)
    with opened as management:
        address = _address(options, node, management)
        homes = read.homes(options)
        gone = changes.revoke(homes, federation, options.name, address, management)
    for name in options.name:
        kind = "queues" if name == KEEPER_USER else "mailboxes"
        what = f"its user, connections and {kind} are gone"
        if name not in gone:
            what = f"its connections and {kind} here are gone; other federations keep the user"
        _say(f"revoked {name}: {what}")
    return 0


@_alone("kept")
def rotate(options: argparse.Namespace) -> int:
    """Replace passwords or the coordinator's keys."""
    federation = read.remembered_federation(options)
    known = [user.name for user in topology(federation).users]
    if options.keys and options.name:
        raise BrokerConfigError("--keys are the coordinator's alone: leave out the names")
    names = options.name or known
    if unknown := set(names) - set(known):
        raise BrokerConfigError(f"{min(unknown)!r} is no user here; users: {', '.join(known)}")
    opened, node = _broker(options)
    with opened as management:
        address = _address(options, node, management)
        if options.keys:
            _rotate_keys(read.homes(options), federation, address)
        else:
            changes.rotate(read.homes(options), federation, names, address, management)
            _hand_over(read.home(options), names)
    return 0


def _rotate_keys(homes: changes.Homes, federation: Federation, address: Address) -> None:
    keys = ensure_keys(homes.folder)
    if keys.in_bundles:
        keys = rotate_keys(homes.folder, keys)
    else:
        # Another one would give up the keys that clients still have.
        _say("the last rotation was interrupted: it is finished now, with the keys that it made")
    write_bundles(homes.folder, federation, address, load_passwords(homes.credentials))
    _hand_over_all(homes.folder, federation)
    sys.stdout.flush()
    # Last: when the bundles to hand over are printed, everything is done.
    bundled(homes.folder, keys)


def _hand_over(home: Path, names: Iterable[str]) -> None:
    for name in names:
        _say(f"hand to {name}: {bundle_path(home, name)}")


def _hand_over_all(home: Path, federation: Federation) -> None:
    _hand_over(home, (user.name for user in topology(federation).users))


def _keeper(options: argparse.Namespace) -> str:
    """The keeper that the home remembers: with another one, all bundles have changed."""
    known = changes.remembered(read.home(options))
    return known.keeper if known else ""


def _apply(options: argparse.Namespace, federation: Federation) -> int:
    homes = read.homes(options)
    keeper_before = _keeper(options)
    opened, node = _broker(options)
    with opened as management:
        address = _address(options, node, management)
        reset = getattr(options, "reset_passwords", False)
        changed = changes.grant(homes, federation, address, management, reset_passwords=reset)
    for difference in changed:
        _say(f"repaired: {difference}")
    bundles = _bundles(homes.folder, federation)
    _table(("broker", f"{address.amqp}/{federation.name}"), ("bundles", bundles))
    if federation.keeper != keeper_before:
        _hand_over_all(homes.folder, federation)
    return 0


@_alone("made")
def certs(options: argparse.Namespace) -> int:
    """Make certificates for a broker of the operator's own."""
    home, federation = read.home(options), read.federation(options)
    authority = Authority(home)
    server = authority.server(options.host, renew=options.renew)
    if options.mutual:
        for user in topology(federation).users:
            authority.user(user.name, renew=options.renew)
    _table(
        ("authority", str(authority.certificate)),
        ("server", f"{server.certificate}, {server.key.name}"),
        *([("users", str(authority.folder / "users"))] if options.mutual else []),
    )
    node = private.status(home).node
    if node is None:
        certificates = " --client-certificates" if options.mutual else ""
        _say(
            "on the broker: ssl_options.cacertfile, certfile and keyfile are these; then\n"
            f"broker-config apply --ca {authority.certificate}{certificates} --amqp-address amqps://…"
        )
    elif node.running:
        _say("the running node takes them with `broker-config down` and `up`")
    return 0


def _address(options: argparse.Namespace, node: Node | None, management: Management) -> Address:
    """Where the broker's users find it."""
    if node:
        return node.address
    trust = read.trust(options)
    mutual = Authority(read.broker_home(options)) if trust.client_certificates else None
    address = read.amqp_address(options, management)
    return Address(address, management.address, trust.ca, mutual)


def _broker(options: argparse.Namespace) -> tuple[Management, Node | None]:
    """The management API to use, and the private node if it is that one's."""
    status = private.status(read.broker_home(options))
    node = status.node
    url = read.management_url(options)
    if url is not None:
        management = Management(url, read.trust(options).ca)
        if node is not None and management.address == node.address.management:
            management.close()
            return Management(url, node.address.ca), node
        return management, None
    if node is None or not status.running:
        raise BrokerConfigError(
            "no broker: `broker-config up` starts a private one; for a broker of your own set "
            "WARREN_MANAGEMENT_URL=http://user:password@host:15672"
        )
    return node.manage(), node


def _status(home: Path, found: private.Status) -> dict[str, Any]:
    """What ``status --json`` prints."""
    node = found.node
    return {
        "home": str(home),
        "running": found.running,
        "version": found.version,
        "broker": node.address.amqp if node else None,
        "management": node.address.management if node else None,
        "metrics": node.metrics_url or None if node else None,
        "nodes": [
            {"name": each.name, "running": each.running, "pid": each.pid, "log": str(each.log)}
            for each in ((node, *found.members) if node else ())
        ],
    }


def _process(node: Node) -> str:
    return f"pid {node.pid}" if node.running else "down"


def _management_rows(node: Node) -> list[tuple[str, str]]:
    where = f"user admin, password in {node.home / 'credentials.json'}"
    metrics = [("metrics", node.metrics_url)] if node.metrics_url else []
    scheme, _, places = node.address.management.partition("://")
    at = "  ".join(f"{scheme}://{place}" for place in places.split(","))
    return [("management UI", at), ("log in", where), *metrics]


def _bundles(home: Path, federation: Federation) -> str:
    users = ",".join(("coordinator", "watcher", *federation.revocable))
    return str(bundle_path(home, f"{{{users}}}"))


def _warn_of_debians_broker() -> None:
    if starts_at_boot():
        sys.stderr.write(
            "broker-config: Debian's rabbitmq-server is enabled: from the next boot on it and epmd"
            " listen on every address, and the private node needs neither (`sudo systemctl disable"
            " rabbitmq-server epmd.socket`, unless somebody else does)\n"
        )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _say_json(values: Iterable[Mapping[str, Any]]) -> None:
    sys.stdout.write(strict_json.lines(values))


def _table(*rows: tuple[str, str]) -> None:
    for name, value in rows:
        _say(f"{name:<14} {value}")
