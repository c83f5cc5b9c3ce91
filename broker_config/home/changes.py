"""What changes who may log in, in an order that can be interrupted anywhere and done again.

To grant: passwords, federation and bundles are in the home before the broker lets anybody in. To
take away: a mark in the home, then the broker, then what the home remembers. Killed between two
steps, the same command or the next `up` goes on; a user that the home does not know is not let in,
and a revoked user does not come back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from broker_config.broker import enrolment, revocation
from broker_config.broker.apply import perform, plan, put_bounds, put_permission
from broker_config.broker.cluster import is_cluster
from broker_config.declaration.federation import load, save
from broker_config.declaration.topology import topology
from broker_config.home.marks import revoked, rotating
from broker_config.secrets.bundles import (
    Address,
    bundle_path,
    load_passwords,
    new_passwords,
    save_passwords,
    write_bundles,
)
from broker_config.secrets.certificates import Authority
from warren_shared.errors import BrokerConfigError
from warren_shared.naming import COORDINATOR_USER, KEEPER_USER, WATCHER_USER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from broker_config.broker.drift import Difference
    from broker_config.broker.management_api import Management
    from broker_config.declaration.federation import Federation

_OLD_CERTIFICATE: Final = (
    "users log in by certificate here, and that of the keeper before would be good again:"
    " `broker-config revoke keeper`, `down`, delete HOME/tls and HOME/revoked/keeper, repeat this,"
    " and hand out all bundles: they have another authority"
)


@dataclass(frozen=True)
class Homes:
    """The folder of a federation, and the one that has the passwords of its broker's users."""

    folder: Path
    credentials: Path

    @property
    def file(self) -> Path:
        """What remembers the federation."""
        return self.folder / "federation.json"


def remembered(home: Path) -> Federation | None:
    """The federation that ``home`` remembers, without who was revoked; None if there is none.

    Raises:
        BrokerConfigError: its file is damaged.
    """
    found = load(home / "federation.json")
    if found is None:
        return None
    return found.without(name for name in revoked(home).names() if name in found.revocable)


def grant(
    homes: Homes,
    federation: Federation,
    address: Address,
    management: Management,
    *,
    reset_passwords: bool = False,
    also: Iterable[str] = (),
) -> list[Difference]:
    """Let in whom ``federation`` has, remember it and write its bundles; return what differed.

    ``also`` are users beside those of the federation that need a password. Whose revocation was
    interrupted is out first; one that is in ``federation`` all the same gets another password. So
    is a keeper that ``federation`` has no longer; another one gets another password.

    Raises:
        BrokerConfigError: see `plan`; nothing was changed then, but for revocations.
    """
    if is_cluster(management):
        federation = replace(federation, spare_mailboxes=True)
    marks = revoked(homes.folder)
    is_replaced = _has_another_keeper(homes, federation, mutual=address.mutual is not None)
    _mark_keeper_that_left(homes, federation)
    _refuse_old_certificates(marks.names(), federation, address)
    finish_revocations(homes, federation.name, management)
    declared = topology(federation)
    users = [user.name for user in declared.users]
    known = load_passwords(homes.credentials)
    if is_replaced:
        known.pop(KEEPER_USER, None)
    passwords = known | new_passwords(name for name in (*users, *also) if name not in known)
    unfinished = [name for name in rotating(homes.credentials).names() if name in users]
    unfinished += [KEEPER_USER] if is_replaced and KEEPER_USER not in unfinished else []
    planned = plan(
        declared, management, passwords, reset_passwords=reset_passwords, ours=unfinished
    )
    if is_replaced:
        rotating(homes.credentials).put([KEEPER_USER])
    save_passwords(homes.credentials, passwords)
    save(homes.file, federation)
    marks.prepare()
    marks.drop(federation.revocable)
    write_bundles(homes.folder, federation, address, passwords)
    differed = perform(planned, management)
    if unfinished:
        _replace(homes, federation, unfinished, passwords, management)
    enrolment.tell(federation, management)
    return differed


def _refuse_old_certificates(
    marked: Iterable[str], federation: Federation, address: Address
) -> None:
    for name in marked:
        if not address.mutual or name not in federation.revocable:
            continue
        if name == KEEPER_USER:
            raise BrokerConfigError(_OLD_CERTIFICATE)
        raise BrokerConfigError(
            f"{name} was revoked, and its certificate would be good again: enrol it under "
            "another name"
        )


def retire_keeper(homes: Homes, federation: Federation, *, mutual: bool) -> None:
    """Have the next `grant` end the access of a keeper that ``federation`` has no longer.

    For who saves ``federation`` before that.

    Raises:
        BrokerConfigError: users log in by certificate (``mutual``), and another keeper has come.
    """
    _mark_keeper_that_left(homes, federation)
    if _has_another_keeper(homes, federation, mutual=mutual):
        rotating(homes.credentials).put([KEEPER_USER])
        _forget_secrets(homes, [KEEPER_USER], [KEEPER_USER])


