"""Those who watch: what they see live, what they see who come late, and what they may not do."""

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import pytest
from pika import exceptions

from coordinator_worker.cli import main
from coordinator_worker.monitoring.event_publisher import Events
from coordinator_worker.monitoring.events import ClientJoined, RoundClosed
from coordinator_worker.monitoring.federation_view import FederationView
from coordinator_worker.monitoring.follower import Follower, fetch_snapshot
from coordinator_worker.state.round_record import ClientReport, RoundRecord
from tests.conftest import CLIENTS, FLEET, Place
from tests.support.pace import DEADLINE_S
from tests.support.processes import BIN, ROOT, Worker, workers
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.errors import BrokerUnavailable
from warren_shared.naming import EVENT_EXCHANGE, STATE_QUEUE
from warren_shared.observability.event_bus import EventBus


def until(condition: Callable[[], bool], woken: threading.Event | None = None) -> None:
    deadline = time.monotonic() + DEADLINE_S
    woken = woken or threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        woken.wait(0.05)
        woken.clear()


@contextmanager
def coordinator(place: Place) -> Iterator[Events]:
    """Only what a coordinator says."""
    session = Session.for_broker(place.urls["coordinator"], "coordinator")
    session.start(patience_s=10.0)
    try:
        yield Events(session, EventBus(), federation=place.name)
    finally:
        session.close()


def round_closed(events: Events, version: int) -> None:
    record = RoundRecord(
        version, updates=1, bytes_up=10, metrics={"loss": 0.5},
        clients={"alfa": ClientReport(1, {})}, seconds=1.0, time=time.time(),
    )  # fmt: skip
    events.post(RoundClosed("aa", record))


def seen(url: str, wanted: Callable[[FederationView], bool]) -> FederationView:
    found: list[FederationView] = []

    def there() -> bool:
        picture = fetch_snapshot(url, "test")
        found[:] = [picture] if picture is not None else []
        return picture is not None and wanted(picture)

    until(there)
    return found[0]


def federated(place: Place, tmp_path: Path, started: list[Worker], rounds: int) -> None:
    for number, name in enumerate(("alfa", "bravo")):
        words = ("--task", "tests.tasks:line", "--shard", str(number))
        started.append(Worker("client-worker", place.urls[name], *words))
        started[-1].wait_for("connected")
    words = ("--quorum", "2", "--rounds", str(rounds), "--checkpoint-dir", str(tmp_path / "c"))
    started.append(Worker("coordinator-worker", place.urls["coordinator"], *words))


