"""The coordinator's intake: nothing lost, nothing twice, nothing believed but the broker."""

import gc
import itertools
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coordinator_worker.aggregation import Cohort, aggregator, server_optimizer
from coordinator_worker.aggregation.aggregators import Contribution, mean
from coordinator_worker.rounds import intake
from coordinator_worker.rounds.incoming_update import IncomingUpdate
from coordinator_worker.rounds.intake import Admission, Intake
from coordinator_worker.rounds.norm_bound import UpdateNormLimit
from coordinator_worker.rounds.outcome import (
    Accepted,
    Duplicate,
    FailureReported,
    Joined,
    Outcome,
    Refused,
)
from coordinator_worker.rounds.policy import Policy
from coordinator_worker.rounds.round import Round
from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.state.training_state import State
from tests.support.bodies import bodies_of, encode, staging
from warren_shared.amqp.delivery import Delivery
from warren_shared.errors import Rejected
from warren_shared.naming import CHUNK_BYTES
from warren_shared.protocol.codec import decode, tensor_entries
from warren_shared.protocol.messages import (
    EvaluationEntry,
    Failed,
    InitialManifest,
    Join,
    Notice,
    UpdateManifest,
)
from warren_shared.protocol.transfer import Outgoing, new_transfer, transfer_fields
from warren_shared.tensors.compression import ENCODINGS
from warren_shared.tensors.compression import decode as decode_delta
from warren_shared.tensors.compression import encode as encode_delta
from warren_shared.tensors.layout import Buffer, Layout, Weights

RUN = "ab" * 4
SIZE = CHUNK_BYTES // 4 + 100  # float32 values: two chunks
WEIGHTS = Weights.of([np.zeros(SIZE, np.float32)])
STATE = State("f", RUN, 5, WEIGHTS, applied={})
DELTA = Weights.of([np.ones(SIZE, np.float32)])


def bodies(client: str = "alfa", **change: Any) -> list[bytes]:
    fields = {
        "federation": "f", "run": RUN, "client": client, "base_version": 5, "num_examples": 2,
        "layout": WEIGHTS.layout.digest, **transfer_fields(DELTA.buffer), **change,
    }  # fmt: skip
    return bodies_of(Outgoing(UpdateManifest(**fields), DELTA.buffer), 2)


def whole_of(outcome: Outcome) -> IncomingUpdate | None:
    return outcome.arrival if isinstance(outcome, Accepted) else None


def rejected_of(outcome: Outcome) -> Rejected | None:
    return outcome.rejected if isinstance(outcome, Refused) else None


class Queue:
    """Gives deliveries their tags, as a channel does."""

    def __init__(self, max_staleness: int = 0, uplink: str = "raw") -> None:
        policy = Policy(quorum=9, max_staleness=max_staleness, uplink=uplink)
        self.intake = Intake("f", policy, staging())
        self.state: State | None = STATE
        self._tags = itertools.count(1)

    def deliver(self, body: bytes, user: str | None = "alfa") -> Outcome:
        return self.intake.receive(
            Delivery(memoryview(body), next(self._tags), 1, user, redelivered=False), self.state
        )


def test_an_update_is_whole_with_its_last_chunk_and_keeps_its_deliveries() -> None:
    queue = Queue()
    first, second = (queue.deliver(body) for body in bodies())
    assert not isinstance(first, Accepted)
    assert first.acknowledgeable == second.acknowledgeable == ()
    assert isinstance(second, Accepted)
    assert second.arrival.tags == [1, 2]
    assert second.arrival.staleness_weight == 1.0
    assert second.arrival.sum_of_squares == pytest.approx(SIZE, rel=1e-3)


def encoded_bodies(encoding: str, buffer: Buffer | None = None, **change: Any) -> list[bytes]:
    transfer = new_transfer()
    sent = encode_delta(DELTA, encoding, transfer) if buffer is None else buffer
    fields = {
        "federation": "f", "run": RUN, "client": "alfa", "base_version": 5, "num_examples": 2,
        "layout": WEIGHTS.layout.digest, "encoding": encoding, **transfer_fields(sent, transfer),
        **change,
    }  # fmt: skip
    return bodies_of(Outgoing(UpdateManifest(**fields), sent))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_encoded_update_is_what_it_is_decoded_to(encoding: str) -> None:
    queue = Queue(uplink=encoding)
    outcomes = [queue.deliver(body) for body in encoded_bodies(encoding)]
    arrival = whole_of(outcomes[-1])
    assert arrival is not None
    manifest = arrival.manifest
    sent = encode_delta(DELTA, encoding, manifest.transfer)
    expected = decode_delta(WEIGHTS.layout, encoding, manifest.transfer, sent)
    found = np.empty_like(expected.buffer)
    for start, data in arrival.chunks():
        found[start : start + len(data)] = data
    np.testing.assert_array_equal(found, expected.buffer)
    arrival.read(4000, memoryview(found)[4000:9000])
    np.testing.assert_array_equal(found, expected.buffer)
    assert arrival.norm == pytest.approx(np.linalg.norm(expected[0].astype(np.float64)), rel=1e-6)
    raw = Queue(uplink=encoding)
    assert whole_of([raw.deliver(body) for body in bodies()][-1]), "who knows no encoding counts"


