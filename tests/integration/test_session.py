"""The AMQP session against a real broker: confirms, leases, reconnection, order."""

import gc
import queue
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pika
import psutil
import pytest
from pika.adapters.utils import io_services_utils
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from broker_config.declaration.federation import Federation
from broker_config.node import lifecycle as private_node
from broker_config.node.record import Node
from client_worker.runtime.mailbox import GlobalModel, Mailbox
from tests.conftest import CLIENTS, FLEET, Place
from tests.support.pace import DEADLINE_S, allow
from tests.support.relay import relay
from warren_shared.amqp import (
    address,
    confirm_deadline,
    connector,
    publisher,
    transports,
    zero_copy,
)
from warren_shared.amqp.confirm_window import PublishBatch, Unconfirmed
from warren_shared.amqp.connector import END_S
from warren_shared.amqp.delivery import Delivery, Subscription
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session, SessionState
from warren_shared.amqp.zero_copy import Connection
from warren_shared.errors import BrokerRefused, BrokerUnavailable, Stopped
from warren_shared.protocol.codec import decode, encode, tensor_entries
from warren_shared.protocol.messages import Join, ModelManifest, UpdateManifest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.layout import Layout, Weights

PATIENCE_S = 60.0


class Received:
    """Deliveries of a consumer, in order."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Delivery] = queue.SimpleQueue()

    def next(self) -> Delivery:
        return self.queue.get(timeout=DEADLINE_S)

    def subscribe(self, *queues: str, exclusive: bool = False) -> Subscription:
        return Subscription(queues, self.queue.put, exclusive=exclusive)


def join(client: str, *, mandatory: bool = True, key: str = "update") -> Publication:
    body = encode(Join(federation="f", client=client))
    return Publication("update", key, body, "join", persistent=True, mandatory=mandatory)


def close_connections(place: Place, user: str) -> None:
    """Cut every connection of ``user``, once the management API has heard of one."""
    mine: list[str] = []
    done = threading.Event()
    while not mine:
        found = place.management.get("vhosts", place.name, "connections")
        mine = [entry["name"] for entry in found if entry.get("user") == user]
        done.wait(0.1)  # the API shows a connection some time after it is open
    for name in mine:
        place.management.delete("connections", name)


@pytest.fixture
def opened(place: Place) -> "Callable[..., Session]":
    sessions: list[Session] = []

    def open_session(
        user: str, subscription: Subscription | None = None, **calls: object
    ) -> Session:
        session = Session.for_broker(place.urls[user], f"test {user}", subscription, **calls)  # type: ignore[arg-type]
        sessions.append(session)
        session.start(PATIENCE_S)
        return session

    yield open_session  # type: ignore[misc]
    for session in sessions:
        session.close()


def test_what_was_confirmed_is_delivered_with_the_name_of_its_sender(
    opened: Callable[..., Session],
) -> None:
    received = Received()
    opened("coordinator", received.subscribe("update"))
    opened("alfa").publish([join("alfa")])
    delivery = received.next()
    assert delivery.user == "alfa"
    assert decode(delivery.body)[0].client == "alfa"


def test_a_transfer_of_many_chunks_arrives_whole_and_in_order(
    opened: Callable[..., Session],
) -> None:
    received = Received()
    opened("coordinator", received.subscribe("update"))
    buffer = np.random.default_rng(0).integers(0, 255, 40 << 20, np.uint8)
    manifest = UpdateManifest(
        federation="f", run="a" * 8, client="alfa", base_version=0, num_examples=1,
        layout="b" * 16, **transfer_fields(buffer),
    )  # fmt: skip
    sender = opened("alfa")
    outgoing = Outgoing(manifest, buffer)
    sender.publish([Publication("update", "update", body, "update") for body in outgoing])
    pieces = [decode(received.next().body)[1] for _ in range(len(outgoing))]
    assert b"".join(pieces) == buffer.tobytes()


def test_what_is_not_acknowledged_comes_again_in_order_over_the_next_connection(
    place: Place, opened: Callable[..., Session]
) -> None:
    """Chunks rely on it: a queue gives back unacknowledged messages in their order."""
    received, lost = Received(), threading.Event()
    consumer = opened("coordinator", received.subscribe("update"), on_lost=lost.set)
    sender = opened("alfa")
    sender.publish([join(f"c{n}") for n in range(200)])
    first = [received.next() for _ in range(200)]
    consumer.acknowledge([d.tag for d in first if d.tag % 3 == 0], first[0].epoch)
    sender.publish([join(f"c{n}") for n in range(200, 250)])
    [received.next() for _ in range(50)]
    close_connections(place, "coordinator")
    assert lost.wait(DEADLINE_S)
    again = [received.next() for _ in range(200 - 66 + 50)]
    numbers = [int(decode(d.body)[0].client[1:]) for d in again]
    assert numbers == sorted(numbers)
    assert {d.epoch for d in again} == {first[0].epoch + 1}
    assert again[0].redelivered


def test_an_update_is_kept_however_often_it_comes_back(
    place: Place, opened: Callable[..., Session]
) -> None:
    """RabbitMQ 4 by itself gives it up after twenty returns, say of restarted coordinators."""
    opened("alfa").publish([join("alfa")])
    plain = pika.BlockingConnection(pika.URLParameters(place.urls["coordinator"]))
    channel = plain.channel()
    for number in range(50):
        delivered, _, _ = next(channel.consume("update", inactivity_timeout=PATIENCE_S))
        assert delivered is not None, f"it is gone after {number} returns"
        channel.basic_nack(delivered.delivery_tag, requeue=True)
    plain.close()


def test_publishing_goes_on_after_the_connection_was_cut(
    place: Place, opened: Callable[..., Session]
) -> None:
    received = Received()
    opened("coordinator", received.subscribe("update"))
    lost = threading.Event()
    sender = opened("alfa", on_lost=lost.set)
    close_connections(place, "alfa")
    assert lost.wait(DEADLINE_S)
    sender.publish([join("alfa")])
    assert decode(received.next().body)[0].client == "alfa"


def test_a_sessions_state_says_whether_it_was_ready_is_and_will_be(place: Place) -> None:
    states: queue.SimpleQueue[SessionState] = queue.SimpleQueue()
    session = Session.for_broker(
        place.urls["alfa"],
        "test alfa",
        on_ready=lambda _queue: states.put(session.state),
        on_lost=lambda: states.put(session.state),
    )
    assert session.state is SessionState.CONNECTING
    session.start(PATIENCE_S)
    assert session.state is SessionState.READY
    close_connections(place, "alfa")
    expected = [SessionState.READY, SessionState.RECONNECTING, SessionState.READY]
    assert [states.get(timeout=DEADLINE_S) for _ in expected] == expected
    session.close()
    assert session.state is SessionState.CLOSED
    refused = Session.for_broker(place.urls["alfa"] + "x", "test")
    with pytest.raises(BrokerRefused):
        refused.start(PATIENCE_S)
    assert refused.state is SessionState.FAILED


def test_a_message_that_no_queue_takes_is_an_error(
    place: Place, opened: Callable[..., Session]
) -> None:
    sender = opened("alfa")
    place.management.delete("queues", place.name, "update")
    with pytest.raises(BrokerRefused, match="no queue takes"):
        sender.publish([join("alfa")])


def test_an_exclusive_queue_is_a_lease_that_ends_with_its_holder(
    place: Place, opened: Callable[..., Session]
) -> None:
    taken: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    row = tuple(f"model.fleet.{n}" for n in range(100))
    holders = [
        opened("fleet", Received().subscribe(*row, exclusive=True), on_ready=taken.put)
        for _ in range(3)
    ]
    assert [taken.get(timeout=DEADLINE_S) for _ in range(3)] == list(row[:3])
    late = Session.for_broker(
        place.urls["fleet"], "late", Received().subscribe(*row, exclusive=True)
    )
    with pytest.raises(BrokerUnavailable, match="all 3 places"):
        late.start(0.5)
    holders[1].close()
    opened("fleet", Received().subscribe(*row, exclusive=True), on_ready=taken.put)
    assert taken.get(timeout=DEADLINE_S) == row[1]


def test_forging_the_sender_is_refused_by_the_broker_and_said(
    opened: Callable[..., Session],
) -> None:
    received = Received()
    opened("coordinator", received.subscribe("update"))
    sender = opened("alfa")
    sender._publisher.user = "bravo"
    with pytest.raises(BrokerRefused, match="user_id"):
        sender.publish([join("bravo")])
    opened("charlie").publish([join("charlie")])
    assert received.next().user == "charlie"


def test_publishing_what_a_client_may_not_is_refused_by_the_broker_and_said(
    opened: Callable[..., Session],
) -> None:
    body = encode(Join(federation="f", client="alfa"))
    with pytest.raises(BrokerRefused, match="ACCESS_REFUSED"):
        opened("alfa").publish([Publication("model", "", body, "model")])


def test_a_message_longer_than_the_broker_takes_is_refused_and_said_once(
    opened: Callable[..., Session], place: Place
) -> None:
    """Published again and again, it would stop its sender for good and tell nobody why."""
    received = Received()
    opened("coordinator", received.subscribe("update"))
    body = (bytes((16 << 20) + 1),)
    sender = opened("alfa")
    with pytest.raises(BrokerRefused, match="message size"):
        sender.publish([Publication("update", "update", body, "update")])
    sender.publish([join("alfa")])
    assert received.next().user == "alfa"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda url: url.replace("alfa:", "alfa:x"), BrokerRefused, "refused the password"),
        (lambda url: url + "x", BrokerRefused, "no such vhost"),
    ],
)
def test_what_waiting_cannot_mend_is_said_at_once(
    place: Place, change: Callable[[str], str], error: type[Exception], words: str
) -> None:
    session = Session.for_broker(change(place.urls["alfa"]), "test")
    with pytest.raises(error, match=words):
        session.start(60.0)


def test_nobody_at_the_address_is_said_after_the_patience(node: object) -> None:
    session = Session.for_broker("amqp://a:b@127.0.0.1:1/f", "test")
    with pytest.raises(BrokerUnavailable, match="Connection refused"):
        session.start(0.3)


def test_a_session_that_ends_while_it_connects_lets_go_of_its_socket() -> None:
    """Not when the garbage is collected: a worker that tries for a day would collect sockets."""
    with ExitStack() as held:
        full = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = full.getsockname()[1]
        for _ in range(4):  # more than the queue of those that were not accepted takes
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        held.callback(gc.enable)
        gc.disable()
        before = connecting(port)
        session = Session.for_broker(f"amqp://a:b@127.0.0.1:{port}/f", "test")
        with pytest.raises(BrokerUnavailable):
            session.start(patience_s=0.5)
        session.close()
        assert connecting(port) == before


def test_a_session_that_is_closed_while_an_attempt_begins_ends_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was no connection yet to be told, and the one that came was waited for in vain."""
    begins, goes_on = threading.Event(), threading.Event()
    connect = Connection.connect

    def slow(*given: Any, **named: Any) -> Connection:
        begins.set()
        assert goes_on.wait(PATIENCE_S)
        return connect(*given, **named)

    monkeypatch.setattr(Connection, "connect", slow)
    session = Session.for_broker(place.urls["alfa"], "test")
    with ThreadPoolExecutor() as threads:
        starting = threads.submit(session.start, PATIENCE_S)
        assert begins.wait(PATIENCE_S)
        closing = threads.submit(session.close)
        assert session._connector.closing.wait(PATIENCE_S)
        goes_on.set()
        closing.result(END_S / 2)
        with pytest.raises(Stopped):
            starting.result()


