"""Faults that were found by reading and by use, each held by the sentence that was not true."""

import queue
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from broker_config.node.processes import wait_for
from client_worker.runtime.client_state import ClientState
from client_worker.runtime.mailbox import GlobalModel, ModelCache, Shelved
from client_worker.runtime.participant import Participant
from client_worker.runtime.update_store import UpdateStore
from client_worker.settings import ClientSettings
from client_worker.tasks.feature_statistics import Statistics
from coordinator_worker.dashboard.server import DashboardServer
from coordinator_worker.monitoring.event_publisher import Events
from coordinator_worker.monitoring.events import CoordinatorRecovered, CoordinatorStalled
from coordinator_worker.runtime.disk_retry import DiskRetry
from coordinator_worker.runtime.evaluator import Evaluator
from coordinator_worker.runtime.event_loop import CoordinatorLoop
from coordinator_worker.settings import CoordinatorSettings
from tests.support.pace import DEADLINE_S
from warren_shared import weights_file
from warren_shared.amqp import zero_copy
from warren_shared.amqp.confirm_window import NotTaken
from warren_shared.amqp.publisher import Publication
from warren_shared.config.settings import load
from warren_shared.errors import ConfigError, NotThere, Stopped
from warren_shared.files import replacing
from warren_shared.naming import mailbox
from warren_shared.observability.event_bus import EventBus
from warren_shared.protocol.codec import tensor_entries
from warren_shared.protocol.messages import ModelManifest, Notice
from warren_shared.protocol.transfer import transfer_fields
from warren_shared.tensors.layout import Weights

WEIGHTS = Weights.of([np.zeros(4, np.float32)])


@pytest.mark.parametrize("address", ["::1", "127.0.0.1", "localhost"])
def test_the_dashboard_can_be_had_at_every_address_of_this_machine(address: str) -> None:
    server = DashboardServer((address, 0), None)  # type: ignore[arg-type]
    try:
        with socket.create_connection((address, server.server_port), timeout=DEADLINE_S):
            assert server.local_only
    finally:
        server.server_close()