def test_encoded_and_not_updates_make_the_median_of_what_they_stand_for() -> None:
    """A rule reads by columns, across updates; a round may have both kinds."""
    queue, rule = Queue(uplink="1bit"), aggregator("median")
    deltas: list[Weights] = []
    cohort = Cohort(WEIGHTS.layout, rule)
    for number in range(4):
        client = f"client.{number}"
        update = Weights.of([np.random.default_rng(number).normal(size=SIZE).astype(np.float32)])
        encoding, transfer = ("1bit", "raw")[number == 3], new_transfer()
        sent = update.buffer if number == 3 else encode_delta(update, encoding, transfer)
        deltas.append(decode_delta(WEIGHTS.layout, encoding, transfer, sent))
        manifest = UpdateManifest(
            federation="f", run=RUN, client=client, base_version=5, num_examples=2,
            layout=WEIGHTS.layout.digest, encoding=encoding, **transfer_fields(sent, transfer),
        )  # fmt: skip
        outgoing = bodies_of(Outgoing(manifest, sent))
        arrival = whole_of([queue.deliver(body, user="client") for body in outgoing][-1])
        assert arrival is not None
        cohort.take(Contribution(2, 1.0, arrival.norm), arrival)
    found = cohort.delta().total
    np.testing.assert_array_equal(found[0], np.median([delta[0] for delta in deltas], axis=0))


@pytest.mark.parametrize("uplink", ["raw", "int8", "2bit"])
def test_an_encoding_that_was_not_asked_for_is_refused(uplink: str) -> None:
    queue = Queue(uplink=uplink)
    for encoding in ("1bit", "3bit"):
        sent = DELTA.buffer if encoding == "3bit" else None
        rejected = rejected_of(queue.deliver(encoded_bodies(encoding, sent)[0]))
        assert rejected is not None
        assert rejected.reason == "encoding"


def test_an_encoded_update_of_another_length_is_refused_before_its_bytes_are_kept() -> None:
    queue = Queue(uplink="1bit")
    longer = np.zeros(len(encode_delta(DELTA, "1bit", "ab" * 8)) + 128, np.uint8)
    for buffer in (longer, longer[:-256], DELTA.buffer):
        rejected = rejected_of(queue.deliver(encoded_bodies("1bit", buffer)[0]))
        assert rejected is not None
        assert rejected.reason == "layout"


@pytest.mark.parametrize("scale", [np.nan, np.inf, 1e30])
def test_an_encoded_update_that_is_no_number_is_refused(scale: float) -> None:
    queue = Queue(uplink="1bit")
    sent = encode_delta(DELTA, "1bit", "ab" * 8)
    sent[:4].view(np.float32)[:] = scale
    outcomes = [queue.deliver(body) for body in encoded_bodies("1bit", sent)]
    rejected = rejected_of(outcomes[-1])
    assert rejected is not None
    assert rejected.reason == "not-finite"


def test_the_norm_of_an_encoded_update_is_bounded_like_any() -> None:
    queue = Queue(uplink="1bit")
    queue.intake = Intake(
        "f", Policy(quorum=9, uplink="1bit"), staging(), bound=UpdateNormLimit(str(SIZE**0.5 / 2))
    )
    outcomes = [queue.deliver(body) for body in encoded_bodies("1bit")]
    rejected = rejected_of(outcomes[-1])
    assert rejected is not None
    assert rejected.reason == "norm"


def test_nobody_has_more_examples_than_are_believed() -> None:
    queue = Queue()
    queue.intake = Intake("f", Policy(quorum=9, max_examples=1000), staging())
    for change in (
        {"num_examples": 1001},
        {"evaluation": EvaluationEntry(num_examples=1001, means={"loss": 0.0})},
    ):
        first, _ = bodies(**change)
        outcome = queue.deliver(first)
        assert isinstance(outcome, Refused)
        assert outcome.rejected.reason == "examples"
        assert outcome.client == "alfa"
    assert not isinstance(queue.deliver(bodies(num_examples=1000)[0]), Refused)


def test_an_absurd_update_is_refused_when_it_is_whole_and_leaves_nothing() -> None:
    queue = Queue()
    queue.intake = Intake("f", Policy(quorum=9), staging(), bound=UpdateNormLimit("10"))
    first, second = (queue.deliver(body) for body in bodies())
    assert not isinstance(first, Refused)
    assert isinstance(second, Refused)
    assert second.rejected.reason == "norm"
    assert second.acknowledgeable == (1, 2)
    assert not isinstance(second, Accepted)
    queue.intake = Intake("f", Policy(quorum=9), staging(), bound=UpdateNormLimit("1e6"))
    assert isinstance([queue.deliver(body) for body in bodies()][1], Accepted)