def connecting(port: int) -> int:
    """How many of this process's sockets wait for an answer from ``port``."""
    found = psutil.Process().net_connections("tcp")
    return sum(1 for each in found if each.status == "SYN_SENT" and each.raddr.port == port)


def test_a_session_that_gives_up_on_a_silent_broker_lets_go_of_its_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        session = Session.for_broker(f"amqp://a:b@127.0.0.1:{silent.getsockname()[1]}/f", "test")
        with pytest.raises(BrokerUnavailable, match="did not answer"):
            session.start(0.3)
        theirs, _address = silent.accept()
        with theirs:
            theirs.settimeout(DEADLINE_S)
            while theirs.recv(4096):  # the protocol's header, then the end
                pass
    assert not [t for t in threading.enumerate() if t.name == "amqp test"]


def test_who_takes_over_gets_what_was_unacknowledged_first_and_all_in_order(
    opened: Callable[..., Session],
) -> None:
    """Chunks that came before their manifest would belong to nothing."""
    first, second = Received(), Received()
    active = opened("coordinator", first.subscribe("update"))
    opened("coordinator", second.subscribe("update"))
    sender = opened("alfa")
    total = 3000
    bodies = [Publication("update", "update", (b"%d" % n,), "n") for n in range(total)]
    sending = threading.Thread(target=sender.publish, args=[bodies])
    sending.start()
    for _ in range(50):
        first.next()
    active.close()
    sending.join()
    came = [int(bytes(second.next().body)) for _ in range(total)]
    assert came == list(range(total))