def test_a_stop_is_heard_by_everybody_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first who waited ate it, so a region on a full disk hung."""
    settings = CoordinatorSettings(broker_url="amqp://u:p@127.0.0.1:1/f", quorum=1)
    links = CoordinatorLoop.from_settings(settings)
    monkeypatch.setattr(links.models, "close_within", lambda _seconds: None)
    links.ask_to_stop()
    began = time.monotonic()
    assert [links.stopped_within(DEADLINE_S) for _ in range(3)] == [True] * 3
    assert not links.goes_on()
    assert time.monotonic() - began < DEADLINE_S


@pytest.mark.parametrize("failure", [NotTaken, NotThere, Stopped])
def test_a_probe_that_the_broker_does_not_take_ends_no_thread_and_is_sent_again(
    monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    """While two of three nodes were lost the thread ended with a traceback."""
    settings = CoordinatorSettings(broker_url="amqp://u:p@127.0.0.1:1/f", quorum=1)
    links = CoordinatorLoop.from_settings(settings)
    tried: queue.SimpleQueue[None] = queue.SimpleQueue()

    def publish(_messages: object, **_: object) -> None:
        tried.put(None)
        raise failure("no majority")

    monkeypatch.setattr(links.models, "publish", publish)
    for _ in range(2):
        links.ask_whether_active()
        tried.get(timeout=DEADLINE_S)
        assert wait_for(lambda: not links._asking.locked(), DEADLINE_S)
    # Pytest makes an error of a thread that ended with an exception.


class Slow:
    """A session that is slow to take the first event."""

    def __init__(self) -> None:
        self.numbers: list[str] = []
        self.first_is_in = threading.Event()
        self.second_was_tried = threading.Event()

    def post(self, message: Publication) -> None:
        if message.routing_key.startswith("event"):
            return
        if message.routing_key == "coordinator.stalled":
            self.first_is_in.set()
            self.second_was_tried.wait(0.2)
        self.numbers.append(message.routing_key)


def test_events_of_two_threads_go_out_in_the_order_of_their_numbers() -> None:
    session = Slow()
    events = Events(session, EventBus(), federation="f")  # type: ignore[arg-type]
    first = threading.Thread(target=events.post, args=(CoordinatorStalled(),))
    first.start()
    assert session.first_is_in.wait(DEADLINE_S)
    second = threading.Thread(target=events.post, args=(CoordinatorRecovered(),))
    second.start()
    second.join(0.05)
    session.second_was_tried.set()
    for thread in (first, second):
        thread.join(DEADLINE_S)
    assert session.numbers == ["coordinator.stalled", "coordinator.recovered"]


@pytest.mark.parametrize("at_top", [True, False])
def test_a_flag_switches_off_what_a_file_or_the_environment_has_switched_on(
    at_top: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "warren.toml"
    path.write_text("[client]\nstay = true\n" if at_top else "")
    if not at_top:
        monkeypatch.setenv("WARREN_STAY", "true")
    words = ["--settings", str(path), "--broker-url", "amqp://alfa:x@h/f", "--task", "x:y"]
    assert load(ClientSettings, description="", argv=words)[0].stay
    assert not load(ClientSettings, description="", argv=[*words, "--no-stay"])[0].stay
    assert load(ClientSettings, description="", argv=[*words, "--stay"])[0].stay


class Full(OSError):
    """As of a disk that is full."""


def test_a_file_that_could_not_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise Full("no room")

    path = tmp_path / "kept.txt"
    path.write_text("before")
    with pytest.raises(Full), replacing(path) as temporary:
        fails(temporary.write_text("half"))
    monkeypatch.setattr("os.fdatasync", fails)
    UpdateStore(tmp_path).confirmed("alfa", "ab" * 4, 3)
    monkeypatch.setattr(np, "savez_compressed", fails)
    with pytest.raises(Full):
        Statistics.of([[1.0]]).save(tmp_path / "statistics.npz")
    monkeypatch.setattr(weights_file, "_write_npz", fails)
    with pytest.raises(Full):
        weights_file.write(tmp_path / "best.npz", WEIGHTS)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [
        ("kept.txt", "before")
    ]


class Blocked:
    """A connection that remembers what is to be called."""

    def add_on_connection_blocked_callback(self, call: Any) -> None:
        self.blocked = call

    def add_on_connection_unblocked_callback(self, call: Any) -> None:
        self.unblocked = call


def test_that_the_broker_takes_messages_again_is_not_called_blocked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = Blocked()
    zero_copy.say_when_blocked(found)  # type: ignore[arg-type]
    with caplog.at_level("INFO"):
        found.blocked(None, None)
        found.unblocked(None, None)
    told = [(record.levelname, vars(record)["action"]) for record in caplog.records]
    assert told == [("WARNING", "connection_blocked"), ("INFO", "connection_unblocked")]


def test_who_waits_for_the_last_models_figures_gives_signs_of_life_and_can_be_stopped(
    tmp_path: Path,
) -> None:
    judged: list[Any] = []
    evaluator = Evaluator("cat", tmp_path, lambda *told: judged.append(told))
    signs = iter([True, True, False])
    release = threading.Event()
    hangs = threading.Thread(target=release.wait)
    hangs.start()
    evaluator._thread = hangs  # an earlier version is being judged, for as long as we like
    heard: list[bool] = []

    def goes_on() -> bool:
        heard.append(next(signs))
        return heard[-1]

    evaluator.finish(3, WEIGHTS, goes_on)
    assert heard == [True, True, False]
    release.set()
    hangs.join(DEADLINE_S)
    evaluator.close()


class Ours:
    """As much of a client as its memory needs."""

    def __init__(self) -> None:
        from client_worker.client import FederatedClient

        class Model:
            def get_weights(self) -> list[np.ndarray]:
                return [np.zeros(2, np.float32)]

            def set_weights(self, weights: Any) -> None:
                """Keep nothing."""

            def fit(self, data: Any, learning_rate: float) -> dict[str, float]:
                """Learn nothing."""
                return {}

        self.client = FederatedClient(Model(), [0], 0.1)


def test_a_replica_that_comes_back_in_another_place_writes_that_places_files(
    tmp_path: Path,
) -> None:
    from warren_shared.protocol.messages import LocalTraining

    client, local = Ours().client, LocalTraining(scaffold=True)
    memory = ClientState("f", UpdateStore(tmp_path))
    memory.resume(client, "phone.1", "ab" * 4, local)
    memory.resume(client, "phone.2", "ab" * 4, local)
    memory._write_control()
    assert [path.name for path in tmp_path.iterdir()] == ["phone.2.control"]


FLEETS = "WARREN_BROKER_URL=amqp://phone:y@h/f\nWARREN_FLEET=phone\n"
ALFAS = "WARREN_BROKER_URL=amqp://alfa:x@h/f\nWARREN_CLIENT=alfa\n"


def test_a_named_site_beside_a_fleet_on_one_machine_is_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """systemd reads both bundles, the site's last."""
    for line in (FLEETS + ALFAS).splitlines():
        monkeypatch.setenv(*line.split("=", 1))
    found, _ = load(ClientSettings, description="", argv=["--task", "x:y"])
    assert found.fleet is None
    assert found.mailboxes() == (mailbox("alfa"),)
    asked, _ = load(ClientSettings, description="", argv=["--task", "x:y", "--fleet", "phone"])
    with pytest.raises(ConfigError, match="this bundle is that of alfa"):
        asked.mailboxes()