def test_updates_of_two_clients_may_interleave() -> None:
    queue = Queue()
    ours, theirs = bodies("alfa"), bodies("bravo")
    queue.deliver(ours[0], "alfa")
    queue.deliver(theirs[0], "bravo")
    assert isinstance(queue.deliver(theirs[1], "bravo"), Accepted)
    assert isinstance(queue.deliver(ours[1], "alfa"), Accepted)


def test_an_update_that_came_twice_is_whole_once() -> None:
    queue = Queue()
    for body in bodies():
        queue.deliver(body)
    again = [queue.deliver(body) for body in bodies()]
    assert [type(outcome) for outcome in again] == [Duplicate, Duplicate]
    assert [outcome.acknowledgeable for outcome in again] == [(3,), (4,)]


def test_an_update_that_is_in_the_model_is_acknowledged_without_a_word() -> None:
    queue = Queue()
    queue.state = replace(STATE, version=6, applied={"alfa": frozenset({5})})
    outcomes = [queue.deliver(body) for body in bodies()]
    assert [outcome.acknowledgeable for outcome in outcomes] == [(1,), (2,)]
    assert [type(outcome) for outcome in outcomes] == [Duplicate, Duplicate]


def test_after_a_lost_link_the_same_update_is_whole_again() -> None:
    queue = Queue()
    first, second = bodies()
    queue.deliver(first)
    queue.intake.reset()
    assert queue.deliver(second).acknowledgeable == (2,), (
        "its first chunk is gone, so it is an orphan"
    )
    queue.intake.reset()
    queue.deliver(first)
    assert isinstance(queue.deliver(second), Accepted)


def test_after_a_lost_link_a_whole_update_that_was_not_acknowledged_is_whole_again() -> None:
    """Taken for one that is here already, it would be acknowledged and be in no model."""
    queue = Queue()
    for body in bodies():
        queue.deliver(body)
    queue.intake.reset()
    assert [whole_of(queue.deliver(body)) for body in bodies()][-1] is not None


def test_a_client_that_begins_again_lets_its_unfinished_transfer_go() -> None:
    queue = Queue()
    queue.deliver(bodies()[0])
    first, second = (queue.deliver(body) for body in bodies())
    assert first.acknowledgeable == (1,)
    assert isinstance(second, Accepted)
    assert second.arrival.tags == [2, 3]
    assert queue.intake.incomplete == 1


@pytest.mark.parametrize(
    ("change", "user", "reason"),
    [
        ({}, None, "identity"),
        ({}, "bravo", "identity"),
        ({"client": "alfa.0"}, "bravo", "identity"),
        ({"client": "alfab"}, "alfa", "identity"),
        ({"federation": "g"}, "alfa", "federation"),
        ({"run": "cd" * 4}, "alfa", "run"),
        ({"layout": "cd" * 8}, "alfa", "layout"),
        ({"size_bytes": 2**39}, "alfa", "layout"),
        ({"base_version": 4}, "alfa", "stale"),
        ({"base_version": 6}, "alfa", "future"),
    ],
)
def test_a_manifest_that_must_not_count_is_rejected_before_its_data_is_kept(
    change: dict[str, Any], user: str | None, reason: str
) -> None:
    queue = Queue()
    first, second = bodies(**change)
    outcome = queue.deliver(first, user)
    assert isinstance(outcome, Refused)
    assert outcome.rejected.reason == reason
    assert outcome.acknowledgeable == (1,)
    assert queue.deliver(second, user).acknowledgeable == (2,)


def test_a_replica_speaks_for_its_place_in_the_fleet_and_no_other_user_does() -> None:
    queue = Queue()
    assert not isinstance(queue.deliver(bodies("phone.3")[0], "phone"), Refused)
    assert isinstance(queue.deliver(bodies("tablet.3")[0], "phone"), Refused)


def test_a_chunk_under_another_users_transfer_does_not_reach_it() -> None:
    queue = Queue()
    first, second = bodies()
    queue.deliver(first, "alfa")
    assert not isinstance(queue.deliver(second, "bravo"), Accepted)
    assert isinstance(queue.deliver(second, "alfa"), Accepted)


def test_what_comes_again_is_held_by_its_newest_delivery_until_the_round_closes() -> None:
    queue, sent = Queue(), bodies()
    whole = [whole_of(queue.deliver(body)) for body in sent][-1]
    assert whole is not None
    again = [queue.deliver(body) for body in sent]
    assert [outcome.acknowledgeable for outcome in again] == [(1,), (2,)]
    assert [type(outcome) for outcome in again] == [Duplicate, Duplicate]
    assert whole.tags == [3, 4], "the round acknowledges these, once a checkpoint has it"


