"""``coordinator-worker rejected``: what a client's account sent, why it went, who may look."""

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pika
import pytest

from broker_config.broker.drift import check
from broker_config.declaration.federation import Federation
from broker_config.declaration.topology import topology
from broker_config.node import lifecycle as private_node
from coordinator_worker.cli import main
from coordinator_worker.monitoring.events import Stamped, UpdateRejected
from coordinator_worker.monitoring.follower import Watch
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests.conftest import CLIENTS, FLEET, Place
from tests.support.hostile import TIMESTAMP as POISON
from tests.support.hostile import raw_headers
from tests.support.processes import BIN, DEADLINE_S, ROOT, Worker, workers
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.queue_browser import peek
from warren_shared.amqp.session import Session
from warren_shared.protocol.codec import Body, encode
from warren_shared.protocol.messages import Join, UpdateManifest
from warren_shared.tensors.layout import Weights

QUEUE = "update.rejected"


def update(place: Place, client: str, *, base_version: int = 0) -> Body:
    manifest = UpdateManifest(
        federation=place.name, run="ab" * 4, client=client, base_version=base_version,
        num_examples=1, layout="cd" * 8, transfer="ef" * 8, size_bytes=4, digest=0,
    )  # fmt: skip
    return encode(manifest, b"\0\0\0\0")


def send(place: Place, user: str, *bodies: Body) -> None:
    session = Session.for_broker(place.urls[user], f"test {user}")
    session.start(10.0)
    session.publish([Publication("update", "update", b, "x", persistent=True) for b in bodies])
    session.close()


def listed(place: Place, *flags: str, user: str = "coordinator") -> str:
    """What the command prints; its log and its errors would fail the test."""
    command = [BIN / "coordinator-worker", "rejected", "--broker-url", place.urls[user], *flags]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def waiting(place: Place) -> int:
    with pika.BlockingConnection(pika.URLParameters(place.urls["coordinator"])) as connection:
        return connection.channel().queue_declare(QUEUE, passive=True).method.message_count


@pytest.fixture
def poisoned(place: Place, tmp_path: Path) -> Iterator[Place]:
    """A federation with a running coordinator that has rejected three messages of two clients."""
    initial = tmp_path / "initial.npz"
    np.savez(initial, np.zeros(1, np.float32))
    arguments = ("--initial-model", str(initial), "--checkpoint-dir", str(tmp_path / "checkpoint"))
    events: queue.SimpleQueue[Stamped] = queue.SimpleQueue()
    with workers() as started, Watch(place.urls["watcher"], events.put):
        started.append(Worker("coordinator-worker", place.urls["coordinator"], *arguments))
        send(place, "alfa", (b"rubbish",), update(place, "bravo"))
        send(place, "bravo", update(place, "bravo", base_version=7))
        rejected = 0
        while rejected < 3:  # the event comes when the broker has confirmed the letter
            event = events.get(timeout=DEADLINE_S)
            rejected += isinstance(event.event, UpdateRejected)
        yield place
        assert started[0].process.poll() is None, "the coordinator did not survive being looked at"


def test_what_clients_sent_is_listed_with_who_and_why_and_stays(poisoned: Place) -> None:
    first = listed(poisoned)
    assert "3 rejected: " in first
    assert "1 malformed" in first
    assert "may not speak for client 'bravo'" in first
    newest, *_, total = [json.loads(line) for line in listed(poisoned, "--json").splitlines()]
    assert (newest["client"], newest["reason"], newest["kind"]) == ("bravo", "run", "update")
    assert newest["size_bytes"] > 4
    assert 0 <= time.time() - newest["time"] < 2 * DEADLINE_S
    assert (total["client"], total["reason"], total["kind"]) == ("alfa", "malformed", "")
    assert listed(poisoned) == first
    assert waiting(poisoned) == 3
    assert "(2 older ones not shown" in listed(poisoned, "--limit", "1")


def test_letters_that_come_later_are_listed_before(poisoned: Place) -> None:
    """Those looked at go back to where they were, not to the end."""
    before = listed(poisoned, "--json").splitlines()
    body = encode(Join(federation=poisoned.name, client="charlie"))
    letter = Publication(QUEUE, "", body, "rejected", headers={"reason": "later"})
    session = Session.for_broker(poisoned.urls["coordinator"], "test")
    session.start(10.0)
    session.publish([letter])
    session.close()
    after = listed(poisoned, "--json").splitlines()
    assert after[1:] == before
    assert json.loads(after[0])["reason"] == "later"


def expired(place: Place) -> None:
    """Let a client put a message into `update` that goes when its time is up."""
    with pika.BlockingConnection(pika.URLParameters(place.urls["alfa"])) as connection:
        expires = pika.BasicProperties(user_id="alfa", expiration="1", headers={"reason": "none"})
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("update", "update", b"evidence", expires)
        patience = threading.Event()
        while channel.queue_declare("update", passive=True).method.message_count:
            patience.wait(0.05)


def test_what_its_sender_lets_expire_is_not_among_the_rejected(place: Place) -> None:
    """The broker would move it there past the coordinator, headers and all."""
    expired(place)
    letter = Publication("", QUEUE, (b"later",), "rejected", headers={"reason": "later"})
    session = Session.for_broker(place.urls["coordinator"], "test")
    session.start(10.0)
    session.publish([letter])
    session.close()
    assert [json.loads(line)["reason"] for line in listed(place, "--json").splitlines()] == [
        "later"
    ]