def test_a_round_may_hold_more_unacknowledged_messages_than_a_quorum_queue_gives_by_itself(
    opened: Callable[..., Session],
) -> None:
    received = Received()
    opened("coordinator", received.subscribe("update"))
    opened("alfa").publish([join("alfa")] * 2100)
    for _ in range(2100):
        received.next()


def test_a_closed_session_publishes_no_more(opened: Callable[..., Session]) -> None:
    session = opened("alfa")
    session.close()
    with pytest.raises(Stopped):
        session.publish([join("alfa")])


def test_a_transfer_far_beyond_the_brokers_largest_message_comes_whole(
    node: Node, opened: Callable[..., Session], place: Place
) -> None:
    """A private node takes no message over 16 MiB."""
    private_node.bring_to_state(
        node, Federation(place.name, clients=CLIENTS, fleets=(FLEET,), model_bytes=400 << 20)
    )
    layout = Layout.of([np.zeros((100 << 20) // 4, np.float32)] * 3)
    weights = Weights.uninitialized(layout)
    for number, tensor in enumerate(weights):
        tensor[:] = np.arange(number, number + tensor.size, dtype=np.float32)
    manifest = ModelManifest(
        federation=place.name, run="ab" * 8, version=7, tensors=tensor_entries(layout),
        **transfer_fields(weights.buffer),
    )  # fmt: skip
    came = threading.Event()
    mailbox = Mailbox(place.name, came.set, lambda: pytest.fail("a piece was lost"))
    mailbox.expect(layout)
    opened("alfa", Subscription(("model.alfa",), mailbox.deliver, exclusive=True, manual_ack=False))
    bodies = Outgoing(manifest, weights.buffer)
    opened("coordinator").publish([Publication("model", "", body, "model") for body in bodies])
    assert came.wait(DEADLINE_S)
    model = mailbox.take()
    assert isinstance(model, GlobalModel)
    assert model.manifest.version == 7
    np.testing.assert_array_equal(model.weights.buffer, weights.buffer)


def test_who_reads_nothing_for_long_still_has_a_heartbeat(
    monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.setattr(address, "HEARTBEAT_S", 1)
    monkeypatch.setattr(zero_copy, "SIGN_OF_LIFE_S", 0.2)
    received, lost, paused = Received(), threading.Event(), threading.Event()
    session = Session.for_broker(
        place.urls["coordinator"], "pausing", received.subscribe("update"), on_lost=lost.set
    )
    sender = Session.for_broker(place.urls["alfa"], "sending")
    try:
        session.start(PATIENCE_S)
        sender.start(PATIENCE_S)
        session.on_thread(lambda: (session.pause(), paused.set()))
        assert paused.wait(PATIENCE_S)
        sender.publish([join("alfa")])
        assert not lost.wait(13.0), "the broker gives up after 2 s, pika after 12"
        assert received.queue.empty()
        session.resume()
        assert received.next().user == "alfa"
        assert not lost.is_set()
    finally:
        session.close()
        sender.close()


def test_a_rounds_deliveries_are_acknowledged_whatever_else_is_open(
    opened: Callable[..., Session], place: Place
) -> None:
    received = Received()
    consumer = opened("coordinator", received.subscribe("update"))
    opened("alfa").publish([join(f"c{number}") for number in range(10)])
    deliveries = [received.next() for _ in range(10)]
    tags, epoch = [delivery.tag for delivery in deliveries], deliveries[0].epoch
    consumer.acknowledge([tags[5]], epoch)
    consumer.acknowledge([*tags[:4], tags[8], tags[5]], epoch)  # one of them a second time
    consumer.close()
    again = Received()
    opened("coordinator", again.subscribe("update"))
    left = [decode(again.next().body)[0].client for _ in range(4)]
    assert left == ["c4", "c6", "c7", "c9"]


def test_an_acknowledgement_after_the_consumer_was_cancelled_is_harmless(
    opened: Callable[..., Session],
) -> None:
    received, lost = Received(), threading.Event()
    session = opened("coordinator", received.subscribe("update"), on_lost=lost.set)
    opened("alfa").publish([join("alfa")])
    first = received.next()

    consumer = session._consumer

    def cancelled_and_then_acknowledged() -> None:
        known = consumer._unacknowledged
        known.record_acks([first.tag])
        consumer._cancelled(None)
        consumer._acknowledge(known)

    session.on_thread(cancelled_and_then_acknowledged)
    assert lost.wait(DEADLINE_S)
    again = received.next()
    assert again.redelivered
    assert again.epoch > first.epoch


def test_a_session_that_reads_nothing_closes_at_once(
    opened: Callable[..., Session], place: Place
) -> None:
    came = threading.Event()

    def pause(_delivery: Delivery) -> None:
        session.pause()
        came.set()

    session = Session.for_broker(
        place.urls["coordinator"], "pausing", Subscription(("update",), pause)
    )
    session.start(PATIENCE_S)
    opened("alfa").publish([join(f"c{number}") for number in range(1000)])
    assert came.wait(DEADLINE_S)
    began = time.monotonic()
    session.close()
    assert time.monotonic() - began < allow(4.0)
    assert not session._connector._thread.is_alive()


def test_pika_itself_works_beside_us_with_its_own_classes(
    place: Place, opened: Callable[..., Session]
) -> None:
    """A task may well use it to get at its data."""
    mine = opened("alfa")
    mine.publish([join("alfa")])
    looking = zero_copy.blocking(*address.parameters(place.urls["coordinator"], "test"))
    plain = pika.BlockingConnection(pika.URLParameters(place.urls["coordinator"]))
    kinds = [
        type(each._transport) for each in (mine._connector.connection, looking._impl, plain._impl)
    ]
    assert kinds == [transports.PlaintextTransport] * 2 + [
        io_services_utils._AsyncPlaintextTransport
    ]
    assert type(plain._impl) is pika.SelectConnection
    assert type(plain._impl._nbio) is SelectorIOServicesAdapter
    for name in ("_consume", "_produce", "_on_socket_readable", "write"):
        assert getattr(kinds[2], name).__module__ == io_services_utils.__name__, name
    delivered, _, body = next(plain.channel().consume("update", inactivity_timeout=PATIENCE_S))
    assert delivered is not None
    assert decode(memoryview(body))[0].client == "alfa"
    plain.close()
    looking.close()


def test_a_confirm_that_never_comes_means_a_new_connection_and_the_same_message_again(
    place: Place, opened: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirm_deadline, "FIRST_S", 1.0)
    monkeypatch.setattr(publisher, "LOOK_S", 0.2)
    received, lost = Received(), threading.Event()
    opened("coordinator", received.subscribe("update"))
    with relay(place.urls[CLIENTS[0]]) as between:
        between.swallow_confirms()

        def connects_well_next_time() -> None:
            between.swallow_confirms(False)
            lost.set()

        session = Session.for_broker(between.url, "test", on_lost=connects_well_next_time)
        session.start(PATIENCE_S)
        began = time.monotonic()
        session.publish([join(CLIENTS[0])])
        session.close()
    assert lost.is_set()
    assert time.monotonic() - began < allow(10.0)
    bodies = {bytes(received.next().body) for _ in range(2)}
    assert len(bodies) == 1, "the same message twice: whoever counts takes it once"


def test_what_goes_out_before_a_goodbye_that_is_not_answered_is_not_taken_for_confirmed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next channel counts from 1 again: its first confirm is that of its first message."""
    monkeypatch.setattr(connector, "GOODBYE_S", 0.3)
    states: queue.SimpleQueue[SessionState] = queue.SimpleQueue()
    with relay(place.urls[CLIENTS[0]]) as between:

        def drop_what_is_held() -> None:
            between.cut()
            states.put(session.state)

        session = Session.for_broker(between.url, "test", on_lost=drop_what_is_held)
        session.start(PATIENCE_S)
        between.hold()
        never_came = PublishBatch([join(CLIENTS[0])])
        session._publisher._submit(never_came)
        session.reopen()
        assert states.get(timeout=DEADLINE_S) is SessionState.RECONNECTING
        session.publish([join(CLIENTS[0])])
        session.close()
    assert isinstance(never_came.error, Unconfirmed)


def test_what_the_broker_refuses_again_and_again_is_tried_ever_more_slowly_and_named(
    place: Place, opened: Callable[..., Session], caplog: pytest.LogCaptureFixture
) -> None:
    session = opened(CLIENTS[0])
    session.publish([join(CLIENTS[0])])
    epoch = session.epoch
    for _ in range(100):  # events: nobody waits for them
        session.post(
            Publication("no-such-exchange", "", encode(Join(federation="f", client="a")), "event")
        )
        threading.Event().wait(0.05)
    assert session.epoch - epoch < 12
    assert any("refused a message of" in record.message for record in caplog.records)
