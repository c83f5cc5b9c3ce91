"""``keeper-worker check``: what would keep a keeper from its work, and what to do."""

from collections.abc import Iterator
from contextlib import closing
from typing import Final

from keeper_worker import keys as key_file
from keeper_worker.keys import KeeperKeys
from keeper_worker.ledger.journal import read_history
from keeper_worker.settings import KeeperSettings
from warren_shared.errors import BrokerRefused, ConfigError
from warren_shared.folder_lock import FolderLock
from warren_shared.naming import (
    EVENT_EXCHANGE,
    KEEPER_USER,
    MASK_QUEUE,
    MODEL_EXCHANGE,
    UNMASK_QUEUE,
    UNMASKED_EXCHANGE,
    UPDATE_EXCHANGE,
    UPDATE_QUEUE,
)
from warren_shared.protocol.encryption import MASKS, UpdateEncryptor
from warren_shared.protocol.signing import Verifier
from warren_shared.service import health_check
from warren_shared.service.broker_check import Inspection
from warren_shared.service.health_check import Finding, fail, ok, warn

APPLY: Final = "run `broker-config apply --keeper LINE`, LINE as `keeper-worker keys` prints it"
BUNDLE: Final = f"use the bundle keeper.env, or {APPLY}"


def check(settings: KeeperSettings) -> Iterator[Finding]:
    """Findings about settings, keys, broker and folder; nothing of them is changed."""
    try:
        keys = key_file.own(settings.state_dir, settings.keeper_key)
        known = settings.known_clients()
        Verifier.of(settings.verify_keys)
        UpdateEncryptor.of(settings.encrypt_key, settings.federation, KEEPER_USER, MASKS)
    except ConfigError as error:
        yield fail("settings", error)
        return
    yield from (warn("settings", stray) for stray in settings.unknown_settings)
    yield ok(
        "settings", f"keeper of {settings.federation!r}, sums of {settings.least} users or more"
    )
    yield ok("keys", f"the line for `broker-config apply --keeper` is {keys.public_line}")
    if known is None:
        yield warn("clients", "whoever the broker lets in counts as a site: name those that are"
                   " with --clients, since who runs the broker can make users")  # fmt: skip
    else:
        yield ok("clients", f"{len(known)} users are sites")
        if len(known) < settings.least:
            yield fail("clients", f"so few make no sum of {settings.least}: lower --least")
    yield from _broker(settings)
    yield from _folder(settings, keys)


def _broker(settings: KeeperSettings) -> Iterator[Finding]:
    name = f"check · {settings.federation}"
    with closing(Inspection(settings.broker, name)) as inspection:
        yield from inspection.reach()
        if not inspection.reached:
            return
        yield from _objects(inspection)
        yield _permissions(inspection)


def _objects(inspection: Inspection) -> Iterator[Finding]:
    if inspection.has_exchange(UNMASKED_EXCHANGE):
        yield ok("exchange", f"{UNMASKED_EXCHANGE} is there")
    else:
        yield fail("exchange", f"there is no {UNMASKED_EXCHANGE}: {APPLY}")
    for name in (MASK_QUEUE, UNMASK_QUEUE):
        try:
            found = inspection.queue(name)
        except BrokerRefused as error:
            yield fail(f"queue {name}", f"{error}; {BUNDLE}")
            continue
        if found is None:
            yield fail(f"queue {name}", f"there is none: {APPLY}")
        elif inspection.is_log(name) is False:
            yield fail(f"queue {name}", "it is no quorum queue with a single active consumer, and"
                       f" seeds could get lost: delete it when it is empty, {APPLY}")  # fmt: skip
        else:
            yield ok(f"queue {name}", f"{found[0]} messages wait, {found[1]} consumers")


def _permissions(inspection: Inspection) -> Finding:
    unread = [f"read {q}" for q in (MASK_QUEUE, UNMASK_QUEUE) if not inspection.may_read(q)]
    if not inspection.may_publish(UNMASKED_EXCHANGE):
        unread.append(f"publish to {UNMASKED_EXCHANGE}")
    if unread:
        return fail("permissions", f"this user may not {', '.join(unread)}: {BUNDLE}")
    others = (UPDATE_EXCHANGE, MODEL_EXCHANGE, EVENT_EXCHANGE, "")
    more = [f"publish to {e or 'amq.default'}" for e in others if inspection.may_publish(e)]
    if inspection.may_read(UPDATE_QUEUE):
        more.append(f"read {UPDATE_QUEUE}")
    if inspection.may_declare("check"):
        more.append("make queues")
    if more:
        return warn("permissions", f"this user may {', '.join(more)}, too, and a keeper must not:"
                    f" {BUNDLE}")  # fmt: skip
    return ok("permissions", "as they should be")


def _folder(settings: KeeperSettings, keys: KeeperKeys) -> Iterator[Finding]:
    folder = settings.state_dir
    yield from health_check.folder(folder, key_file.FLAG, 0)
    lock = FolderLock(folder, "keeper")
    if not lock.take():
        yield warn("lock", "a keeper that runs has the folder; another one would be its standby")
        return
    try:
        history = read_history(folder, keys.encrypt_key_id)
    except ConfigError as error:
        yield fail("ledger", error)
        return
    finally:
        lock.give_back()
    federation = history.federation
    if federation not in (None, settings.federation):
        mine = f"{settings.federation!r}: give another --state-dir, with keys of its own"
        yield fail("ledger", f"it is of federation {federation!r}, not {mine}")
    else:
        sums = sum(run.newest.rounds for run in history.runs.values())
        yield ok("ledger", f"{sums} sums were given away")