def test_a_second_copy_under_another_id_is_not_needed() -> None:
    queue = Queue()
    whole = [whole_of(queue.deliver(body)) for body in bodies()][-1]
    assert [queue.deliver(body).acknowledgeable for body in bodies()] == [(3,), (4,)]
    assert whole is not None
    assert whole.tags == [1, 2]


def test_what_is_in_the_model_is_let_go_when_it_comes_again() -> None:
    queue, sent = Queue(), bodies()
    for body in sent:
        queue.deliver(body)
    queue.state = STATE.after(STATE.weights, [("alfa", 5)], RoundRecord(6), 3)
    queue.intake.round_closed(queue.state)
    assert [queue.deliver(body).acknowledgeable for body in sent] == [(3,), (4,)]


def test_nan_is_rejected_with_all_deliveries_settled() -> None:
    queue = Queue()
    bad = Weights.of([np.ones(SIZE, np.float32)])
    bad[0][-1] = np.nan
    fields = {"layout": WEIGHTS.layout.digest, **transfer_fields(bad.buffer)}
    manifest = UpdateManifest(
        federation="f", run=RUN, client="alfa", base_version=5, num_examples=2, **fields
    )
    outcomes = [queue.deliver(body) for body in bodies_of(Outgoing(manifest, bad.buffer))]
    assert isinstance(outcomes[1], Refused)
    assert outcomes[1].rejected.reason == "not-finite"
    assert outcomes[1].acknowledgeable == (1, 2)


def test_a_late_update_counts_with_its_weight() -> None:
    queue = Queue(max_staleness=3)
    whole = [whole_of(queue.deliver(body)) for body in bodies(base_version=2)][-1]
    assert whole is not None
    assert whole.staleness_weight == 0.5


def test_what_cannot_be_in_time_any_more_is_let_go_when_the_round_closes() -> None:
    queue = Queue(max_staleness=1)
    queue.deliver(bodies("alfa", base_version=4)[0], "alfa")
    queue.deliver(bodies("bravo", base_version=5)[0], "bravo")
    assert queue.intake.incomplete == 0
    assert queue.intake.round_closed(replace(STATE, version=6)) == [1]
    assert queue.intake.incomplete == 1


def test_a_new_round_forgets_what_was_whole_in_the_last() -> None:
    """The ledger has those that are in the model; the others may come again."""
    queue = Queue()
    for body in bodies():
        queue.deliver(body)
    queue.intake.round_closed(STATE)
    assert [whole_of(queue.deliver(body)) for body in bodies()][-1] is not None


def test_a_client_may_join_and_may_not_play_the_coordinator() -> None:
    queue = Queue()
    joined = queue.deliver(encode(Join(federation="f", client="alfa")))
    assert isinstance(joined, Joined)
    assert joined.acknowledgeable == (1,)
    notice = queue.deliver(encode(Notice(notice="join")))
    assert isinstance(notice, Refused)
    assert notice.rejected.reason == "malformed"


SENT = {client: bodies(client) for client in ("alfa", "bravo", "charlie")}
steps = st.lists(
    st.tuples(st.sampled_from(sorted(SENT)), st.integers(0, 1), st.booleans()), max_size=30
)


@settings(deadline=None, max_examples=150)
@given(steps)
def test_every_delivery_has_one_fate_whatever_order_messages_come_in(
    order: list[tuple[str, int, bool]],
) -> None:
    """Settled, or part of one whole update, or part of one unfinished transfer; never two."""
    queue = Queue()
    fates: Counter[int] = Counter()
    whole: Counter[tuple[str | None, int | None]] = Counter()
    held = []
    for client, index, resend in order:
        # A resent manifest is a new transfer of the same contribution.
        body = bodies(client)[0] if resend and index == 0 else SENT[client][index]
        outcome = queue.deliver(body, client)
        fates.update(outcome.acknowledgeable)
        if isinstance(outcome, Accepted):
            held.append(outcome.arrival.tags)
            whole[outcome.client, outcome.arrival.manifest.base_version] += 1
            outcome.arrival.release()
    fates.update(itertools.chain.from_iterable(held))
    unfinished = queue.intake.round_closed(replace(STATE, version=9))
    fates.update(unfinished)
    assert set(fates) == set(range(1, len(order) + 1))
    assert set(fates.values()) <= {1}
    assert queue.intake._staging._held_bytes == 0, "what nobody needs any more takes no memory"
    assert set(whole.values()) <= {1}


