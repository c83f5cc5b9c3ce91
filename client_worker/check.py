"""``client-worker check``: what would keep a client from its work, and what to do."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final

import numpy as np

from client_worker.client import SIDES, FederatedClient
from client_worker.privacy.budget import MemoryBudget
from client_worker.privacy.ledger import read, total
from client_worker.privacy.terms import NO_FOLDER
from client_worker.settings import ClientSettings
from client_worker.tasks.data_check import data_findings
from client_worker.tasks.failures import one_line, reason_of
from client_worker.tasks.task import TaskSource
from warren_shared.amqp.queue_browser import QueuedMessage, peek
from warren_shared.errors import BrokerRefused, ConfigError, Rejected, WarrenError
from warren_shared.naming import (
    MODEL_EXCHANGE,
    REJECTED_EXCHANGE,
    UPDATE_EXCHANGE,
    UPDATE_QUEUE,
    mailbox,
    spare,
)
from warren_shared.protocol.codec import decode, model_layout
from warren_shared.protocol.encryption import UpdateEncryptor
from warren_shared.protocol.messages import LocalTraining, ModelManifest
from warren_shared.protocol.signing import Verifier
from warren_shared.service import health_check
from warren_shared.service.broker_check import Inspection
from warren_shared.service.health_check import Finding, fail, ok, warn

SKEW_S: Final = 60
LOOK_BYTES: Final = 64 << 20  # of a mailbox; the manifest of its model comes first
APPLY: Final = "run `broker-config apply`"


def check(settings: ClientSettings, arguments: list[str], *, train: bool) -> Iterator[Finding]:
    """Findings about settings, broker, folder and task; with ``train`` it trains a step."""
    return Check(settings, arguments, train=train).findings()


class Check:
    """What one step finds out is what the next ones go on from."""

    def __init__(self, settings: ClientSettings, arguments: list[str], *, train: bool) -> None:
        self._settings, self._arguments, self._train = settings, arguments, train
        self._place = ""  # client id whose mailbox is free
        self._queue = ""  # that mailbox, or its spare
        self._newest: ModelManifest | None = None

    def findings(self) -> Iterator[Finding]:
        """All of them, in the order in which they are found."""
        try:
            Verifier.of(self._settings.verify_keys)
            UpdateEncryptor.of(
                self._settings.encrypt_key, self._settings.federation, self._settings.user
            )
            self._settings.mailboxes()
            self._settings.check_keys()
        except ConfigError as error:
            yield fail("settings", error)
            return
        yield from (warn("settings", stray) for stray in self._settings.unknown_settings)
        yield ok("settings", f"{self._settings.user!r} in {self._settings.federation!r}")
        if self._settings.verify_keys is None:
            yield warn("keys", "models of anybody are believed: start with the bundle, --env-file")
        yield from self._broker()
        yield from self._task()

    # --- broker ---------------------------------------------------------------------------------

    def _broker(self) -> Iterator[Finding]:
        name = f"check · {self._settings.user}"
        with closing(Inspection(self._settings.broker, name)) as inspection:
            yield from inspection.reach()
            if not inspection.reached:
                return
            for step in (_updates, _permissions, self._mailbox):
                yield _seen(step, inspection)
        if self._place:
            yield from self._model(self._queue)

    def _mailbox(self, inspection: Inspection) -> Finding:
        taken = 0
        for queue in self._settings.mailboxes():
            found = {
                each: inspection.queue(each)
                for each in ((queue, spare(queue)) if self._settings.spare_mailboxes else (queue,))
            }
            there = {each: state for each, state in found.items() if state is not None}
            if not there:
                if taken:
                    break
                return fail("mailbox", f"there is no {queue}: enrol this client, or {APPLY}")
            if not any(consumers for _, consumers in there.values()):
                self._queue, (messages, _) = next(iter(there.items()))
                self._place = queue.removeprefix(mailbox(""))
                if self._queue != queue:
                    return warn("mailbox", f"{queue} is away, perhaps its node is down;"
                                f" {self._queue} is free, {messages} messages wait")  # fmt: skip
                return ok("mailbox", f"{queue} is free, {messages} messages wait")
            taken += 1
        whose = "it is" if len(self._settings.mailboxes()) == 1 else f"all {taken} places are"
        return warn("lease", f"{whose} taken: fine if by clients of yours that run; one more"
                    " would wait")  # fmt: skip

    def _model(self, queue: str) -> Iterator[Finding]:
        """What waits in the mailbox; all of it is back there afterwards."""
        seen = 0
        newest: tuple[ModelManifest, QueuedMessage] | None = None
        try:
            for letter in peek(self._settings.broker, "check", queue):
                message, _ = decode(letter.body)
                if isinstance(message, ModelManifest):
                    newest = message, letter
                seen += len(letter.body)
                if seen > LOOK_BYTES:
                    break
        except Rejected as rejected:
            hint = "the coordinator's version and this one's differ, or somebody else wrote there"
            yield fail("model", f"{queue} holds what cannot be read ({rejected.detail}): {hint}")
        except WarrenError as error:
            yield fail("mailbox", error)
        if newest is None:
            return
        self._newest, letter = newest
        yield self._genuine(self._newest)
        ahead_s = (letter.timestamp or 0) - time.time()
        if ahead_s > SKEW_S:
            hint = "set this machine's clock or the coordinator's"
            yield warn("clock", f"the newest model is {ahead_s:.0f} s from the future: {hint}")

    def _genuine(self, manifest: ModelManifest) -> Finding:
        verifier = Verifier.of(self._settings.verify_keys)
        said = f"version {manifest.version} of run {manifest.run} is in the mailbox"
        if verifier is None:
            return ok("model", said)
        try:
            verifier.check(manifest)
        except Rejected as rejected:
            hint = "ask for the newest bundle; if this is it, somebody else publishes models"
            return fail("model", f"{said}, but {rejected.detail}: {hint}")
        return ok("model", f"{said}, signed by the coordinator")

    # --- task -----------------------------------------------------------------------------------

    def _task(self) -> Iterator[Finding]:
        try:
            source = TaskSource(self._settings.task, self._arguments)
            config = self._newest.config if self._newest is not None else {}
            shard = self._place.partition(".")[2]
            lease = {"shard": int(shard)} if shard and source.takes("shard") else {}
            client = source.make(source.arguments({**config, **lease})).client()
        except ConfigError as error:
            yield fail("task", error)
            return
        except Exception as error:  # noqa: BLE001  the task is its user's own code
            yield fail("task", f"{reason_of(error)}, raised by {self._settings.task}")
            return
        yield from self._privacy(client)
        yield from data_findings(client)
        code = f" (code {source.code})" if source.code else ""
        made = f"{self._settings.task}{code} is made"
        yield ok("task", f"{made}, with {client.num_examples} examples")
        fits = _layout(client, self._newest) if self._newest is not None else None
        if self._train:
            yield self._step(client)
        if fits is not None:
            yield fits
        if self._settings.state_dir is not None:
            size_bytes = client.layout.size_bytes
            yield from health_check.folder(self._settings.state_dir, "--state-dir", 2 * size_bytes)

    def _privacy(self, client: FederatedClient) -> Iterator[Finding]:
        """Whether records can be kept private, and what is left; nothing of it is spent here."""
        terms, limit = self._settings.record_terms, self._settings.limit
        try:
            if terms is not None:
                client.keep_records_private(MemoryBudget(terms))
            folder = self._settings.state_dir
            if client.budget is not None and folder is None:
                raise ConfigError(NO_FOLDER)
            if folder is None or (client.budget is None and limit is None):
                return
            claims = read(folder)
        except ConfigError as error:
            yield fail("privacy", error)
            return
        promise = limit or (client.budget.terms if client.budget is not None else None)
        if promise is not None:
            whole, of_all = total(claims), f"of {promise.epsilon:g} at delta={promise.delta:g}"
            spent = f"epsilon={whole.epsilon(promise.delta):.3g} for each {whole.unit}"
            said = f"runs have come to {spent}" if claims else "no run has claimed anything"
            yield ok("privacy", f"{said}, {of_all}")

    def _step(self, client: FederatedClient) -> Finding:
        began = time.monotonic()
        asked = self._newest.local if self._newest is not None else LocalTraining()
        steps = 1 if client.takes_plan else None
        local = LocalTraining(steps=steps, exchange=asked.exchange)
        much = "a step" if client.takes_plan else "a round (fit takes no guide)"
        try:
            update = client.train(client.initial(local), local)
        except Exception as error:  # noqa: BLE001  the model is its user's own code
            said = one_line(error) if isinstance(error, WarrenError) else reason_of(error)
            return fail("training", said)
        if not all(np.isfinite(array).all() for array in update.delta):
            return fail("training", "the trained weights are NaN or infinite: lower the learning"
                        " rate, or look for such values in the data")  # fmt: skip
        return ok("training", f"{much} took {time.monotonic() - began:.1f} s")


def _seen(step: Callable[[Inspection], Finding], inspection: Inspection) -> Finding:
    """What ``step`` finds; a look that is refused fails, in the name of what was looked at."""
    try:
        return step(inspection)
    except BrokerRefused as error:
        about = "update" if step is _updates else "mailbox"
        return fail(about, f"{error}; use this client's bundle, or {APPLY}")


def _updates(inspection: Inspection) -> Finding:
    found = inspection.queue(UPDATE_QUEUE)
    if found is None or not inspection.has_exchange(UPDATE_EXCHANGE):
        return fail("update", f"there is no queue or exchange `update`: {APPLY}")
    if not found[1]:
        return warn("update", f"{found[0]} messages wait and no coordinator runs: start one")
    return ok("update", f"{found[0]} messages wait, {found[1]} coordinators run")


def _permissions(inspection: Inspection) -> Finding:
    if not inspection.may_publish(UPDATE_EXCHANGE):
        return fail("permissions", "this user may not publish to `update`: use a client's bundle,"
                    f" or {APPLY}")  # fmt: skip
    more = [e for e in (MODEL_EXCHANGE, REJECTED_EXCHANGE, "") if inspection.may_publish(e)]
    if more or inspection.may_declare("check"):
        what = ", ".join(name or "amq.default" for name in more)
        allowed = f"publish to {what}" if more else "make queues"
        return warn("permissions", f"this user may {allowed}, too: use a client's bundle")
    return ok("permissions", "as they should be")


def _layout(client: FederatedClient, newest: ModelManifest) -> Finding:
    federation = model_layout(newest)
    try:
        client.check_fixed_state(newest.fixed_state)
        layout = client.layout_for(newest.local)
    except ConfigError as error:
        return fail("layout", error)
    if difference := layout.difference(federation, SIDES, roles=True):
        hint = "start with the federation's task"
        return fail("layout", f"this task's model is not the federation's: {difference}; {hint}")
    return ok("layout", f"the task's model is the federation's: {len(federation.tensors)} tensors")