def _mark_keeper_that_left(homes: Homes, federation: Federation) -> None:
    before = load(homes.file)
    if before is None or before.name != federation.name:
        return
    if before.keeper and not federation.keeper:
        revoked(homes.folder).put([KEEPER_USER])


def _has_another_keeper(homes: Homes, federation: Federation, *, mutual: bool) -> bool:
    """Whether the one that the home remembers is replaced: both log in as the same user."""
    before = remembered(homes.folder)
    if before is None or before.name != federation.name:
        return False
    if not federation.keeper or before.keeper in ("", federation.keeper):
        return False
    if mutual:
        raise BrokerConfigError(_OLD_CERTIFICATE)
    return True


def finish_revocations(homes: Homes, vhost: str, management: Management) -> None:
    """Take away what revocations that were interrupted have left."""
    names = revoked(homes.folder).names()
    if not names:
        return
    for name in revocation.with_access(vhost, names, management):
        revocation.revoke(vhost, name, management)
    passwords = load_passwords(homes.credentials)
    gone = [name for name in names if name in passwords and management.get("users", name) is None]
    _forget_secrets(homes, names, gone)


def revoke(
    homes: Homes,
    federation: Federation,
    names: Sequence[str],
    address: Address,
    management: Management,
) -> list[str]:
    """End the access of ``names``, clients, fleets, or the keeper; return whose user is gone.

    On a disk that takes nothing their access ends all the same.

    Raises:
        BrokerConfigError: an unknown name; or the home could not forget them.
    """
    _check_known(homes, federation, names, management)
    is_marked = True
    try:
        for name in names:  # what is deleted makes room for the mark
            bundle_path(homes.folder, name).unlink(missing_ok=True)
        revoked(homes.folder).put(names)
    except OSError:
        is_marked = False
    gone = [name for name in names if revocation.revoke(federation.name, name, management)]
    rest = federation.without(name for name in names if name in federation.revocable)
    put_bounds(topology(rest), management)
    if KEEPER_USER in names:
        put_permission(topology(rest), COORDINATOR_USER, management)
    try:
        _forget_secrets(homes, names, gone)
        save(homes.file, rest)
        write_bundles(homes.folder, rest, address, load_passwords(homes.credentials))
    except OSError as error:
        who = ", ".join(names)
        before = (
            "" if is_marked else " before the next `up` or `apply`, which would let it in again"
        )
        raise BrokerConfigError(
            f"{who} has no access any more, but {error.filename or homes.folder}: "
            f"{error.strerror}: make room and repeat `broker-config revoke`{before}"
        ) from None
    enrolment.tell(rest, management)
    return gone


def _check_known(
    homes: Homes, federation: Federation, names: Iterable[str], management: Management
) -> None:
    known = {*federation.revocable, *revoked(homes.folder).names()}
    unknown = [name for name in names if name not in known]
    # Whom an earlier version forgot while the broker still let it in.
    forgotten = revocation.contributors(federation.name, management) if unknown else []
    federation.without(name for name in unknown if name not in forgotten)


def _forget_secrets(homes: Homes, names: Iterable[str], gone: Iterable[str]) -> None:
    out = set(gone)
    passwords = load_passwords(homes.credentials)
    if out & set(passwords):
        kept = {user: password for user, password in passwords.items() if user not in out}
        save_passwords(homes.credentials, kept)
    for name in names:
        bundle_path(homes.folder, name).unlink(missing_ok=True)
    if out and (homes.credentials / "tls").exists():
        authority = Authority(homes.credentials)
        for name in out:
            authority.forget(name)


def rotate(
    homes: Homes,
    federation: Federation,
    names: Sequence[str],
    address: Address,
    management: Management,
) -> None:
    """Give the users ``names`` other passwords; what was opened with the old ones is closed.

    Raises:
        BrokerConfigError: the broker has no such user, or it logs in without a password.
    """
    if address.mutual and set(names) != {WATCHER_USER}:
        raise BrokerConfigError(
            "users log in by certificate here, which another password does not end: revoke a client"
            " and enrol it under another name; only the watcher has one, for the management UI"
        )
    for name in names:
        if management.get("users", name) is None:
            raise BrokerConfigError(f"the broker has no user {name!r}: enrol it first")
    before = load_passwords(homes.credentials)
    marks = rotating(homes.credentials)
    marks.put(names)
    try:
        passwords = save_passwords(homes.credentials, before | new_passwords(names))
    except OSError:
        marks.drop(names)
        raise
    write_bundles(homes.folder, federation, address, passwords)
    _replace(homes, federation, names, passwords, management)


def _replace(
    homes: Homes,
    federation: Federation,
    names: Iterable[str],
    passwords: dict[str, str],
    management: Management,
) -> None:
    users = {user.name: user for user in topology(federation).users}
    revocation.replace_passwords([users[name] for name in names], passwords, management)
    rotating(homes.credentials).drop(names)