def test_a_transfer_under_an_id_that_is_taken_does_not_touch_the_other() -> None:
    queue = Queue()
    first, second = bodies("alfa", transfer="ab" * 8)
    queue.deliver(first, "alfa")
    outcome = queue.deliver(bodies("bravo", transfer="ab" * 8)[0], "bravo")
    assert isinstance(outcome, Refused)
    assert outcome.rejected.reason == "transfer"
    assert outcome.acknowledgeable == (2,)
    whole = whole_of(queue.deliver(second, "alfa"))
    assert whole is not None
    assert whole.tags == [1, 3]


def test_a_transfer_that_is_sent_again_under_its_own_id_begins_anew() -> None:
    queue = Queue()
    first, second = bodies()
    queue.deliver(first)
    assert queue.deliver(first).acknowledgeable == (1,)
    whole = whole_of(queue.deliver(second))
    assert whole is not None
    assert whole.tags == [2, 3]


def test_a_rejection_that_supersedes_still_says_which_update_it_was() -> None:
    queue = Queue()
    queue.deliver(bodies()[0])
    bad = Weights.of([np.full(SIZE, np.inf, np.float32)])
    fields = {"layout": WEIGHTS.layout.digest, **transfer_fields(bad.buffer)}
    manifest = UpdateManifest(
        federation="f", run=RUN, client="alfa", base_version=5, num_examples=2, **fields
    )
    outcome = queue.deliver(bodies_of(Outgoing(manifest, bad.buffer))[0])
    assert isinstance(outcome, Refused)
    assert (outcome.client, outcome.base_version) == ("alfa", 5)
    assert outcome.acknowledgeable == (1, 2)


def test_bytes_that_are_no_message_are_rejected_in_their_senders_name() -> None:
    outcome = Queue().deliver(b"rubbish")
    assert isinstance(outcome, Refused)
    assert (outcome.rejected.reason, outcome.client) == ("malformed", "alfa")
    assert outcome.acknowledgeable == (1,)


WRONG = bodies(digest=7)
REJECTED = {"no message": b"\xc1" * 100, "a wrong digest": WRONG[1],
              "another run": bodies(run="cd" * 4)[0]}  # fmt: skip


@pytest.mark.parametrize("body", REJECTED.values(), ids=REJECTED)
def test_what_was_rejected_is_gone_from_memory_when_its_outcome_is(body: bytes) -> None:
    """A traceback that is kept leads to the frames of all callers: only gc would free the body."""
    queue = Queue()
    queue.deliver(WRONG[0])
    array = np.frombuffer(body, np.uint8).copy()
    gone = weakref.ref(array)

    def judge(view: memoryview) -> Outcome:
        outcome = queue.intake.receive(Delivery(view, 9, 1, "alfa", redelivered=False), STATE)
        assert isinstance(outcome, Refused)
        return outcome

    gc.disable()
    try:
        judge(memoryview(array))
        del array
        assert gone() is None
    finally:
        gc.enable()


def test_a_rejection_goes_to_whom_the_broker_names_and_not_to_whom_the_message_does() -> None:
    queue = Queue()
    assert queue.deliver(bodies("alfa")[0], "bravo").client == "bravo"
    assert queue.deliver(bodies("phone.1", base_version=1)[0], "phone").client == "phone.1"


@pytest.mark.parametrize(("user", "client"), [("alfa", "bravo"), (None, "alfa"), ("a", "alfa")])
def test_nobody_joins_in_anothers_name(user: str | None, client: str) -> None:
    outcome = Queue().deliver(encode(Join(federation="f", client=client)), user)
    assert not isinstance(outcome, Joined)
    assert isinstance(outcome, Refused)
    assert outcome.rejected.reason == "identity"


def test_before_there_is_a_model_there_are_no_updates_to_it() -> None:
    queue = Queue()
    queue.state = None
    outcome = queue.deliver(bodies()[0])
    assert isinstance(outcome, Refused)
    assert outcome.rejected.reason == "run"


def initial(layout: Layout = WEIGHTS.layout, client: str = "alfa", **change: Any) -> list[bytes]:
    fields = {
        "federation": "f", "client": client, "tensors": tensor_entries(layout),
        **transfer_fields(DELTA.buffer), **change,
    }  # fmt: skip
    return bodies_of(Outgoing(InitialManifest(**fields), DELTA.buffer), 2)


def test_initial_weights_arrive_like_an_update() -> None:
    queue = Queue()
    queue.state = None
    whole = [whole_of(queue.deliver(body)) for body in initial()][-1]
    assert whole is not None
    assert isinstance(whole.manifest, InitialManifest)
    assert whole.layout == WEIGHTS.layout
    assert b"".join(data for _, data in whole.chunks()) == DELTA.buffer.tobytes()


def test_initial_weights_whose_tensors_do_not_make_their_size_are_rejected() -> None:
    other = Layout.of([np.zeros(SIZE + 2, np.float32)])
    outcome = Queue().deliver(initial(other)[0])
    assert isinstance(outcome, Refused)
    assert outcome.rejected.reason == "layout"


