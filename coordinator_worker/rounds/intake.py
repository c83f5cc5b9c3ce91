"""From deliveries to whole, valid updates; decides what each delivery's fate is.

Knows the wire and the rules of a round, but neither the broker nor the sum: the worker does what
an Outcome says. Nothing is believed but the broker's word for who sent it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, NamedTuple

from coordinator_worker.aggregation.aggregators import NO_LOCAL_STEPS
from coordinator_worker.rounds.incoming_update import IncomingUpdate
from coordinator_worker.rounds.norm_bound import UpdateNormLimit
from coordinator_worker.rounds.outcome import (
    Accepted,
    Duplicate,
    EvaluationReported,
    FailureReported,
    Joined,
    Outcome,
    Pending,
    ProbeReturned,
    Refused,
)
from coordinator_worker.rounds.policy import Policy
from coordinator_worker.rounds.rate_limiter import TokenBucket
from coordinator_worker.rounds.staging import Staging
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.training_state import State
from coordinator_worker.trust.fleet_sizes import FleetSizes
from coordinator_worker.trust.model_size import CheckSize, ModelSizeLimit
from warren_shared.amqp.delivery import Delivery
from warren_shared.amqp.session import MAX_UNACKNOWLEDGED
from warren_shared.errors import Rejected
from warren_shared.naming import COORDINATOR_USER, speaks_for
from warren_shared.observability.log import Log
from warren_shared.protocol.codec import decode, layout_of
from warren_shared.protocol.encryption import UpdateDecryptor
from warren_shared.protocol.masking import figures_of
from warren_shared.protocol.messages import (
    OLDEST,
    Chunk,
    Evaluated,
    Failed,
    InitialManifest,
    Join,
    MaskTerms,
    ModelManifest,
    Probe,
    Sealed,
    UpdateManifest,
)
from warren_shared.protocol.transfer import message_count
from warren_shared.tensors import compression
from warren_shared.tensors.frozen import FROZEN_WEIGHTS
from warren_shared.tensors.layout import Layout

log = Log(__name__)

# A client joins whenever it has connected; one whose line is bad does so with growing pauses.
JOINS: Final = 20
JOINS_PER_SECOND: Final = 0.2
READER: Final = "the coordinator"  # as a sender is told
ROLES_SINCE: Final = 3  # the protocol of a model that says which of its tensors are statistics
FLAGS_SINCE: Final = 5  # and of one that is sent as ``_flags`` says
ALL: Final = "all"


class Held(NamedTuple):
    """An update that is in memory and in no checkpoint: the newest delivery of each message."""

    user: str | None
    client: str
    tags: list[int]


def _anyone(_client: str) -> bool:
    return True


def _any_size(_size_bytes: int) -> None:
    pass


@dataclass(frozen=True)
class Admission:
    """Whose messages are looked at, and for how much room.

    ``exists``: whether a client is enrolled, a replica by its number; ``was_asked``: whether it may
    send initial weights; ``check_size`` raises Rejected for weights of so many bytes.
    ``flags``: settings of which a client has to know, so it must read protocol FLAGS_SINCE.
    """

    exists: Callable[[str], bool] = _anyone
    was_asked: Callable[[str], bool] = _anyone
    check_size: CheckSize = _any_size
    flags: Sequence[str] = ()


def _forget_frames(rejected: Rejected) -> None:
    """Let go of the frames that ``rejected`` came through, and of the body that they hold.

    Its traceback leads to our callers' frames and so back to its own outcome: a circle, which
    only the cyclic collector ends. That counts objects, not their bytes, and came after a hundred
    bodies of 16 MiB.
    """
    rejected.__traceback__ = rejected.__context__ = rejected.__cause__ = None


def _refused(delivery: Delivery, rejected: Rejected) -> Refused:
    """Of a sender of whom only the broker's word is known."""
    return Refused(client=delivery.user, acknowledgeable=(delivery.tag,), rejected=rejected)