def test_a_place_in_a_fleet_is_still_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in FLEETS.splitlines():
        monkeypatch.setenv(*line.split("=", 1))
    monkeypatch.setenv("WARREN_CLIENT", "phone.3")
    found, _ = load(ClientSettings, description="", argv=["--task", "x:y"])
    assert (found.fleet, found.mailboxes()) == ("phone", (mailbox("phone.3"),))


class Bureau:
    """An office without a broker: what is published is remembered."""

    def __init__(self) -> None:
        self.shelf, self.keep, self.event_bus = ModelCache(), None, EventBus()
        self.sent: list[Any] = []

    def publish(self, bodies: Any, kind: str) -> None:
        if kind == "update":
            self.sent.append((bodies.manifest.run[:2], bodies.manifest.base_version))

    def wake(self, participant: Any) -> None:
        """It is looked at when the test says so."""

    def expect(self, layout: Any) -> None:
        self.participant.mailbox.expect(layout)

    participant: Participant


def model_of(run: str, version: int, participation: float = 1e-9) -> GlobalModel:
    layout = Ours().client.layout
    weights = Weights.empty(layout)
    manifest = ModelManifest(
        federation="f", run=run, version=version, tensors=tensor_entries(layout),
        participation=participation, **transfer_fields(weights.buffer),
    )  # fmt: skip
    return GlobalModel(manifest, Shelved(weights))


def bureau() -> Bureau:
    settings = ClientSettings(broker_url="amqp://alfa:x@h/f", task="x:y")
    made = Bureau()

    class Source:
        def takes(self, _name: str) -> bool:
            return False

        def arguments(self, _given: Any) -> dict[str, Any]:
            return {}

        def make(self, _arguments: Any) -> Any:
            return SimpleNamespace(client=lambda: Ours().client)

    made.participant = Participant(settings, Source(), made)  # type: ignore[arg-type]
    made.participant.id = "alfa"
    made.participant.prepare()
    return made


def all_hands(version: int) -> Notice:
    return Notice(notice="all-hands", base_version=version)


def test_what_a_client_skipped_or_was_called_for_ends_with_the_run() -> None:
    first, second = "aa" * 4, "bb" * 4
    context = bureau()
    one = context.participant
    one._work(model_of(first, 5))  # not drawn
    one._heed(all_hands(5))
    assert context.sent == [("aa", 5)]
    one._work(model_of(first, 6))
    one._work(model_of(second, 5))
    assert context.sent == [("aa", 5)], "the call was for another run's version 5"
    one._heed(all_hands(6))
    assert context.sent == [("aa", 5)], "what was skipped before is no version 6"
    one._heed(all_hands(0))
    one._work(model_of(first, 0))
    assert context.sent[-1] == ("aa", 0), "a call may come before its model is looked at"
    one._work(model_of(first, 7))
    one._work(model_of(second, 1, participation=1.0))
    one._heed(all_hands(7))
    assert context.sent[-1] == ("bb", 1), (
        "what was skipped in the run before is no part of this one"
    )


class Told:
    """As much of a chronicle, and of links, as patience needs."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.supervisor = SimpleNamespace(alive=lambda _what: None)

    def stalled(self, _error: OSError) -> None:
        self.said.append("stalled")

    def recovered(self) -> None:
        self.said.append("recovered")

    def stopped_within(self, _seconds: float) -> bool:
        return False


def test_that_there_is_room_again_is_said_once_and_when_it_is_so() -> None:
    """Each line of the audit log that still fitted was taken for room: 26 times in one outage."""
    told = Told()
    patience = DiskRetry(told, told)  # type: ignore[arg-type]
    for _ in range(26):
        patience.wait(Full("no room for an update"), of_staging=True)
        patience.persist(lambda: None, is_small=True)  # the audit log says that we go on
    assert told.said == ["stalled"]
    patience.persist(lambda: None)  # a round has closed, and its checkpoint is written
    assert told.said == ["stalled", "recovered"]
    attempts = iter([Full(), Full(), None])

    def checkpoint() -> None:
        if (error := next(attempts)) is not None:
            raise error

    patience.persist(checkpoint)
    assert told.said == ["stalled", "recovered"] * 2