def test_who_comes_when_all_is_over_still_sees_how_it_went(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        federated(place, tmp_path, started, rounds=4)
        assert [worker.end() for worker in started] == [0, 0, 0]
    picture = fetch_snapshot(place.urls["watcher"], "test")
    assert picture is not None
    assert (picture.federation, picture.version, picture.finished) == (place.name, 4, True)
    assert picture.stopped
    assert [record["version"] for record in picture.rounds] == [1, 2, 3, 4]
    assert all(record["metrics"]["loss"] > 0 for record in picture.rounds)
    rows = {row.name: row for row in picture.rows() if row.status != "unseen"}
    assert rows.keys() == {"alfa", "bravo"}
    for row in rows.values():
        assert (row.status, row.missed, row.client.updates) == ("in", 0, 4)
        assert row.client.strip(4) == "0000"
        assert row.client.norm > 0
        assert row.client.bytes == 40
    assert rows["bravo"].share == pytest.approx(120 / 220, abs=1e-4)
    # It is looked at, not taken out.
    assert fetch_snapshot(place.urls["watcher"], "test") is not None


def test_a_coordinator_that_starts_again_leaves_what_its_checkpoint_knows(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        federated(place, tmp_path, started, rounds=3)
        assert [worker.end() for worker in started] == [0, 0, 0]
        words = ("--quorum", "2", "--rounds", "3", "--checkpoint-dir", str(tmp_path / "c"))
        started.append(Worker("coordinator-worker", place.urls["coordinator"], *words))
        assert started[-1].end() == 0
    picture = fetch_snapshot(place.urls["watcher"], "test")
    assert picture is not None
    assert [record["version"] for record in picture.rounds] == [1, 2, 3]
    updates = {row.name: row.client.updates for row in picture.rows() if row.client.updates}
    assert updates == {"alfa": 3, "bravo": 3}
    unseen = {row.name for row in picture.rows() if row.status == "unseen"}
    assert unseen == {*CLIENTS, FLEET.name} - {"alfa", "bravo"}


def test_who_comes_late_sees_at_once_and_then_follows(place: Place) -> None:
    changed = threading.Event()
    with coordinator(place) as events:
        for version in range(1, 6):
            round_closed(events, version)
        seen(place.urls["watcher"], lambda picture: picture.version == 5)
        with Follower(place.urls["watcher"], "late", lambda _event: changed.set()) as follower:
            assert len(follower.view.rounds) == 5
            assert follower.notice == ""
            round_closed(events, 6)
            until(lambda: follower.view.version == 6, changed)
            assert [record["version"] for record in follower.view.rounds] == list(range(1, 7))
            assert follower.view.bytes_up == 60


class Forgetful(Session):
    """A session that loses events, as one does whose link is down when they happen."""

    forgets = False

    def post(self, message: Publication) -> None:
        if not self.forgets or message.exchange != EVENT_EXCHANGE:
            super().post(message)


def test_an_event_that_was_missed_is_made_up_for(place: Place) -> None:
    changed = threading.Event()
    session = Forgetful.for_broker(place.urls["coordinator"], "coordinator")
    session.start(patience_s=10.0)
    events = Events(session, EventBus(), federation=place.name)
    round_closed(events, 1)
    seen(place.urls["watcher"], lambda picture: picture.version == 1)
    with Follower(place.urls["watcher"], "late", lambda _event: changed.set()) as follower:
        session.forgets = True
        round_closed(events, 2)
        session.forgets = False
        round_closed(events, 3)
        until(lambda: len(follower.view.rounds) == 3, changed)
        assert [record["version"] for record in follower.view.rounds] == [1, 2, 3]
        assert follower.view.bytes_up == 30
    session.close()


def test_what_a_coordinator_that_began_anew_did_before_it_was_heard_is_made_up_for(
    place: Place,
) -> None:
    """It counts its events from 1 again, so that what was missed has lower numbers, not higher."""
    changed = threading.Event()
    with coordinator(place) as events:
        for _ in range(10):
            events.post(ClientJoined("alfa"))
        for version in (1, 2, 3):
            round_closed(events, version)
        seen(place.urls["watcher"], lambda picture: picture.version == 3)
    with Follower(place.urls["watcher"], "late", lambda _event: changed.set()) as follower:
        assert follower.view.number == 13
        session = Forgetful.for_broker(place.urls["coordinator"], "coordinator")
        session.start(patience_s=10.0)
        again = Events(session, EventBus(), federation=place.name)
        session.forgets = True
        for version in range(1, 6):
            round_closed(again, version)
        session.forgets = False
        round_closed(again, 6)
        until(lambda: len(follower.view.rounds) == 6, changed)
        assert [record["version"] for record in follower.view.rounds] == list(range(1, 7))
        assert (follower.view.number, follower.view.version) == (6, 6)
        session.close()


def test_a_coordinator_that_is_killed_and_started_again_leaves_no_gap_with_a_watcher(
    place: Place, tmp_path: Path
) -> None:
    changed = threading.Event()
    words = ("--quorum", "2", "--rounds", "40", "--checkpoint-dir", str(tmp_path / "c"))
    with (
        workers() as started,
        Follower(place.urls["watcher"], "long", lambda _event: changed.set()) as follower,
    ):
        federated(place, tmp_path, started, rounds=40)
        until(lambda: follower.view.version >= 3, changed)
        started[-1].kill()
        before = follower.view.number
        started.append(Worker("coordinator-worker", place.urls["coordinator"], *words))
        until(lambda: follower.view.finished and follower.view.stopped, changed)
        until(lambda: len(follower.view.rounds) == 40, changed)
        versions = [record["version"] for record in follower.view.rounds]
        last = fetch_snapshot(place.urls["watcher"], "test")
        assert last is not None
        assert versions == list(range(1, 41))
        assert follower.view.number == last.number
        assert before > 3


def test_a_watcher_whose_connection_was_cut_sees_what_it_missed(place: Place) -> None:
    changed = threading.Event()
    notices: list[str] = []  # it may be back before one has looked

    def note(_event: object) -> None:
        notices.append(follower.notice)
        changed.set()

    def connections() -> list[str]:
        rows = place.management.get("connections")
        return [row["name"] for row in rows if row.get("user_provided_name") == "cut"]

    with coordinator(place) as events:
        round_closed(events, 1)
        seen(place.urls["watcher"], lambda picture: picture.version == 1)
        follower = Follower(place.urls["watcher"], "cut", note)
        with follower:
            until(lambda: len(connections()) > 0)
            for name in connections():
                place.management.delete("connections", name)
            until(lambda: "the broker is away; trying again" in notices, changed)
            round_closed(events, 2)
            until(lambda: len(follower.view.rounds) == 2 and not follower.notice, changed)


def test_many_look_at_the_same_time_and_all_see(place: Place) -> None:
    found: queue.SimpleQueue[FederationView | None] = queue.SimpleQueue()
    with coordinator(place) as events:
        round_closed(events, 1)
        seen(place.urls["watcher"], lambda picture: picture.version == 1)

        def look() -> None:
            try:
                found.put(fetch_snapshot(place.urls["watcher"], "one of many"))
            except BrokerUnavailable:
                found.put(None)

        threads = [threading.Thread(target=look) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found.get().version for _ in threads] == [1] * len(threads)  # type: ignore[union-attr]


def test_only_the_newest_word_is_kept_whoever_looks_meanwhile(place: Place) -> None:
    with coordinator(place) as events:
        connection = pika.BlockingConnection(pika.URLParameters(place.urls["watcher"]))
        channel = connection.channel()
        round_closed(events, 1)
        seen(place.urls["watcher"], lambda picture: picture.version == 1)
        method, _, _ = channel.basic_get(STATE_QUEUE)  # and it is held on to
        round_closed(events, 2)
        seen(place.urls["watcher"], lambda picture: picture.version == 2)
        channel.basic_nack(method.delivery_tag, requeue=True)
        connection.close()
        assert seen(place.urls["watcher"], lambda _picture: True).version == 2


@pytest.mark.parametrize(
    ("exchange", "key"),
    [("event", "round.closed"), ("", STATE_QUEUE), ("update", "update"), ("model", "")],
)
def test_a_watcher_may_publish_nothing(place: Place, exchange: str, key: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(place.urls["watcher"]))
    channel = connection.channel()
    channel.confirm_delivery()
    with pytest.raises(exceptions.ChannelClosedByBroker) as raised:
        channel.basic_publish(exchange, key, b"{}")
    assert raised.value.reply_code == 403
    connection.close()


def test_watch_once_shows_how_it_is_and_ends(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["watch", "--once", "--broker-url", place.urls["watcher"]]
    assert main(words) == 2
    assert "nothing is known of" in capsys.readouterr().err
    with workers() as started:
        federated(place, tmp_path, started, rounds=2)
        assert [worker.end() for worker in started] == [0, 0, 0]
    assert main(words) == 0
    told = capsys.readouterr().out
    for expected in ("version 2", "finished", "alfa", "bravo", "54.5%"):
        assert expected in told


def test_without_a_terminal_watch_prints_lines_and_ends_with_the_run(
    place: Place, tmp_path: Path
) -> None:
    command = [BIN / "coordinator-worker", "watch", "--broker-url", place.urls["watcher"]]
    with (
        workers() as started,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as watching,
    ):
        until(lambda: bool(place.management.get("exchanges", place.name, "event", "bindings",
                                                "source")))  # fmt: skip
        federated(place, tmp_path, started, rounds=2)
        told, _ = watching.communicate(timeout=DEADLINE_S)
    assert watching.returncode == 0
    lines = [line.partition(" ")[2] for line in told.splitlines()]
    assert {"alfa joined", "bravo joined"} <= set(lines)
    for version in (1, 2):
        (closed,) = [line for line in lines if line.startswith(f"round {version}: 2 updates in ")]
        assert ", loss " in closed
    assert "finished at version 2" in lines
