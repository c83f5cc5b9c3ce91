"""Each forbidden act is tried with a client's own credentials, and refused by the broker itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pika
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from broker_config.broker.drift import check
from broker_config.declaration.federation import Federation, Fleet
from broker_config.declaration.topology import topology
from broker_config.node import lifecycle as private_node
from broker_config.node.processes import wait_for
from broker_config.node.record import Node
from coordinator_worker.rounds.rate_limiter import BURST
from coordinator_worker.storage import checkpoint
from tests.acceptance.forbidden import (
    ACTS,
    FILL,
    KEEPERS_ACTS,
    WATCHERS_ACTS,
    Act,
    answer_to,
    keepers_markdown,
    markdown,
    watchers_markdown,
)
from tests.acceptance.test_faulty_transfers import (
    RUN,
    WEIGHTS,
    Site,
    federation,
    round_closes,
    with_size,
)
from tests.conftest import CLIENTS, FLEET, Place, new_place
from tests.support.keeper import KEEPER
from tests.support.processes import ROOT
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.queue_browser import peek
from warren_shared.amqp.session import Session
from warren_shared.protocol.codec import encode, tensor_entries
from warren_shared.protocol.encryption import UpdateEncryptor
from warren_shared.protocol.messages import Message, ModelManifest, Probe
from warren_shared.protocol.transfer import transfer_fields

QUEUES = ("update", "update.rejected", "model.alfa", "model.bravo", "model.fleet.0")
KEEPERS_QUEUES = ("mask", "unmask", "unmasked")


@pytest.fixture(scope="module")
def guarded(node: Node) -> Iterator[Place]:
    """A federation with a message in each of its queues; one for all acts, they change nothing."""
    with new_place(node) as place:
        _publish(place, "coordinator", "model", "update.rejected")
        _publish(place, "bravo", "update")
        yield place


@pytest.fixture(scope="module")
def kept(node: Node) -> Iterator[Place]:
    """The same with a keeper, and a message in its queues."""
    with new_place(node, keeper=KEEPER) as place:
        _publish(place, "coordinator", "model", "update.rejected")
        _publish(place, "bravo", "update")
        _publish(place, "bravo", "update", key="mask")
        _publish(place, "coordinator", "", key="unmask")
        _publish(place, "keeper", "unmasked")
        yield place


def _publish(place: Place, user: str, *exchanges: str, key: str = "update") -> None:
    session = Session.for_broker(place.urls[user], "test")
    session.start(10.0)
    session.publish([Publication(e, key, (b"bait",), "x", persistent=True) for e in exchanges])
    session.close()


def queues_of(place: Place) -> tuple[str, ...]:
    """Those that have a message each."""
    return (*QUEUES, *KEEPERS_QUEUES) if "keeper" in place.urls else QUEUES


def state(place: Place) -> dict[str, Any]:
    """All that an act could have changed: what there is, who may do what, and every message."""
    definitions = place.management.get("definitions")
    told = {name: sorted(map(repr, what)) for name, what in definitions.items()
            if isinstance(what, list)}  # fmt: skip
    with pika.BlockingConnection(pika.URLParameters(place.urls["admin"])) as connection:
        channel = connection.channel()
        for queue in queues_of(place):
            told[queue] = channel.queue_declare(queue, passive=True).method.message_count
    return told


@pytest.mark.parametrize(
    "act", [pytest.param(act, id=act.name) for acts in ACTS.values() for act in acts]
)
def test_the_broker_refuses_to(guarded: Place, act: Act) -> None:
    record_rejection(guarded, act)


@pytest.mark.parametrize(
    "act",
    [pytest.param(act, id=f"{part}: {act.name}") for part in WATCHERS_ACTS
     for act in WATCHERS_ACTS[part]],
)  # fmt: skip
def test_the_broker_refuses_a_watcher_to(guarded: Place, act: Act) -> None:
    record_rejection(guarded, act)


@pytest.mark.parametrize(
    "act",
    [pytest.param(act, id=f"{who}: {act.name}") for who in KEEPERS_ACTS
     for act in KEEPERS_ACTS[who]],
)  # fmt: skip
def test_with_a_keeper_the_broker_refuses(kept: Place, act: Act) -> None:
    record_rejection(kept, act)


def record_rejection(place: Place, act: Act) -> None:
    before = state(place)
    assert all(before[queue] == 1 for queue in queues_of(place))
    answers = (act.answer, act.elsewhere[1]) if act.elsewhere else (act.answer,)
    assert answer_to(act, place).startswith(answers)
    assert state(place) == before


def test_what_a_watcher_leaves_behind_is_bounded_and_expires(place: Place) -> None:
    """It may leave queues that nobody consumes from: few, short, and for a minute."""
    with pika.BlockingConnection(pika.URLParameters(place.urls["watcher"])) as connection:
        queue = connection.channel().queue_declare("", durable=True).method.queue

    def found() -> Any:
        return place.management.get("queues", place.name, queue)

    assert wait_for(lambda: "operator_policy" in found(), 30.0)  # figures lag
    assert found()["operator_policy"] == "watch"
    assert found()["effective_policy_definition"] == {
        "expires": 60_000, "max-length": 8_192, "max-length-bytes": 64 << 20,
    }  # fmt: skip
    (limits,) = place.management.get("vhost-limits", place.name)
    declared = len(topology(Federation(place.name, CLIENTS, (FLEET,))).queues)
    assert limits["value"] == {"max-queues": declared + 64}


def test_a_watcher_that_has_all_its_queues_keeps_nobody_from_being_enrolled(place: Place) -> None:
    with pika.BlockingConnection(pika.URLParameters(place.urls["watcher"])) as connection:
        channel = connection.channel()
        for _ in range(64):
            channel.queue_declare("", exclusive=True)
        more = Federation(place.name, (*CLIENTS, "echo"), (FLEET, Fleet("crowd", 100)))
        private_node.bring_to_state(place.node, more)
        assert place.queue("model.crowd.99")
        # And when they are gone, nothing is left of it that `check` would name.
    assert check(topology(more), place.management) == []


def test_more_updates_than_the_queue_may_hold_are_refused_one_by_one(place: Place) -> None:
    assert answer_to(FILL, place) == FILL.answer
    with pika.BlockingConnection(pika.URLParameters(place.urls["coordinator"])) as connection:
        found = connection.channel().queue_declare("update", passive=True).method.message_count
    assert 8_192 <= found < 13_000


CONTRADICTIONS = {
    "bytes that are not a message": ("malformed", lambda site: [bytes(range(16))]),
    "a model": ("malformed", lambda site: [encoded(model(site))]),
    "a request that only a coordinator may send": ("malformed", lambda site: [encoded(Probe())]),
    "an update in another client's name": ("identity", lambda site: first(site, client="bravo")),
    "an update to another federation": ("federation", lambda site: first(site, federation="f")),
    "an update to another training run": ("run", lambda site: first(site, run="cd" * 4)),
    "an update of another layout": ("layout", lambda site: first(site, layout="cd" * 8)),
    "an update from a version that does not exist yet": (
        "future", lambda site: first(site, base_version=7)),
    "an update of 2^40 examples": ("examples", lambda site: first(site, num_examples=1 << 40)),
    "an update that announces 2^60 bytes": (
        "malformed", lambda site: [with_size(site.bodies(), 1 << 60)]),
    "chunks in another order": (
        "chunk", lambda site: list(itemgetter(0, 2)(site.bodies()))),
    "bytes that differ from the announced digest": ("digest", lambda site: site.bodies(digest=7)),
    "an update of NaN": ("not-finite", lambda site: spoilt(site, np.nan)),
    "an update of 10^12": ("norm", lambda site: spoilt(site, 1e12)),
    "an update that is encrypted to another key": ("sealed", lambda site: [sealed(site)]),
    "a newer protocol": ("protocol", lambda site: [msgpack.packb({"protocol": 9}) + b"\xc4\0"]),
}  # fmt: skip


def test_the_tables_of_the_document_are_these() -> None:
    document = (ROOT / "docs/security.md").read_text()
    assert markdown() in document
    assert watchers_markdown() in document
    assert keepers_markdown() in document
    rows = [f"| {name} | `{reason}` |" for name, (reason, _) in CONTRADICTIONS.items()]
    assert "\n".join(("| message of a client | reason |", "| --- | --- |", *rows)) in document


def encoded(message: Message) -> bytes:
    return b"".join(encode(message))


def model(site: Site) -> ModelManifest:
    return ModelManifest(
        federation=site.place.name, run=RUN, version=1, tensors=tensor_entries(WEIGHTS.layout),
        **transfer_fields(WEIGHTS.buffer),
    )  # fmt: skip


def first(site: Site, **claims: Any) -> list[bytes]:
    return site.bodies(**claims)[:1]


def spoilt(site: Site, value: float) -> list[bytes]:
    site.delta[0][5] = value
    bodies = site.bodies()
    site.delta[0][5] = 0
    return bodies


def sealed(site: Site) -> bytes:
    sealer = UpdateEncryptor(X25519PrivateKey.generate().public_key(), site.place.name, site.user)
    return b"".join(sealer.seal((site.bodies()[0],)))


def test_the_coordinator_refuses_what_the_broker_lets_through_and_counts_the_honest(
    place: Place, tmp_path: Path
) -> None:
    # In a first round the default has nothing to go by: 10^12 may be the data's scale.
    bound = ("--max-update-norm", "1e9")
    with federation(place, tmp_path, *bound) as (coordinator, odd, good):
        for reason, bodies in CONTRADICTIONS.values():
            odd.publish(*bodies(odd))
            assert coordinator.wait_for("update_rejected", client="alfa")["reason"] == reason
        odd.publish(*odd.bodies()[1:])  # chunks of nothing that was announced
        good.publish(*good.bodies())
        good.publish(*good.bodies())  # the same once more: it came twice, and counts once
        round_closes(coordinator, tmp_path, odd, good)
    letters = list(peek(place.urls["coordinator"], "test", "update.rejected"))
    assert [letter.headers["reason"] for letter in letters] == [
        reason for reason, _ in CONTRADICTIONS.values()
    ]
    assert {letter.headers["client"] for letter in letters} == {"alfa"}


def test_a_client_that_floods_keeps_nobody_from_being_aggregated(
    place: Place, tmp_path: Path
) -> None:
    with federation(place, tmp_path) as (coordinator, odd, good), flooding(place.urls["alfa"]):
        coordinator.wait_for("flood", client="alfa")
        for _ in range(2):
            good.publish(*good.bodies())
        # Of the hostile one an update counts too, once it sends one.
        odd.publish(*odd.bodies())
        assert coordinator.end() == 0
    state = checkpoint.load(tmp_path)
    assert state is not None
    np.testing.assert_array_equal(state.weights[0][:3], [0.5, 0.5, 0.0])
    kept = sum(1 for _ in peek(place.urls["coordinator"], "test", "update.rejected"))
    assert BURST <= kept < 10 * BURST


@contextmanager
def flooding(url: str) -> Iterator[None]:
    """Two threads that publish rubbish as fast as pika does, for as long as this lasts."""
    over = threading.Event()
    told = pika.BasicProperties(user_id="alfa")

    def flood() -> None:
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            while not over.is_set():
                for _ in range(500):
                    channel.basic_publish("update", "update", b"{}", told)
                connection.process_data_events()

    threads = [threading.Thread(target=flood) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
