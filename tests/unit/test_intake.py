"""The coordinator's intake: nothing lost, nothing twice, nothing believed but the broker."""

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_config.names import CHUNK_BYTES
from coordinator_worker.intake import Intake, Outcome
from coordinator_worker.quorum import Policy
from coordinator_worker.state import State
from shared.chunks import Outgoing, transfer_fields
from shared.delivery import Delivery
from shared.layout import Weights
from shared.messages import Join, Notice, UpdateManifest
from shared.wire import encode

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
    return list(itertools.islice(Outgoing(UpdateManifest(**fields), DELTA.buffer), 2))


class Queue:
    """Gives deliveries their tags, as a channel does."""

    def __init__(self, max_staleness: int = 0) -> None:
        self.intake = Intake("f", Policy(quorum=9, max_staleness=max_staleness))
        self.state: State | None = STATE
        self._tags = itertools.count(1)

    def deliver(self, body: bytes, user: str | None = "alfa") -> Outcome:
        return self.intake.receive(
            Delivery(body, next(self._tags), 1, user, redelivered=False), self.state
        )


def test_an_update_is_whole_with_its_last_chunk_and_keeps_its_deliveries() -> None:
    queue = Queue()
    first, second = (queue.deliver(body) for body in bodies())
    assert first.whole is None
    assert first.settled == second.settled == ()
    assert second.whole is not None
    assert second.whole.tags == [1, 2]
    assert second.whole.weight == 2.0
    assert second.whole.sum_of_squares == pytest.approx(SIZE, rel=1e-3)


def test_updates_of_two_clients_may_interleave() -> None:
    queue = Queue()
    ours, theirs = bodies("alfa"), bodies("bravo")
    queue.deliver(ours[0], "alfa")
    queue.deliver(theirs[0], "bravo")
    assert queue.deliver(theirs[1], "bravo").whole is not None
    assert queue.deliver(ours[1], "alfa").whole is not None


def test_an_update_that_came_twice_is_whole_once() -> None:
    queue = Queue()
    for body in bodies():
        queue.deliver(body)
    again = [queue.deliver(body) for body in bodies()]
    assert [outcome.whole for outcome in again] == [None, None]
    assert [outcome.settled for outcome in again] == [(3,), (4,)]
    assert [outcome.rejected for outcome in again] == [None, None]


def test_an_update_that_is_in_the_model_is_acknowledged_without_a_word() -> None:
    queue = Queue()
    queue.state = replace(STATE, version=6, applied={"alfa": frozenset({5})})
    outcomes = [queue.deliver(body) for body in bodies()]
    assert [outcome.settled for outcome in outcomes] == [(1,), (2,)]
    assert not any(outcome.whole or outcome.rejected for outcome in outcomes)


def test_after_a_lost_link_the_same_update_is_whole_again() -> None:
    queue = Queue()
    first, second = bodies()
    queue.deliver(first)
    queue.intake.reset()
    assert queue.deliver(second).settled == (2,), "its first chunk is gone, so it is an orphan"
    queue.intake.reset()
    queue.deliver(first)
    assert queue.deliver(second).whole is not None


def test_a_client_that_begins_again_lets_its_unfinished_transfer_go() -> None:
    queue = Queue()
    queue.deliver(bodies()[0])
    first, second = (queue.deliver(body) for body in bodies())
    assert first.settled == (1,)
    assert second.whole is not None
    assert second.whole.tags == [2, 3]


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
    assert outcome.rejected is not None
    assert outcome.rejected.reason == reason
    assert outcome.settled == (1,)
    assert queue.deliver(second, user).settled == (2,)


def test_a_replica_speaks_for_its_place_in_the_fleet_and_no_other_user_does() -> None:
    queue = Queue()
    assert queue.deliver(bodies("phone.3")[0], "phone").rejected is None
    assert queue.deliver(bodies("tablet.3")[0], "phone").rejected is not None


def test_a_chunk_under_another_users_transfer_does_not_reach_it() -> None:
    queue = Queue()
    first, second = bodies()
    queue.deliver(first, "alfa")
    assert queue.deliver(second, "bravo").whole is None
    assert queue.deliver(second, "alfa").whole is not None


def test_nan_is_rejected_with_all_deliveries_settled() -> None:
    queue = Queue()
    bad = Weights.of([np.ones(SIZE, np.float32)])
    bad[0][-1] = np.nan
    fields = {"layout": WEIGHTS.layout.digest, **transfer_fields(bad.buffer)}
    manifest = UpdateManifest(
        federation="f", run=RUN, client="alfa", base_version=5, num_examples=2, **fields
    )
    outcomes = [queue.deliver(body) for body in Outgoing(manifest, bad.buffer)]
    assert outcomes[1].rejected is not None
    assert outcomes[1].rejected.reason == "not-finite"
    assert outcomes[1].settled == (1, 2)


def test_a_late_update_counts_with_its_weight() -> None:
    queue = Queue(max_staleness=3)
    whole = [queue.deliver(body).whole for body in bodies(base_version=2)][-1]
    assert whole is not None
    assert whole.weight == 2.0 * 0.5


def test_what_cannot_be_in_time_any_more_is_let_go_when_the_round_closes() -> None:
    queue = Queue(max_staleness=1)
    queue.deliver(bodies("alfa", base_version=4)[0], "alfa")
    queue.deliver(bodies("bravo", base_version=5)[0], "bravo")
    assert queue.intake.round_closed(replace(STATE, version=6)) == [1]


def test_a_client_may_join_and_may_not_play_the_coordinator() -> None:
    queue = Queue()
    joined = queue.deliver(encode(Join(federation="f", client="alfa")))
    assert joined.join is not None
    assert joined.settled == (1,)
    notice = queue.deliver(encode(Notice(notice="join")))
    assert notice.rejected is not None
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
    for client, index, resend in order:
        # A resent manifest is a new transfer of the same contribution.
        body = bodies(client)[0] if resend and index == 0 else SENT[client][index]
        outcome = queue.deliver(body, client)
        fates.update(outcome.settled)
        if outcome.whole is not None:
            fates.update(outcome.whole.tags)
            whole[outcome.client, outcome.base_version] += 1
    unfinished = queue.intake.round_closed(replace(STATE, version=9))
    fates.update(unfinished)
    assert set(fates) == set(range(1, len(order) + 1))
    assert set(fates.values()) <= {1}
    assert set(whole.values()) <= {1}
