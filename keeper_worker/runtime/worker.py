"""The keeper's shell: takes seeds and requests one by one and does what the pure parts decide.

The order of operations is the promise: check, write the ledger (with noise, before that what the
next round's noise needs), add up, publish and wait for the confirm, acknowledge. Killed anywhere,
the next start finds the request in the broker, the seeds too, and the ledger says whether the set
was revealed; then it is, again, with the same bytes.

Seeds stay unacknowledged until they can be of no use: the broker is where they are kept. Those of a
set are acknowledged when the coordinator asks for a later version, since it has this one in its
checkpoint then, or when a set of another run is revealed.

One process at a time has the lock on the folder, and it alone consumes.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from keeper_worker import keys as key_file
from keeper_worker.keys import KeeperKeys
from keeper_worker.ledger.entries import Entry
from keeper_worker.ledger.history import History, RunHistory
from keeper_worker.ledger.journal import Journal
from keeper_worker.ledger.slots import Slots
from keeper_worker.runtime import events, listeners
from keeper_worker.runtime.answers import Answers
from keeper_worker.runtime.inbox import (
    Item,
    Link,
    LookAgain,
    RequestCame,
    SeedCame,
    Stop,
    WatchdogTick,
)
from keeper_worker.runtime.links import STANDBY, KeeperLinks
from keeper_worker.settings import KeeperSettings
from keeper_worker.sums.adder import Adder
from keeper_worker.sums.noise import NoiseSource
from keeper_worker.sums.privacy import NoiseRules
from keeper_worker.sums.rules import Plan, Refused, Rules, check_origin, plan, revealed
from keeper_worker.sums.seeds import Seeds, Waiting
from warren_shared.amqp.backoff import backoff_s
from warren_shared.amqp.delivery import Delivery
from warren_shared.errors import ConfigError, Rejected, Stopped
from warren_shared.files import writable
from warren_shared.folder_lock import FolderLock
from warren_shared.naming import COORDINATOR_USER, KEEPER_USER
from warren_shared.observability.event_bus import EventBus
from warren_shared.observability.log import Log
from warren_shared.protocol.codec import decode
from warren_shared.protocol.encryption import MASKS, UpdateDecryptor, UpdateEncryptor
from warren_shared.protocol.messages import Sealed, Seed, Unmask
from warren_shared.protocol.signing import Verifier
from warren_shared.service.lifecycle import on_stop_signal
from warren_shared.tensors.layout import Buffer

log = Log(__name__)

US: Final = "this keeper"
QUIET_S: Final = 1.0  # without a seed: those that were there before the request have come
PATIENCE_S: Final = 10.0  # if seeds never cease to come
LOOK_S: Final = 0.25
LOGGED_OF_A_USER: Final = 10  # dropped seeds, and of more only each thousandth
ALIVE_S: Final = 5.0


@dataclass(frozen=True)
class Asked:
    """A request, and its delivery; it came at ``since`` (monotonic)."""

    request: Unmask
    tag: int
    epoch: int
    since: float

    def is_like(self, other: "Asked") -> bool:
        """Whether the answer to ``other`` is that to this one."""
        return (self.request, self.epoch) == (other.request, other.epoch)


class KeeperWorker:
    """Keeps seeds, and answers the coordinator, until a signal asks to stop."""

    def __init__(
        self,
        settings: KeeperSettings,
        keys: KeeperKeys,
        rules: Rules,
        links: KeeperLinks,
        *,
        verifier: Verifier,
        encryptor: UpdateEncryptor,
    ) -> None:
        self._folder = settings.state_dir
        self._federation = settings.federation
        self._keys = keys
        self._rules = rules
        self._links = links
        self._lock = FolderLock(settings.state_dir, "keeper")
        self._decryptor: UpdateDecryptor = keys.decryptor(settings.federation)
        self._verifier = verifier
        self._answers = Answers(links.answers, keys.signer(), encryptor)
        self._noise = (
            NoiseSource(rules.noise, keys.noise, Slots(settings.state_dir))
            if rules.noise is not None
            else None
        )
        self._event_bus = EventBus[events.Event]()
        self._event_bus.subscribe(listeners.from_settings(settings))
        self._adder = Adder(self._say_alive)
        self._seeds = Seeds(settings.federation)
        self._journal: Journal | None = None  # until the folder is ours
        self._requests: deque[Asked] = deque()
        self._awaited: set[str] = set()  # transfers that the first request waits for
        self._released: dict[str, int] = {}  # newest version of a run whose seeds may go
        self._dropped: Counter[str] = Counter()  # by user
        self._up = {True: False, False: False}  # the links, by whether they are of seeds
        self._seed_epoch = 0  # of the connection over which all seeds here came
        self._newest_seed = 0.0  # when it came, or the link was there (monotonic)
        self._alive_at = 0.0

    @classmethod
    def from_settings(cls, settings: KeeperSettings) -> Self:
        """A keeper, with its keys read and its ports taken; ``run`` does the rest.

        Raises:
            ConfigError: a setting, or what it names, cannot be used.
        """
        keys = key_file.own(settings.state_dir, settings.keeper_key)
        writable(settings.state_dir, key_file.FLAG)
        verifier = Verifier.of(settings.verify_keys)
        encryptor = UpdateEncryptor.of(
            settings.encrypt_key, settings.federation, KEEPER_USER, MASKS
        )
        if verifier is None or encryptor is None:
            raise ConfigError(
                "--verify-keys and --encrypt-key are empty: use the bundle keeper.env as"
                " `broker-config` wrote it"
            )
        return cls(
            settings,
            keys,
            rules_of(settings, keys),
            KeeperLinks.from_settings(settings),
            verifier=verifier,
            encryptor=encryptor,
        )

    def run(self) -> int:
        """Serve until a signal asks to stop; return the exit code of a process that it ended.

        Raises:
            ConfigError: the ledger cannot be used.
        """
        stop_signal = on_stop_signal(self._links.ask_to_stop)
        try:
            self._take_folder()
            self._links.start()
            while not isinstance(item := self._links.get(), Stop):
                self._heed(item)
            log.info("stopping", "asked to stop; seeds and requests stay in the broker")
        except Stopped as error:
            log.warning("stopped", "%s; nothing is lost", error)
        finally:
            self._close()
        return stop_signal.exit_code

    def _take_folder(self) -> None:
        if not self._lock.take():
            self._links.supervisor.ready()
            self._lock.wait(self._stands_by)
            log.info("active", "the other keeper has ended; this one goes on")
            self._links.supervisor.away()
        self._journal = Journal.open(self._folder, self._keys.encrypt_key_id)
        known = self._history.federation
        if known not in (None, self._federation):
            raise ConfigError(
                f"{key_file.FLAG} {self._folder} is of federation {known!r}, not"
                f" {self._federation!r}: name another one, with keys of its own"
            )
        for name, run in self._history.runs.items():
            log.info(
                "ledger_read", "run %s: %d sums were given away, the newest for version %d",
                name, run.newest.rounds, run.newest.version, run=name, version=run.newest.version,
            )  # fmt: skip

    def _stands_by(self, seconds: float) -> bool:
        self._say_alive(STANDBY)
        return self._links.stopped_within(seconds)

    def _close(self) -> None:
        self._links.close()
        self._event_bus.close()
        if self._journal is not None:
            self._journal.close()
        self._lock.give_back()

    @property
    def _history(self) -> History:
        if self._journal is None:
            raise RuntimeError("the folder is taken before anything else")
        return self._journal.history

    # --- what happens ---------------------------------------------------------------------------

    def _heed(self, item: Item) -> None:
        match item:
            case SeedCame(delivery):
                self._take_seed(delivery)
            case RequestCame(delivery):
                self._take_request(delivery)
            case Link():
                self._linked(item)
            case LookAgain():
                self._serve()
            case WatchdogTick():
                self._links.supervisor.alive(f"{len(self._seeds)} seeds wait")

    def _linked(self, link: Link) -> None:
        self._up[link.of_seeds] = link.is_up
        if link.of_seeds:
            self._seed_epoch = link.epoch
            self._newest_seed = time.monotonic()
            self._seeds.reset()
            self._hold()
            self._event_bus.publish(events.SeedsWaiting(0))
        if not link.is_up:
            self._event_bus.publish(events.LinkLost())
        elif all(self._up.values()):
            self._links.supervisor.ready()
            self._event_bus.publish(events.LinkConnected())
            self._serve()

    def _say_alive(self, what: str = "adding up masks") -> None:
        if time.monotonic() - self._alive_at > ALIVE_S:
            self._alive_at = time.monotonic()
            self._links.supervisor.alive(what)

    # --- seeds ----------------------------------------------------------------------------------

    def _take_seed(self, delivery: Delivery) -> None:
        if delivery.epoch != self._seed_epoch:
            return  # of a connection that is gone; it comes again over the new one
        self._newest_seed = time.monotonic()
        try:
            seed = self._opened(delivery)
        except Rejected as rejected:
            self._drop(delivery, rejected.reason, rejected.detail)
            return
        taken = self._seeds.add(seed, delivery.user, delivery.tag)
        self._acknowledge_seeds(taken.acknowledged)
        if taken.dropped:
            self._say_dropped(delivery.user, taken.dropped, taken.detail)
        waiting = self._seeds.get(seed.client, seed.transfer)
        if waiting is not None and not self._is_needed(waiting):
            self._acknowledge_seeds(self._seeds.drop([waiting.key]))
        self._event_bus.publish(events.SeedsWaiting(len(self._seeds)))
        if seed.transfer in self._awaited:
            self._awaited.discard(seed.transfer)
            if not self._awaited:
                self._serve()

    def _opened(self, delivery: Delivery) -> Seed:
        """What a client sealed; raises Rejected."""
        if delivery.unreadable:
            raise Rejected("malformed", "its AMQP headers cannot be read")
        sealed, data = decode(delivery.body, US)
        if not isinstance(sealed, Sealed):
            raise Rejected("sealed", "it is not encrypted")
        seed, _ = decode(self._decryptor.open(sealed, data, delivery.user), US)
        if not isinstance(seed, Seed):
            raise Rejected("malformed", f"it is no seed but a {seed.kind}")
        return seed

    def _drop(self, delivery: Delivery, reason: str, detail: str) -> None:
        self._acknowledge_seeds([delivery.tag])
        self._say_dropped(delivery.user, reason, detail)

    def _say_dropped(self, user: str | None, reason: str, detail: str) -> None:
        self._event_bus.publish(events.SeedDropped(reason))
        self._dropped[str(user)] += 1
        count = self._dropped[str(user)]
        if count <= LOGGED_OF_A_USER or count % 1000 == 0:
            log.warning(
                "seed_dropped", "a seed of %s is dropped (%s): %s", user, reason, detail,
                user=str(user), reason=reason, dropped=count,
            )  # fmt: skip

    def _is_needed(self, waiting: Waiting) -> bool:
        """Whether a set may still have it."""
        run = self._history.runs.get(waiting.run)
        if run is None:
            return True
        if waiting.key in run.newest_keys:
            return self._released.get(waiting.run, -1) < run.newest.version
        is_late = waiting.base_version < run.oldest
        return not is_late and not run.is_spent(
            waiting.client, waiting.transfer, waiting.base_version
        )

    def _acknowledge_seeds(self, tags: "list[int] | tuple[int, ...]") -> None:
        if tags:
            self._links.masks.acknowledge(tags, self._seed_epoch)

    def _release(self, request: Unmask) -> None:
        """The coordinator has all versions before the one that it asks for."""
        run = self._history.runs.get(request.run)
        if run is None or request.version <= run.newest.version:
            return
        if self._released.get(request.run, -1) < run.newest.version:
            self._released[request.run] = run.newest.version
            self._sweep()

    def _sweep(self, ended: Callable[[Waiting], bool] = lambda _waiting: False) -> None:
        """Let go of what no set can have, and what ``ended``."""
        gone = [one.key for one in self._seeds if ended(one) or not self._is_needed(one)]
        self._acknowledge_seeds(self._seeds.drop(gone))
        self._event_bus.publish(events.SeedsWaiting(len(self._seeds)))

    def _hold(self) -> None:
        runs = list(self._history.runs.values())
        self._seeds.hold(runs[-1].newest_keys if runs else ())

    def _end_other_runs(self, made: Plan) -> None:
        """A set was revealed: what came before the first of it for another run is of no use."""
        run = made.entry.run
        first = min(one.number for one, _ in made.members)
        others = {
            key
            for name, other in self._history.runs.items()
            if name != run
            for key in other.newest_keys
        }
        self._released |= {
            name: other.newest.version for name, other in self._history.runs.items() if name != run
        }
        self._sweep(lambda one: one.run != run and (one.number < first or one.key in others))

    # --- requests -------------------------------------------------------------------------------

    def _take_request(self, delivery: Delivery) -> None:
        if delivery.epoch != self._links.answers.epoch:
            return
        try:
            if delivery.unreadable:
                raise Rejected("malformed", "its AMQP headers cannot be read")
            if delivery.user != COORDINATOR_USER:
                raise Rejected("identity", f"it is of {delivery.user}")
            request, _ = decode(delivery.body, US)
            if not isinstance(request, Unmask):
                raise Rejected("malformed", f"it is no request but a {request.kind}")
        except Rejected as rejected:
            log.warning(
                "request_dropped", "a request is dropped (%s): %s", rejected.reason,
                rejected.detail, reason=rejected.reason,
            )  # fmt: skip
            self._links.answers.acknowledge([delivery.tag], delivery.epoch)
            return
        self._requests.append(Asked(request, delivery.tag, delivery.epoch, time.monotonic()))
        if len(self._requests) == 1:
            self._serve()

    def _serve(self) -> None:
        """Answer what can be answered, in order."""
        while self._requests:
            asked = self._requests[0]
            if asked.epoch != self._links.answers.epoch:
                self._requests.popleft()  # it comes again
                continue
            try:
                self._answer(asked.request)
            except Refused as refused:
                if refused.may_pass and self._may_come(asked):
                    self._awaited = set(refused.transfers)
                    self._links.look_again_in(LOOK_S)
                    return
                self._refuse(asked.request, refused)
            self._awaited = set()
            while self._requests and self._requests[0].is_like(asked):
                # All that came before the answer: the coordinator asks again if it waits for long.
                self._links.answers.acknowledge([self._requests.popleft().tag], asked.epoch)

    def _may_come(self, asked: Asked) -> bool:
        """Whether seeds that were there before the request may still be on their way."""
        if not self._up[True]:
            return True
        now = time.monotonic()
        since = max(asked.since, self._newest_seed)
        return now - since < QUIET_S and now - asked.since < PATIENCE_S

    def _answer(self, request: Unmask) -> None:
        """Publish the answer; raises Refused."""
        check_origin(request, self._rules, self._verifier)
        self._release(request)
        if not request.updates:
            transfers = revealed(request, self._history)
            self._answers.revealed(request, self._rounds(request), transfers)
            log.info(
                "asked", "version %d of run %s: %d updates were revealed", request.version,
                request.run, len(transfers), run=request.run, version=request.version,
            )  # fmt: skip
            return
        self._give(request, plan(request, self._rules, self._history, self._seeds))

    def _refuse(self, request: Unmask, refused: Refused) -> None:
        log.warning(
            "refused", "no sum for version %d of run %s (%s): %s", request.version, request.run,
            refused.reason, refused.detail, run=request.run, version=request.version,
            reason=refused.reason, transfers=refused.transfers[:10],
        )  # fmt: skip
        self._event_bus.publish(events.RequestRefused(refused.reason))
        self._answers.revealed(
            request, self._rounds(request), refused.transfers, refused.reason, refused.detail
        )

    def _rounds(self, request: Unmask) -> int:
        run: RunHistory | None = self._history.runs.get(request.run)
        return run.newest.rounds if run is not None else 0

    def _give(self, request: Unmask, made: Plan) -> None:
        """In this order and no other: ledger, sum, answer."""
        began = time.monotonic()
        buffer, entry = self._recorded(made)
        self._adder.add(made, buffer)
        seconds = time.monotonic() - began
        if not made.repeats:
            if self._noise is not None:
                self._noise.revealed(entry)
            self._end_other_runs(made)
        self._hold()
        self._answers.unmasked(request, entry.rounds, buffer, [group.told for group in made.groups])
        log.info(
            "sum_given", "version %d of run %s: the sum of %d masks%s%s", entry.version, entry.run,
            len(made.members), " with noise" if made.is_noised else "",
            ", once more" if made.repeats else "", run=entry.run, version=entry.version,
            updates=len(made.members), rounds=entry.rounds, repeats=made.repeats, seconds=seconds,
        )  # fmt: skip
        self._event_bus.publish(
            events.SumGiven(entry.run, entry.version, len(made.members), made.size_bytes, seconds)
        )

    def _recorded(self, made: Plan) -> tuple[Buffer, Entry]:
        """The answer with its noise, if it has some, and nothing else yet; it is in the ledger.

        Raises Refused if what earlier noise needs is not there any more.
        """
        attempts = 0
        while True:
            try:
                return self._try_to_record(made)
            except ConfigError as error:
                log.error("noise_lost", "%s", error)
                raise Refused("privacy", str(error)) from error
            except OSError as error:
                attempts += 1
                if attempts == 1:
                    log.error("ledger_not_written", "nothing is given away until the folder can be"
                              " written: %s", error)  # fmt: skip
                self._links.supervisor.alive("the folder cannot be written; trying again")
                if self._links.stopped_within(backoff_s(attempts)):
                    raise Stopped("stopped while the folder could not be written") from None

    def _try_to_record(self, made: Plan) -> tuple[Buffer, Entry]:
        buffer, total = self._adder.begin(made)
        entry = made.entry
        if self._noise is not None:
            entry = self._noise.draw(made, total, self._history.runs.get(entry.run))
        if not made.repeats and self._journal is not None:
            self._journal.append(entry)
        return buffer, entry


def rules_of(settings: KeeperSettings, keys: KeeperKeys) -> Rules:
    """What ``settings`` allow; raises ConfigError."""
    noise = None
    promise = settings.promise
    if promise is not None and settings.rounds is not None and settings.quorum is not None:
        noise = NoiseRules(promise, settings.rounds, settings.quorum)
    return Rules(
        federation=settings.federation,
        key=keys.encrypt_key_id,
        least=settings.least,
        known=settings.known_clients(),
        max_bytes=settings.max_model_bytes,
        noise=noise,
    )
