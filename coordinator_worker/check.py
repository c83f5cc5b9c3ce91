"""``coordinator-worker check``: what would keep a coordinator from its work, and what to do."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from coordinator_worker.aggregation.algorithm import Algorithm
from coordinator_worker.rounds.policy import Policy
from coordinator_worker.rounds.privacy_rules import PrivacyRules
from coordinator_worker.rounds.secure_rules import SecureRules
from coordinator_worker.rounds.stopping import StoppingCriteria
from coordinator_worker.settings import CoordinatorSettings, parse_config, read_initial_model
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from warren_shared.errors import BrokerRefused, ConfigError
from warren_shared.folder_lock import FolderLock
from warren_shared.naming import (
    EVENT_EXCHANGE,
    MODEL_EXCHANGE,
    REJECTED_EXCHANGE,
    REJECTED_QUEUE,
    UNMASK_QUEUE,
    UNMASKED_QUEUE,
    UPDATE_EXCHANGE,
    UPDATE_QUEUE,
)
from warren_shared.protocol.encryption import UpdateDecryptor
from warren_shared.protocol.signing import Signer
from warren_shared.service import health_check
from warren_shared.service.broker_check import Inspection
from warren_shared.service.health_check import Finding, fail, ok, warn

APPLY = "run `broker-config apply`"
DEFAULT_EXCHANGE = ""


def check(settings: CoordinatorSettings) -> Iterator[Finding]:
    """Findings about settings, broker and checkpoint folder; nothing of them is changed."""
    yield from _settings(settings)
    yield from _broker(settings)
    if settings.parent is not None:
        yield from _above(settings)
    yield from _folder(settings)


def _settings(settings: CoordinatorSettings) -> Iterator[Finding]:
    try:
        privacy = PrivacyRules.from_settings(settings)
        secure = SecureRules.from_settings(settings, privacy)
        aggregator = Algorithm.from_settings(settings).aggregator
        Policy.from_settings(settings, aggregator, privacy, secure)
        StoppingCriteria.from_settings(settings)
        parse_config(settings.config)
        if settings.initial_model is not None:
            read_initial_model(settings.initial_model, settings.exchange)
        UpdateDecryptor.of(settings.secret(settings.decrypt_keys), settings.federation)
        signer = Signer.of(settings.secret(settings.signing_keys))
    except ConfigError as error:
        yield fail("settings", error)
        return
    yield from (warn("settings", stray) for stray in settings.unknown_settings)
    masked = f", sums of {secure.asked.least} users or more" if secure is not None else ""
    told = f"coordinator of {settings.federation!r}, quorum {settings.quorum}{masked}"
    yield ok("settings", told)
    if signer is None:
        yield warn("keys", "models are not signed: start with the bundle, --env-file")


def _broker(settings: CoordinatorSettings) -> Iterator[Finding]:
    name = f"check · {settings.federation}"
    with closing(Inspection(settings.broker, name)) as inspection:
        yield from inspection.reach()
        if not inspection.reached:
            return
        of_keeper = (UNMASKED_QUEUE,) if settings.secure is not None else ()
        queues = (UPDATE_QUEUE, REJECTED_QUEUE, *of_keeper)
        yield from _objects(inspection, queues)
        if settings.secure is not None:
            yield _keeper(inspection)
        yield from _permissions(inspection, queues)


def _above(settings: CoordinatorSettings) -> Iterator[Finding]:
    from coordinator_worker.runtime.upstream import client_above  # and with it the client's side

    try:
        above = client_above(settings)
    except ConfigError as error:
        yield fail("above", error)
        return
    yield ok("above", f"a client of {above.federation!r}")
    with closing(Inspection(above.broker, f"check · {above.federation}")) as inspection:
        for finding in inspection.reach():
            yield replace(finding, about=f"above, {finding.about}")


def _objects(inspection: Inspection, queues: Sequence[str]) -> Iterator[Finding]:
    wanted = (MODEL_EXCHANGE, UPDATE_EXCHANGE, REJECTED_EXCHANGE, EVENT_EXCHANGE)
    missing = [name for name in wanted if not inspection.has_exchange(name)]
    if missing:
        yield fail("exchanges", f"there is no {', '.join(missing)}: {APPLY}")
    else:
        yield ok("exchanges", f"{', '.join(wanted)} are there")
    for name in queues:
        try:
            found = inspection.queue(name)
        except BrokerRefused as error:
            yield fail(f"queue {name}", f"{error}; use the coordinator's bundle, or {APPLY}")
            continue
        if found is None:
            yield fail(f"queue {name}", f"there is none: {APPLY}")
        else:
            yield ok(f"queue {name}", f"{found[0]} messages wait, {found[1]} consumers")
    if inspection.is_log(UPDATE_QUEUE) is False:
        yield fail(
            f"queue {UPDATE_QUEUE}",
            "it is no quorum queue with a single active consumer, and updates could be lost or"
            f" shared out: delete it when it is empty, and {APPLY}",
        )


def _keeper(inspection: Inspection) -> Finding:
    """Whether it is there; a run may begin without, and waits for it."""
    found = inspection.queue(UNMASK_QUEUE)
    if found is None:
        return fail("keeper", f"there is no queue {UNMASK_QUEUE}: {APPLY}")
    if not found[1]:
        return warn("keeper", f"{found[0]} requests wait and no keeper runs: have it started")
    return ok("keeper", "it runs")


def _permissions(inspection: Inspection, queues: Sequence[str]) -> Iterator[Finding]:
    unread = [q for q in queues if not inspection.may_read(q)]
    writes = (MODEL_EXCHANGE, EVENT_EXCHANGE, REJECTED_EXCHANGE, DEFAULT_EXCHANGE)
    unwritten = [e or "amq.default" for e in writes if not inspection.may_publish(e)]
    lacks = [f"read {name}" for name in unread] + [f"publish to {name}" for name in unwritten]
    if lacks:
        hint = f"use the coordinator's bundle, or {APPLY}"
        yield fail("permissions", f"this user may not {', '.join(lacks)}: {hint}")
    elif inspection.may_declare("check"):
        yield warn("permissions", "this user may make queues, too: use the coordinator's bundle")
    else:
        yield ok("permissions", "as they should be")


def _folder(settings: CoordinatorSettings) -> Iterator[Finding]:
    folder = settings.checkpoint_dir
    try:
        state = checkpoint.load(folder) if folder.is_dir() else None
    except ConfigError as error:
        yield fail("checkpoint", error)
        return
    yield from health_check.folder(folder, "--checkpoint-dir", _size_bytes(state))
    if not folder.is_dir():
        return
    yield _lease(folder)
    if state is None:
        yield ok("checkpoint", "none yet: a run begins with version 0")
    elif state.federation != settings.federation:
        mine = settings.federation
        hint = "give another --checkpoint-dir"
        yield fail("checkpoint", f"it is of federation {state.federation!r}, not {mine!r}: {hint}")
    else:
        yield ok("checkpoint", f"run {state.run} is at version {state.version}")


def _size_bytes(state: State | None) -> int:
    """Of a checkpoint; what is written over takes no room, but the run's next model may."""
    if state is None:
        return 0
    return sum(part.buffer.nbytes for part in (state.weights, *state.slots.values()))


def _lease(folder: Path) -> Finding:
    lease = FolderLock(folder)
    if not lease.take():
        return warn("lease", "a coordinator that runs has it; another one would be its standby")
    lease.give_back()
    return ok("lease", "not taken")