def _flags(settings: CoordinatorSettings) -> list[str]:
    """Those of protocol FLAGS_SINCE that are set."""
    given = {
        "--exchange trainable": settings.exchange != ALL,
        "--downlink": settings.downlink != compression.RAW,
        "--privacy": settings.privacy is not None,
        "--secure": settings.secure is not None,
    }
    return [flag for flag, is_set in given.items() if is_set]


def _of_nobody(manifest: UpdateManifest) -> UpdateManifest:
    """``manifest`` without what would tell of its sender's data, with no noise.

    0 examples stand for as many as nobody is told: no client may say that itself.
    """
    nothing: dict[str, Any] = {
        "metrics": {},
        "not_finite": [],
        "evaluation": None,
        "local_steps": None,
    }
    return manifest.model_copy(update={**nothing, "num_examples": 0})


def _says_more(state: State) -> bool:
    return state.weights.layout.has_statistics or bool(state.fixed_state)


class Intake:
    """The transfers under way towards the coordinator."""

    def __init__(
        self,
        federation: str,
        policy: Policy,
        staging: Staging,
        opener: UpdateDecryptor | None = None,
        bound: UpdateNormLimit | None = None,
        *,
        models_need: int = OLDEST,
        exchange: str = ALL,
        admission: Admission | None = None,
    ) -> None:
        self.incomplete = 0  # transfers dropped half-way since the round began
        self._federation = federation
        self._policy = policy
        self._staging = staging
        self._opener = opener or UpdateDecryptor((), federation)
        self._bound = bound or UpdateNormLimit("off")
        self._admission = admission or Admission()
        self._models_need = models_need  # the protocol in which this federation's models are
        self._exchange = exchange  # what travels: all tensors, or those that train
        self._joins = TokenBucket(JOINS, JOINS_PER_SECOND)  # each is answered with a whole model
        self._failures = TokenBucket(JOINS, JOINS_PER_SECOND)  # each is told to everybody
        self._arriving: dict[
            str, IncomingUpdate
        ] = {}  # by transfer id; one for each client at most
        self._senders: dict[str, str] = {}  # transfer id -> the user who announced it
        self._here: set[tuple[str, int]] = set()  # contributions whole and not yet in a model
        self._unfinished = 0  # deliveries of what is arriving
        self._held: dict[str, Held] = {}  # how the broker still has them, by transfer id
        self.terms: MaskTerms | None = None  # of the run whose updates are masked
        # Updates whose masks the keeper will not add up, by transfer id, and what it says of each.
        self.without_mask: dict[str, str] = {}

    @classmethod
    def of(
        cls,
        settings: CoordinatorSettings,
        policy: Policy,
        staging: Staging,
        was_asked: Callable[[str], bool],
    ) -> "Intake":
        """As ``settings`` say; raises ConfigError if one of them means nothing."""
        opener = UpdateDecryptor.of(settings.secret(settings.decrypt_keys), settings.federation)
        bound = UpdateNormLimit("off" if policy.hides_figures else settings.max_update_norm)
        needed = ModelManifest.SIGNED_SINCE if settings.secret(settings.signing_keys) else OLDEST
        fleets = FleetSizes.of(settings.broker, settings.federation)
        size = ModelSizeLimit(settings.checkpoint_dir, settings.max_model_bytes)
        admission = Admission(fleets.has, was_asked, size.check, tuple(_flags(settings)))
        return cls(
            settings.federation, policy, staging, opener, bound, models_need=needed,
            exchange=settings.exchange, admission=admission,
        )  # fmt: skip

    def reset(self) -> None:
        """Forget everything: the link was lost, and the broker delivers it all again."""
        for arrival in self._arriving.values():
            arrival.release()
        self._arriving.clear()
        self._senders.clear()
        self._unfinished = 0
        self._here.clear()
        self._held.clear()

    def round_closed(self, state: State) -> list[int]:
        """Begin the next round; return the deliveries of unfinished transfers it cannot use."""
        self._here.clear()
        self._held.clear()
        self.incomplete = 0
        late: list[int] = []
        for transfer, arrival in list(self._arriving.items()):
            manifest = arrival.manifest
            if isinstance(manifest, InitialManifest) or (
                state.version - manifest.base_version > self._policy.max_staleness
            ):
                late += self._give_up(transfer)
        return late

    def receive(self, delivery: Delivery, state: State | None) -> Outcome:
        """Judge one delivery against the current state (None before there is a model).

        Whatever it is, it gets an outcome: one that raised would be delivered again for ever.
        """
        if delivery.unreadable:
            return _refused(delivery, Rejected("malformed", "its AMQP headers cannot be decoded"))
        try:
            outcome = self._judged(delivery, state)
        except OSError:
            raise  # of the staging file: no fault of the sender's
        except Exception as error:
            log.exception("unforeseen", "a delivery of %s is rejected", delivery.user, error=error)
            rejected = Rejected("malformed", f"it cannot be judged: {type(error).__name__}")
            return _refused(delivery, rejected)
        if isinstance(outcome, Refused):
            _forget_frames(outcome.rejected)
        return outcome

    def _judged(self, delivery: Delivery, state: State | None) -> Outcome:
        try:
            message, data = decode(delivery.body, READER)
            if isinstance(message, Sealed):
                message, data = decode(self._opener.open(message, data, delivery.user), READER)
        except Rejected as rejected:
            return _refused(delivery, rejected)
        try:
            match message:
                case Chunk():
                    return self._chunk(message, data, delivery, state)
                case UpdateManifest() | InitialManifest():
                    return self._manifest(message, data, delivery, state)
                case Join() | Failed() | Evaluated():
                    return self._word(message, delivery, state)
                case Probe() if delivery.user == COORDINATOR_USER:
                    return ProbeReturned(client=COORDINATOR_USER, acknowledgeable=(delivery.tag,))
                case _:
                    raise Rejected("malformed", f"a client may not send a {message.kind}")
        except Rejected as rejected:
            base_version = message.base_version if isinstance(message, UpdateManifest) else None
            client = getattr(message, "client", delivery.user)
            if rejected.reason == "identity":
                client = delivery.user  # the client it claims to be is not remembered
            return Refused(
                client=client if speaks_for(delivery.user or "", client or "") else delivery.user,
                acknowledgeable=(delivery.tag,),
                rejected=rejected,
                base_version=base_version,
            )

    def _word(
        self, message: Join | Failed | Evaluated, delivery: Delivery, state: State | None
    ) -> Outcome:
        """What a client says without data: that it is there, or why it does no work."""
        client = message.client
        self._vouch(client, message.federation, delivery.user)
        if isinstance(message, Evaluated):
            return self._evaluated(message, delivery, state)
        if isinstance(message, Failed):
            if not self._failures.take(client):
                raise Rejected("flood", "it says again and again that it failed")
            return FailureReported(client=client, acknowledgeable=(delivery.tag,), message=message)
        self._can_read(client, delivery.reads, state)
        if not self._joins.take(client):
            raise Rejected("flood", "it asks for the model again and again")
        return Joined(client=client, acknowledgeable=(delivery.tag,), message=message)

    def _evaluated(self, message: Evaluated, delivery: Delivery, state: State | None) -> Outcome:
        """What the final model is worth; of another version or run it comes too late."""
        if not self._policy.hides_figures:
            self._policy.check_examples(message.evaluation.num_examples)
        client, tags = message.client, (delivery.tag,)
        is_other = state is None or (message.run, message.version) != (state.run, state.version)
        if is_other or self._policy.hides_figures:
            return Duplicate(client=client, acknowledgeable=tags)
        return EvaluationReported(client=client, acknowledgeable=tags, message=message)

    def _vouch(self, client: str, federation: str, user: str | None) -> None:
        if user is None:
            raise Rejected("identity", "it carries no user_id, so its sender is not verified")
        if not speaks_for(user, client):
            raise Rejected("identity", f"user {user!r} may not speak for client {client!r}")
        if not self._admission.exists(client):
            raise Rejected(
                "identity",
                f"fleet {user!r} has no replica {client!r}: the broker has no queue model.{client};"
                " enlarge the fleet with `broker-config apply --fleet`",
            )
        if federation != self._federation:
            raise Rejected("federation", f"it is for {federation!r}, this is {self._federation!r}")

    def _can_read(self, client: str, protocol: int, state: State | None) -> None:
        if state is not None and protocol < ROLES_SINCE and _says_more(state):
            raise Rejected(
                "protocol",
                f"{client} reads protocols up to {protocol}, and this federation's models, which"
                f" hold statistics, are of protocol {ROLES_SINCE}: upgrade {client}",
            )
        if protocol < FLAGS_SINCE and (flags := " and ".join(self._admission.flags)):
            raise Rejected(
                "protocol",
                f"{client} reads protocols up to {protocol}, and with {flags} models are of"
                f" protocol {FLAGS_SINCE}: upgrade {client}, or run without",
            )
        if protocol < self._models_need:
            raise Rejected(
                "protocol",
                f"{client} reads protocols up to {protocol}, and this federation's models, which"
                f" are signed, are of protocol {self._models_need}: upgrade {client}, or start the"
                " coordinator without WARREN_SIGNING_KEYS until that is done",
            )

    def _manifest(
        self,
        manifest: UpdateManifest | InitialManifest,
        data: memoryview,
        delivery: Delivery,
        state: State | None,
    ) -> Outcome:
        self._vouch(manifest.client, manifest.federation, delivery.user)
        if isinstance(manifest, InitialManifest):
            layout = layout_of(manifest.tensors, manifest.size_bytes)
            asked = self._admission.was_asked(manifest.client)
            # Another's came first, or the coordinator before us had asked: it joins again.
            if state is not None if asked else delivery.redelivered:
                return Duplicate(client=manifest.client, acknowledgeable=(delivery.tag,))
            if not asked:
                raise Rejected("unasked", "it was not asked for initial weights")
            self._check_exchange(manifest)
            self._admission.check_size(manifest.size_bytes)
            arrival = IncomingUpdate(manifest, layout, self._staging)
        elif state is None:
            raise Rejected("run", "there is no model yet that it could be an update to")
        elif (again := self._came_again(manifest.transfer, 0, delivery)) is not None:
            return again
        elif self._is_known(manifest, state):
            return Duplicate(client=manifest.client, acknowledgeable=(delivery.tag,))
        else:
            arrival = self._admit(manifest, state)
        namesake = self._arriving.get(manifest.transfer)
        if namesake is not None and namesake.manifest.client != manifest.client:
            raise Rejected("transfer", "another client's transfer under this id is arriving")
        superseded = self._supersede(manifest.client)
        self._arriving[manifest.transfer] = arrival
        self._senders[manifest.transfer] = delivery.user or ""
        outcome = self._add(arrival, 0, data, delivery, state)
        return replace(outcome, acknowledgeable=(*superseded, *outcome.acknowledgeable))

    def _check_exchange(self, manifest: InitialManifest) -> None:
        """The run begins with what was asked for, and says which frozen weights it belongs to."""
        if (FROZEN_WEIGHTS in manifest.fixed_state) != (self._exchange != ALL):
            told = "names" if self._exchange == ALL else "does not name"
            raise Rejected(
                "layout",
                f"its initial model {told} frozen weights that stay at the sites, and this"
                f" federation exchanges {self._exchange} (--exchange)",
            )

    def _is_known(self, manifest: UpdateManifest, state: State) -> bool:
        """Whether this contribution is in the model, or waiting to be: then it came twice."""
        contribution = (manifest.client, manifest.base_version)
        return manifest.run == state.run and (
            contribution in self._here or state.has_applied(*contribution)
        )

    def _admit(self, manifest: UpdateManifest, state: State) -> IncomingUpdate:
        """Check all that a manifest claims before a byte of its data is kept."""
        layout = state.weights.layout
        if manifest.run != state.run:
            raise Rejected("run", f"it belongs to training run {manifest.run}, not {state.run}")
        self._policy.staleness_weight(state.version, manifest.base_version)  # or it is rejected
        if manifest.base_version < state.oldest_base:
            raise Rejected(
                "stale",
                f"trained from version {manifest.base_version}; the federation was rolled back, and"
                f" goes on from version {state.oldest_base}",
            )
        self._policy.check_encoding(manifest.encoding)
        size_bytes = self._size_bytes(manifest, layout)
        if manifest.layout != layout.digest or manifest.size_bytes != size_bytes:
            raise Rejected(
                "layout",
                f"its tensors ({manifest.size_bytes} bytes) are not the model's"
                f" ({size_bytes} bytes): start the client with the federation's task",
            )
        if self._policy.privacy is not None:
            self._check_contributions(manifest.client, state)
        if self._policy.secure is not None:
            self._policy.secure.check_figures(manifest.figures)
            if manifest.transfer in self.without_mask:
                raise Rejected("mask", self.without_mask[manifest.transfer])
            return IncomingUpdate(_of_nobody(manifest), layout, self._staging, is_masked=True)
        if self._policy.privacy is not None:
            return IncomingUpdate(_of_nobody(manifest), layout, self._staging, private=True)
        self._policy.check_examples(manifest.num_examples)
        if manifest.evaluation is not None:
            self._policy.check_examples(manifest.evaluation.num_examples)
        if self._policy.needs_local_steps and manifest.local_steps is None:
            raise Rejected("local-steps", NO_LOCAL_STEPS)
        return IncomingUpdate(manifest, layout, self._staging)

    def _size_bytes(self, manifest: UpdateManifest, layout: Layout) -> int:
        """How long an update in its encoding is."""
        if self._policy.secure is None or self.terms is None:
            return compression.size_bytes(layout, manifest.encoding)
        limb = self.terms.limb
        figures = figures_of(manifest.figures).elements(limb) if manifest.figures else 0
        return self._policy.secure.size_bytes(layout, self.terms, figures)

    def _check_contributions(self, client: str, state: State) -> None:
        if self._policy.privacy is None:
            return
        is_here = any(client == one for one, _ in self._here)
        self._policy.check_contributions(client, state, is_here=is_here)

    def _chunk(
        self, chunk: Chunk, data: memoryview, delivery: Delivery, state: State | None
    ) -> Outcome:
        if (again := self._came_again(chunk.transfer, chunk.index, delivery)) is not None:
            return again
        arrival = self._arriving.get(chunk.transfer)
        if arrival is None or self._senders[chunk.transfer] != delivery.user:
            # The rest of a transfer that was rejected, superseded, or known already.
            return Duplicate(client=delivery.user, acknowledgeable=(delivery.tag,))
        if isinstance(arrival.manifest, InitialManifest) and state is not None:
            acknowledgeable = (*self._forget(chunk.transfer), delivery.tag)  # another's came first
            return Duplicate(client=arrival.manifest.client, acknowledgeable=acknowledgeable)
        return self._add(arrival, chunk.index, data, delivery, state)

    def _came_again(self, transfer: str, index: int, delivery: Delivery) -> Duplicate | None:
        """Hold a message of an update that is in memory by this delivery of it, if it is one.

        A queue whose leader lost sight of our node for a while delivers what is unacknowledged
        again, over the same channel: the message is behind the newest delivery alone, and
        acknowledged now it would be gone before a checkpoint has it. Of a second copy, which its
        sender published for want of a confirm, one stays in the queue as well.
        """
        held = self._held.get(transfer)
        if held is None or held.user != delivery.user or index >= len(held.tags):
            return None
        replaced, held.tags[index] = held.tags[index], delivery.tag
        return Duplicate(client=held.client, acknowledgeable=(replaced,))

    def _add(
        self,
        arrival: IncomingUpdate,
        index: int,
        data: memoryview,
        delivery: Delivery,
        state: State | None,
    ) -> Outcome:
        manifest = arrival.manifest
        base_version = manifest.base_version if isinstance(manifest, UpdateManifest) else None
        arrival.tags.append(delivery.tag)
        self._unfinished += 1
        try:
            whole = arrival.incoming.add(index, data)
            if whole:
                arrival.check_encoded()
            if whole and state is not None and isinstance(manifest, UpdateManifest):
                self._bound.check(arrival.norm, state)
                self._check_contributions(manifest.client, state)  # another may have come whole
        except Rejected as rejected:
            acknowledgeable = tuple(self._forget(manifest.transfer))
            return Refused(
                client=manifest.client,
                acknowledgeable=acknowledgeable,
                rejected=rejected,
                base_version=base_version,
            )
        if not whole:
            return Pending(client=manifest.client, acknowledgeable=tuple(self._make_room(state)))
        self._drop(manifest.transfer)
        if isinstance(manifest, UpdateManifest) and state is not None:
            # As late as it is now that it counts; a round may have closed since its manifest came.
            arrival.staleness_weight = self._policy.staleness_weight(
                state.version, manifest.base_version
            )
            self._here.add((manifest.client, manifest.base_version))
            self._held[manifest.transfer] = Held(delivery.user, manifest.client, arrival.tags)
        return Accepted(client=manifest.client, arrival=arrival)

    def _make_room(self, state: State | None) -> list[int]:
        """Give up a transfer if unfinished ones hold so many deliveries that no more would come.

        A consumer may hold MAX_UNACKNOWLEDGED. One that has the most of them by far gives way, be
        it a client or a fleet, else the one that has sent nothing for longest.
        """
        messages = message_count(state.weights.layout.size_bytes) if state is not None else 1
        room = MAX_UNACKNOWLEDGED - self._policy.quorum * messages
        room = max(room * 3 // 4, 2 * messages)
        if state is None or self._unfinished <= room:
            return []
        held = Counter[str]()
        for transfer, arrival in self._arriving.items():
            held[self._senders[transfer]] += len(arrival.tags)
        user, most = held.most_common(1)[0]
        theirs = [t for t in self._arriving if self._senders[t] == user or most <= room // 4]
        longest = min(theirs, key=lambda transfer: self._arriving[transfer].tags[-1])
        log.warning(
            "transfer_given_up",
            "an update of %s that is not whole is given up: %d messages of such are held, and a"
            " consumer may hold %d in all",
            self._arriving[longest].manifest.client,
            self._unfinished,
            MAX_UNACKNOWLEDGED,
        )
        return self._give_up(longest)

    def _supersede(self, client: str) -> list[int]:
        """Drop what ``client`` left unfinished: it began again, so it sends everything again."""
        unfinished = [
            transfer
            for transfer, arrival in self._arriving.items()
            if arrival.manifest.client == client
        ]
        return list(chain.from_iterable(map(self._give_up, unfinished)))

    def _give_up(self, transfer: str) -> list[int]:
        """Drop a transfer that will not be finished; none of it has touched the sum."""
        self.incomplete += 1
        return self._forget(transfer)

    def _forget(self, transfer: str) -> list[int]:
        arrival = self._drop(transfer)
        arrival.release()
        return arrival.tags

    def _drop(self, transfer: str) -> IncomingUpdate:
        del self._senders[transfer]
        arrival = self._arriving.pop(transfer)
        self._unfinished -= len(arrival.tags)
        return arrival
