"""A broker that was taken over: it can read nothing that is sealed, and inject no model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pika
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from coordinator_worker.runtime.model_publisher import ModelPublisher
from coordinator_worker.runtime.notices import Notices
from coordinator_worker.storage import checkpoint
from tests.conftest import Place
from tests.support.processes import ENCRYPT, KEYS, Worker, key_text, workers
from warren_shared.amqp.session import Session
from warren_shared.protocol.codec import decode
from warren_shared.protocol.messages import Sealed
from warren_shared.protocol.model_header import ModelHeader
from warren_shared.protocol.signing import Signer
from warren_shared.tensors.layout import Layout, Weights

RUN = "ab" * 8
LAYOUT = Layout.of([np.zeros(8, np.float32)])


def client(place: Place, user: str, index: int, **extra: str) -> Worker:
    arguments = ("--task", "tests.tasks:ledger", "--index", str(index))
    return Worker("client-worker", place.urls[user], *arguments, **extra)


@contextmanager
def taken_over(place: Place) -> Iterator[Session]:
    """A connection with the coordinator's rights, for whoever holds the broker can have them."""
    session = Session.for_broker(place.urls["coordinator"], "taken over")
    session.start(10.0)
    try:
        yield session
    finally:
        session.close()


def test_a_client_trains_from_no_model_that_the_coordinator_did_not_sign(
    place: Place, tmp_path: Path
) -> None:
    stranger = Signer([Ed25519PrivateKey.generate()])
    genuine = Signer.of(KEYS["coordinator-worker"]["WARREN_SIGNING_KEYS"])
    with workers() as started, taken_over(place) as session:
        started.append(client(place, "alfa", 0))
        started[0].wait_for("connected")
        weights = Weights.empty(LAYOUT)
        for version, signer, words in (
            (1, None, "not signed"),
            (2, stranger, "not in this client's bundle"),
        ):
            header = ModelHeader(federation=place.name, run=RUN, version=version)
            ModelPublisher.announce(session, weights, signer, header=header).set_weights(
                list(weights)
            )
            refused = started[0].wait_for("not_genuine")
            assert words in refused["message"]
        Notices(session, None).tell("alfa", notice="send-initial")
        assert "notice" in started[0].wait_for("not_genuine")["message"]
        header = ModelHeader(federation=place.name, run=RUN, version=3)
        ModelPublisher.announce(session, weights, genuine, header=header).set_weights(list(weights))
        started[0].wait_for("update_confirmed", base_version=3)
        assert "version 1" not in started[0].said
        assert "version 2" not in started[0].said


def test_sealed_updates_make_the_same_model_and_the_broker_reads_nothing(
    place: Place, tmp_path: Path
) -> None:
    place.management.put("queues", place.name, "ear", body={"durable": True})
    listen = ("bindings", place.name, "e", "update", "q", "ear")
    place.management.post(*listen, body={"routing_key": "update", "arguments": {}})
    with workers() as started:
        for index, user in enumerate(("alfa", "bravo")):
            started.append(client(place, user, index, **ENCRYPT))
        url = place.urls["coordinator"]
        options = ("--checkpoint-dir", str(tmp_path), "--quorum", "2", "--rounds", "3")
        started.append(Worker("coordinator-worker", url, *options))
        assert [worker.end() for worker in started] == [0, 0, 0]
    state = checkpoint.load(tmp_path)
    assert state is not None
    np.testing.assert_allclose(state.weights[0], [1.5, 1.5, 0, 0, 0, 0, 0, 0])
    heard = list(bodies(place, "ear"))
    assert len(heard) >= 3 * 2 + 2
    for body in heard:
        assert isinstance(decode(body)[0], Sealed)
        assert b"alfa" not in body
        assert b"num_examples" not in body


def test_an_update_sealed_to_another_key_is_rejected_with_the_reason(
    place: Place, tmp_path: Path
) -> None:
    other = key_text(X25519PrivateKey.generate().public_key().public_bytes_raw())
    with workers() as started:
        url = place.urls["coordinator"]
        started.append(Worker("coordinator-worker", url, "--checkpoint-dir", str(tmp_path)))
        started[0].wait_for("connected")
        started.append(client(place, "alfa", 0, WARREN_ENCRYPT_KEY=other))
        refused = started[0].wait_for("update_rejected", reason="sealed")
        assert refused["client"] == "alfa"
        assert "newest bundle" in refused["message"]


def bodies(place: Place, queue: str) -> Iterator[bytes]:
    with pika.BlockingConnection(pika.URLParameters(place.urls["admin"])) as connection:
        channel = connection.channel()
        while True:
            _, _, body = channel.basic_get(queue, auto_ack=True)
            if body is None:
                return
            yield body