def test_unfinished_initial_weights_are_let_go_when_there_is_a_model() -> None:
    queue = Queue()
    queue.state = None
    queue.deliver(initial()[0])
    assert queue.intake.round_closed(STATE) == [1]
    queue.state = STATE
    assert queue.deliver(initial()[1]).acknowledgeable == (2,)


SMALL = Weights.of([np.zeros(CHUNK_BYTES // 4 + 8, np.float32)])
CLIENTS = ("alfa", "bravo", "charlie")


class ExactlyOnce(RuleBasedStateMachine):
    """Clients over a broker that redelivers, a coordinator that crashes: each update counts once.

    A real intake, round, ledger and sum; the queue, the lost links and the restarts are a model.
    Client k's update to a version adds 1 at index k: the final model counts what took effect.
    """

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy(quorum=2, max_staleness=1, staleness_exponent=0.0)
        self.state = State("f", RUN, 0, Weights.empty(SMALL.layout), applied={})
        self.queue: list[tuple[str, bytes]] = []  # not yet delivered
        self.unacknowledged: dict[int, tuple[str, bytes]] = {}
        self.dead: set[int] = set()  # tags of deliveries that came again over the same channel
        self.confirmed: set[tuple[str, int]] = set()
        self.rejected: set[tuple[str | None, int | None]] = set()
        self.effect = np.zeros(len(CLIENTS))
        self.restart()

    def restart(self) -> None:
        self.intake = Intake("f", self.policy, staging())
        self.redeliver()

    def redeliver(self) -> None:
        self.queue = [*self.unacknowledged.values(), *self.queue]
        self.unacknowledged.clear()
        self.dead.clear()
        self.tags = itertools.count(1)
        self.round = Round(Cohort(SMALL.layout, mean()))

    @rule(client=st.sampled_from(CLIENTS), copies=st.integers(1, 2), cut=st.booleans())
    def publish(self, client: str, copies: int, cut: bool) -> None:
        """An update whose first attempts may have been cut short by a lost link."""
        if (client, self.state.version) in self.confirmed:
            return
        delta = Weights.empty(SMALL.layout)
        delta[0][CLIENTS.index(client)] = 1.0
        manifest = UpdateManifest(
            federation="f", run=RUN, client=client, base_version=self.state.version,
            num_examples=1, layout=SMALL.layout.digest, **transfer_fields(delta.buffer),
        )  # fmt: skip
        whole = [(client, body) for body in bodies_of(Outgoing(manifest, delta.buffer))]
        self.queue += whole[:1] * cut + whole * copies
        self.confirmed.add((client, self.state.version))

    @precondition(lambda self: len(self.queue) > 1)
    @rule(data=st.data())
    def another_clients_message_comes_first(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(1, len(self.queue) - 1))
        before, after = self.queue[place - 1 : place + 1]
        if before[0] != after[0]:
            self.queue[place - 1 : place + 1] = [after, before]

    @precondition(lambda self: self.queue)
    @rule(crash=st.sampled_from(["no", "no", "no", "before the checkpoint", "after it"]))
    def deliver(self, crash: str) -> None:
        tag = next(self.tags)
        user, body = self.queue.pop(0)
        self.unacknowledged[tag] = (user, body)
        outcome = self.intake.receive(
            Delivery(memoryview(body), tag, 1, user, redelivered=False), self.state
        )
        if isinstance(outcome, Refused):
            self.rejected.add((outcome.client, outcome.base_version))
        if isinstance(outcome, Accepted):
            self.round.fold(outcome.arrival)
            if self.policy.closes(self.round.updates):
                self.close_round(crash)
                return
        self.acknowledge(outcome.acknowledgeable)

    def close_round(self, crash: str) -> None:
        if crash == "before the checkpoint":
            self.restart()
            return
        done = self.round
        self.effect += done.cohort.sum.total[0][: len(CLIENTS)]
        weights = server_optimizer("sgd").move(self.state.weights, done.cohort.delta(), {})
        record = RoundRecord(self.state.version + 1)
        staleness = self.policy.max_staleness
        self.state = self.state.after(weights, done.contributions, record, staleness)
        if crash == "after it":
            self.restart()
            return
        self.acknowledge(done.tags)
        self.acknowledge(self.intake.round_closed(self.state))
        self.round = Round(Cohort(SMALL.layout, mean()))

    def acknowledge(self, tags: Iterable[int]) -> None:
        for tag in tags:
            if tag in self.dead:
                continue  # a quorum queue takes no notice
            del self.unacknowledged[tag]  # a KeyError if it was acknowledged before

    @rule()
    def the_link_is_lost(self) -> None:
        self.intake.reset()
        self.redeliver()

    @rule()
    def the_queue_had_lost_sight_of_our_node(self) -> None:
        """All that is unacknowledged comes again, over the channel that never noticed."""
        self.queue = [*self.unacknowledged.values(), *self.queue]
        self.dead |= set(self.unacknowledged)
        self.unacknowledged.clear()

    @invariant()
    def what_no_checkpoint_has_is_in_the_queue(self) -> None:
        """Whatever is acknowledged is in a checkpoint, or is rejected."""
        kept = set()
        for _user, body in (*self.queue, *self.unacknowledged.values()):
            message = decode(body)[0]
            if isinstance(message, UpdateManifest):
                kept.add((message.client, message.base_version))
        oldest = self.state.version - self.policy.max_staleness
        needed = {told for told in self.confirmed if told[1] >= oldest}
        assert needed - kept - self.rejected <= {
            told for told in self.confirmed if self.state.has_applied(*told)
        }

    @invariant()
    def what_is_unacknowledged_is_in_the_round_or_unfinished(self) -> None:
        unfinished = [tag for one in self.intake._arriving.values() for tag in one.tags]
        held = Counter([*self.round.tags, *unfinished])
        assert set(held) - self.dead == set(self.unacknowledged)
        assert set(held.values()) <= {1}

    def teardown(self) -> None:
        while self.queue:
            self.deliver("no")
        self.restart()
        while self.queue:
            self.deliver("no")
        waiting = self.round.cohort.sum.total[0][: len(CLIENTS)]
        for index, client in enumerate(CLIENTS):
            refused = {base for who, base in self.rejected if who == client}
            counted = len({base for who, base in self.confirmed if who == client} - refused)
            found = self.effect[index] + waiting[index]
            assert counted <= found <= counted + len(refused), "lost, or counted twice"
        assert not refused_while_fresh(self.rejected, self.policy, self.state.version)


def refused_while_fresh(
    rejected: set[tuple[str | None, int | None]], policy: Policy, version: int
) -> bool:
    return any(base is None or version - base <= policy.max_staleness for _, base in rejected)


TestExactlyOnce = pytest.mark.slow(ExactlyOnce.TestCase)
TestExactlyOnce.settings = settings(max_examples=60, deadline=None, stateful_step_count=40)


def test_an_update_is_as_late_as_when_it_is_whole_not_as_when_it_began() -> None:
    queue = Queue(max_staleness=1)
    first, second = bodies("alfa", base_version=5)
    queue.deliver(first)
    queue.state = replace(STATE, version=6)
    queue.intake.round_closed(queue.state)
    whole = whole_of(queue.deliver(second))
    assert whole is not None
    assert whole.staleness_weight == pytest.approx(2**-0.5)


def test_a_clients_failure_is_believed_of_whoever_may_speak_for_it() -> None:
    queue = Queue()
    said = encode(Failed(federation="f", client="alfa", reason="KeyError: 'age'"))
    outcome = queue.deliver(said)
    assert isinstance(outcome, FailureReported)
    assert outcome.message.reason == "KeyError: 'age'"
    assert (outcome.client, outcome.acknowledgeable) == ("alfa", (1,))
    for user, reason in (("bravo", "identity"), (None, "identity")):
        refused = queue.deliver(said, user)
        assert isinstance(refused, Refused)
        assert refused.rejected.reason == reason
    reasons = [rejected_of(queue.deliver(said)) for _ in range(40)]
    assert reasons[0] is None
    assert reasons[-1] is not None
    assert reasons[-1].reason == "flood"


@pytest.mark.parametrize("reason", ["", "a\nb", "\x1b[31m", "\u202e", "x" * 257])
def test_a_reason_that_is_no_printable_line_is_no_message(reason: str) -> None:
    with pytest.raises(ValueError, match=r"reason|printable"):
        Failed(federation="f", client="alfa", reason=reason)


def admitting(admission: Admission) -> Queue:
    queue = Queue()
    queue.intake = Intake("f", Policy(quorum=9), staging(), admission=admission)
    return queue


def reason_of(outcome: Outcome) -> str:
    return outcome.rejected.reason if isinstance(outcome, Refused) else ""


def test_a_fleet_speaks_for_no_replica_that_it_has_not_got() -> None:
    queue = admitting(Admission(exists=lambda client: client == "phone.0"))
    body = encode(Join(federation="f", client="phone.7"))
    outcome = queue.deliver(body, user="phone")
    assert reason_of(outcome) == "identity"
    assert outcome.client == "phone", "a name that is made up is told to nobody"
    assert isinstance(
        queue.deliver(encode(Join(federation="f", client="phone.0")), user="phone"), Joined
    )


def test_initial_weights_come_from_whoever_was_asked_and_from_nobody_else() -> None:
    queue = admitting(Admission(was_asked=lambda client: client == "alfa"))
    queue.state = None
    first, second = initial(WEIGHTS.layout)
    assert reason_of(queue.deliver(initial(WEIGHTS.layout, "bravo")[0], "bravo")) == "unasked"
    queue.deliver(first)
    assert isinstance(queue.deliver(second), Accepted)


def test_initial_weights_that_come_after_the_first_take_no_room() -> None:
    queue = Queue()
    queue.state = None
    first, second = initial(WEIGHTS.layout)
    assert queue.deliver(first).acknowledgeable == ()
    queue.state = STATE
    outcome = queue.deliver(second)
    assert outcome.acknowledgeable == (1, 2)
    assert not isinstance(outcome, Refused), "it was asked"
    assert not queue.intake._arriving
    assert queue.deliver(first).acknowledgeable == (3,)


def test_initial_weights_are_no_larger_than_there_is_room_for() -> None:
    def check(size_bytes: int) -> None:
        if size_bytes > 1000:
            raise Rejected("size", "too large")

    queue = admitting(Admission(check_size=check))
    queue.state = None
    assert reason_of(queue.deliver(initial(WEIGHTS.layout)[0])) == "size"
    assert not queue.intake._arriving


def test_what_the_coordinator_before_us_had_asked_for_is_no_fault() -> None:
    queue = admitting(Admission(was_asked=lambda _client: False))
    queue.state = None
    body = initial(WEIGHTS.layout)[0]
    again = Delivery(memoryview(body), 1, 1, "alfa", redelivered=True)
    outcome = queue.intake.receive(again, None)
    assert isinstance(outcome, Duplicate)
    assert outcome.acknowledgeable == (1,)


def test_unfinished_transfers_do_not_keep_the_broker_from_delivering(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A consumer may hold 65,535 messages; a fleet that ends nothing held all of them."""
    monkeypatch.setattr(intake, "MAX_UNACKNOWLEDGED", 9 * 2 + 20)
    queue = Queue()
    honest = queue.deliver(bodies("alfa")[0])
    held: set[int] = {1}
    for number in range(200):
        outcome = queue.deliver(bodies(f"phone.{number}")[0], user="phone")
        held.add(number + 2)
        held -= set(outcome.acknowledgeable)
        assert len(held) <= 15
        assert held == {t for a in queue.intake._arriving.values() for t in a.tags}
    assert honest.acknowledgeable == ()
    assert 1 in held, "the fleet gives way to its own"


def test_of_many_that_are_under_way_the_one_that_stands_still_gives_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "MAX_UNACKNOWLEDGED", 9 * 2 + 20)
    queue = Queue()
    outcomes = [queue.deliver(bodies(f"c{n}")[0], user=f"c{n}") for n in range(16)]
    assert [outcome.acknowledgeable for outcome in outcomes] == [()] * 15 + [(1,)]
    assert queue.intake.incomplete == 1
    assert isinstance(queue.deliver(bodies("c3")[1], user="c3"), Duplicate)


def _reading(protocol: int, user: str = "alfa") -> Delivery:
    body = bytes(encode(Join(federation="f", client=user)))
    return Delivery(memoryview(body), 1, 1, user, redelivered=False, reads=protocol)


def test_a_client_that_cannot_read_a_federations_models_is_told_to_upgrade() -> None:
    """It would wait for one that it can read, and the coordinator for its update."""
    for flags, protocol, words in (
        (("--exchange trainable",), 4, "up to 4, and with --exchange trainable models are of"),
        (("--downlink", "--privacy"), 4, "with --downlink and --privacy models are of protocol 5"),
        (("--privacy",), 5, ""),
        ((), 4, ""),
    ):
        intake = Intake("f", Policy(quorum=1), staging(), admission=Admission(flags=flags))
        outcome = intake.receive(_reading(protocol), None)
        rejected = rejected_of(outcome)
        assert (rejected is not None) == bool(words)
        assert words in (rejected.detail if rejected is not None else "")


@pytest.mark.parametrize(("exchange", "names"), [("all", True), ("trainable", False)])
def test_initial_weights_of_the_other_exchange_are_refused(exchange: str, names: bool) -> None:
    admission = Admission(was_asked=lambda _client: True)
    for known, refused in ((names, True), (not names, False)):
        intake = Intake("f", Policy(quorum=1), staging(), exchange=exchange, admission=admission)
        manifest = InitialManifest(
            federation="f", client="alfa", tensors=tensor_entries(WEIGHTS.layout),
            fixed_state={"frozen weights": "cafe" * 8} if known else {},
            **transfer_fields(WEIGHTS.buffer),
        )  # fmt: skip
        first = bodies_of(Outgoing(manifest, WEIGHTS.buffer))[0]
        delivery = Delivery(memoryview(first), 1, 1, "alfa", redelivered=False)
        rejected = rejected_of(intake.receive(delivery, None))
        assert (rejected is not None and rejected.reason == "layout") == refused