def test_the_way_past_the_coordinator_is_closed_on_a_broker_of_an_earlier_version(
    place: Place,
) -> None:
    federation = Federation(place.name, clients=CLIENTS, fleets=(FLEET,))
    (queue,) = [each for each in topology(federation).queues if each.name == "update"]
    old = {**queue.arguments, "x-dead-letter-exchange": QUEUE}
    place.management.delete("queues", place.name, "update")
    place.management.put("queues", place.name, "update", body={"durable": True, "arguments": old})
    path = ("bindings", place.name, "e", "update", "q", "update")
    place.management.post(*path, body={"routing_key": "update", "arguments": {}})
    told = [str(each) for each in check(topology(federation), place.management)]
    assert told == [f"binding {QUEUE} -> {QUEUE}: must not be there any more"]
    private_node.bring_to_state(place.node, federation)
    private_node.bring_to_state(place.node, federation)
    assert check(topology(federation), place.management) == []
    place.management.put("queues", place.name, "ear", body={"durable": True})
    path = ("bindings", place.name, "e", QUEUE, "q", "ear")
    place.management.post(*path, body={"routing_key": "", "arguments": {}})
    expired(place)
    with pika.BlockingConnection(pika.URLParameters(place.urls["admin"])) as connection:
        dead = next(connection.channel().consume("ear", inactivity_timeout=DEADLINE_S))
        assert dead[2] == b"evidence", "the broker gave it up"
    assert waiting(place) == 0


def test_a_letter_whose_headers_nobody_can_decode_is_listed(place: Place) -> None:
    """An earlier version's broker may have moved one there."""
    with pika.BlockingConnection(pika.URLParameters(place.urls["coordinator"])) as connection:
        channel = connection.channel()
        for headers in ({}, {"x": POISON}, {"reason": "stale"}):
            letter = pika.BasicProperties(headers=headers, user_id="coordinator")
            with raw_headers():
                channel.basic_publish("", QUEUE, b"evidence", letter)
    reasons = [json.loads(line)["reason"] for line in listed(place, "--json").splitlines()]
    assert reasons == ["stale", "unreadable", ""]
    assert "its AMQP headers cannot be decoded" in listed(place)
    assert waiting(place) == 3


def test_an_empty_queue_is_one_line(place: Place) -> None:
    assert listed(place) == f"nothing was rejected: update.rejected of {place.name} is empty\n"
    assert listed(place, "--json") == ""


def test_only_the_explicit_flag_deletes_and_no_variable_does(
    poisoned: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARREN_DELETE_ALL", "true")
    assert "3 rejected" in listed(poisoned)
    assert waiting(poisoned) == 3
    assert listed(poisoned, "--delete-all") == "deleted 3 rejected messages\n"
    assert waiting(poisoned) == 0
    assert json.loads(listed(poisoned, "--delete-all", "--json")) == {"deleted": 0}


def test_two_that_look_at_once_are_told_instead_of_seeing_half(
    poisoned: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = peek(poisoned.urls["coordinator"], "first", QUEUE)
    next(letters)
    assert main(["rejected", "--broker-url", poisoned.urls["coordinator"]]) == 1
    assert "somebody else is looking" in capsys.readouterr().err
    assert len(list(letters)) == 2
    assert waiting(poisoned) == 3


def test_who_stops_looking_half_way_leaves_everything_there(poisoned: Place) -> None:
    letters = peek(poisoned.urls["coordinator"], "first", QUEUE)
    next(letters)
    letters.close()  # type: ignore[attr-defined]  as after Ctrl-C
    assert len(list(peek(poisoned.urls["coordinator"], "second", QUEUE))) == 3


def test_a_client_may_not_look_at_what_others_sent_nor_hear_that_there_is_nothing(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = Publication(QUEUE, "", (b"rubbish",), "rejected")
    session = Session.for_broker(place.urls["coordinator"], "test")
    session.start(10.0)
    for flags in ([], ["--delete-all"]) * 2:
        assert main(["rejected", "--broker-url", place.urls["alfa"], *flags]) == 1
        error = capsys.readouterr().err
        assert error.startswith("coordinator-worker rejected: the broker at ")
        assert "refused" in error
        assert error.count("\n") == 1
        session.publish([letter])  # the second time there is something
    session.close()
    assert waiting(place) == 4


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_limit_is_a_number_from_one_on(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rejected", "--broker-url", "amqp://a:b@127.0.0.1:1/f", f"--limit={limit}"]) == 2
    assert f"--limit: {limit} is not a number from 1 on" in capsys.readouterr().err


def test_a_fleet_that_is_late_as_a_whole_is_no_flood(place: Place, tmp_path: Path) -> None:
    weights = Weights.of([np.zeros(1, np.float32)])
    run = "ab" * 4
    checkpoint.save(tmp_path, State(place.name, run, 9, weights, applied={}))

    def late(number: int) -> Body:
        manifest = UpdateManifest(
            federation=place.name, run=run, client=f"fleet.{number % 3}", base_version=number % 7,
            num_examples=1, layout=weights.layout.digest, transfer=f"{number:016x}",
            size_bytes=weights.layout.size_bytes, digest=0,
        )  # fmt: skip
        return encode(manifest, b"\0\0\0\0")

    with workers() as started:
        words = ("--checkpoint-dir", str(tmp_path), "--quorum", "1", "--max-staleness", "1")
        coordinator = Worker("coordinator-worker", place.urls["coordinator"], *words)
        started.append(coordinator)
        coordinator.wait_for("model_published")
        send(place, "fleet", *(late(number) for number in range(120)))
        send(place, "fleet", *[(b"rubbish",)] * 120)
        reasons: list[str] = []
        for record in coordinator.records("flood"):
            if record["action"] == "flood":
                break
            if record["action"] == "update_rejected":
                reasons.append(record["reason"])
    assert reasons.count("malformed") >= 50  # it came of what is rubbish, all of which was kept
    assert 50 <= reasons.count("stale") < 120
