"""Workers that are stopped at a bad moment, and brokers and disks that say no for a while."""

import resource
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from broker_config.declaration.federation import Federation
from coordinator_worker.storage import checkpoint
from tests.acceptance.test_federation import final_weights, start_client, start_coordinator
from tests.conftest import Place
from tests.support.pace import allow
from tests.support.processes import Worker, workers
from tests.support.relay import Relay, relay

SIZE = 1_000_000  # four chunks
UNLIMITED = resource.RLIM_INFINITY


def until(condition: Callable[[], bool], deadline_s: float = 30.0) -> None:
    tick = threading.Event()
    for _ in range(int(allow(deadline_s) * 10)):
        if condition():
            return
        tick.wait(0.1)
    raise AssertionError("it did not come to be")


def keeping(url: str, folder: Path, task: str, *arguments: str) -> Worker:
    kept = ("--state-dir", str(folder))
    return Worker("client-worker", url, "--task", f"tests.tasks:{task}", *kept, *arguments)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_an_update_that_was_not_confirmed_is_sent_after_a_restart_without_training_again(
    place: Place, tmp_path: Path, ending: signal.Signals
) -> None:
    size = ("--size", str(SIZE))
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path / "c", "--quorum", "1", "--rounds", "1")
        with relay(place.urls["alfa"]) as wire:
            client = keeping(wire.url, tmp_path / "s", "slow", "--seconds", "1", *size)
            started += [coordinator, client]
            client.wait_for("training")
            wire.hold()
            until((tmp_path / "s" / "alfa.update").exists)
            client.kill(ending)
        again = keeping(place.urls["alfa"], tmp_path / "s", "untouchable", *size)
        started.append(again)
        again.wait_for("kept_update")
        assert [coordinator.end(), again.end()] == [0, 0]
    np.testing.assert_array_equal(final_weights(tmp_path / "c")[0][:2], [1.0, 0.0])
    assert not list((tmp_path / "s").glob("*.update"))


def test_a_confirmed_update_is_not_trained_again_after_a_restart(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path / "c", "--quorum", "2", "--rounds", "1")
        client = keeping(place.urls["alfa"], tmp_path / "s", "ledger")
        started += [coordinator, client]
        client.wait_for("update_confirmed", base_version=0)
        client.kill()
        again = keeping(place.urls["alfa"], tmp_path / "s", "untouchable")
        started.append(again)
        again.wait_for("connected")  # before the run ends, or it would wait for the next one
        started.append(start_client(place, "bravo", "ledger", "--index", "1"))
        assert [coordinator.end(), again.end()] == [0, 0]
    np.testing.assert_array_equal(final_weights(tmp_path / "c")[0][:2], [0.5, 0.5])


def test_a_kept_update_that_is_too_late_is_dropped_and_said(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path / "c", "--quorum", "1", "--rounds", "3")
        with relay(place.urls["alfa"]) as wire:
            client = keeping(wire.url, tmp_path / "s", "slow", "--seconds", "1")
            started += [coordinator, client]
            client.wait_for("training")
            wire.hold()
            until((tmp_path / "s" / "alfa.update").exists)
            client.kill()
        started.append(start_client(place, "bravo", "once", "--index", "1"))
        coordinator.wait_for("model_published", version=1)
        again = keeping(place.urls["alfa"], tmp_path / "s", "ledger")
        started.append(again)
        again.wait_for("update_dropped", base_version=0)
        assert [coordinator.end(), again.end()] == [0, 0]
    np.testing.assert_array_equal(final_weights(tmp_path / "c")[0][:2], [2.0, 1.0])


def limit_files(worker: Worker, size_bytes: int) -> None:
    """Let ``worker`` write no file beyond ``size_bytes``: a disk without room, for it alone."""
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (size_bytes, UNLIMITED))


def test_while_the_disk_is_full_nothing_is_folded_and_then_it_goes_on(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "2", "--rounds", "4")
        started.append(coordinator)
        started.append(start_client(place, "alfa", "ledger"))
        coordinator.wait_for("update_accepted", client="alfa")
        limit_files(coordinator, 100)
        started.append(start_client(place, "bravo", "ledger", "--index", "1"))
        assert "updates wait in the broker" in coordinator.wait_for("disk_full")["message"]
        before = checkpoint.load(tmp_path)
        assert before is not None
        assert before.version == 0
        limit_files(coordinator, UNLIMITED)
        coordinator.wait_for("disk_recovered")
        assert [worker.end() for worker in started] == [0, 0, 0]
    np.testing.assert_array_equal(final_weights(tmp_path)[0][:3], [2.0, 2.0, 0.0])


def test_updates_that_find_no_room_while_they_arrive_come_again(
    place: Place, tmp_path: Path
) -> None:
    """Beyond what fits in memory they wait in a file, which may find no room either."""
    size, clients = 6_000_000, ("alfa", "bravo", "charlie")  # 23 MiB each, most of it in the file
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "3", "--rounds", "2")
        started.append(coordinator)
        for index, user in enumerate(clients):
            arguments = ("--index", str(index), "--size", str(size), "--seconds", "1")
            started.append(start_client(place, user, "slow", *arguments))
        for client in started[1:]:
            client.wait_for("training")
        limit_files(coordinator, 100)
        coordinator.wait_for("disk_full")
        limit_files(coordinator, UNLIMITED)
        coordinator.wait_for("disk_recovered")
        assert [worker.end() for worker in started] == [0] * 4
        assert "update_rejected" not in coordinator.said
    np.testing.assert_allclose(final_weights(tmp_path)[0][:4], [2 / 3] * 3 + [0], rtol=1e-6)


def test_a_coordinator_can_be_stopped_while_its_disk_is_full(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "1", "--rounds", "2")
        client = start_client(place, "alfa", "slow", "--seconds", "1")
        started += [coordinator, client]
        client.wait_for("training")
        limit_files(coordinator, 100)
        coordinator.wait_for("disk_full")
        assert coordinator.kill(signal.SIGTERM) == 128 + signal.SIGTERM
        assert "Traceback" not in coordinator.said
        again = start_coordinator(place, tmp_path, "--quorum", "1", "--rounds", "2")
        started.append(again)
        assert [again.end(), client.end()] == [0, 0]
    assert final_weights(tmp_path)[0][0] == 2.0


def test_a_second_coordinator_with_another_folder_publishes_nothing_while_the_first_lives(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        first = start_coordinator(place, tmp_path / "a", "--quorum", "1")
        client = start_client(place, "alfa", "ledger")
        started += [first, client]
        first.wait_for("model_published", version=2)
        second = start_coordinator(place, tmp_path / "b", "--quorum", "1")
        started.append(second)
        second.wait_for("standby")
        client.wait_for("update_confirmed", base_version=first_version(first) + 3)
        assert second.kill(signal.SIGTERM) == 128 + signal.SIGTERM
        assert "is published" not in second.said
        assert not list((tmp_path / "b").iterdir())


def first_version(coordinator: Worker) -> int:
    return int(coordinator.wait_for("model_published")["version"])


def test_a_halted_coordinator_that_wakes_after_another_took_over_does_no_harm(
    place: Place, tmp_path: Path
) -> None:
    """Cut off by the broker while it stood still, it must neither write nor fold on."""
    arguments = ("--quorum", "2", "--rounds", "300")
    with workers() as started:
        first = start_coordinator(place, tmp_path, *arguments)
        started.append(first)
        clients = [
            start_client(place, user, "ledger", "--index", str(index))
            for index, user in enumerate(("alfa", "bravo"))
        ]
        started += clients
        first.wait_for("model_published", version=3)
        first.process.send_signal(signal.SIGSTOP)
        second = start_coordinator(place, tmp_path, *arguments)
        started.append(second)
        second.wait_for("standby")
        cut(place, "coordinator", second_pid=second.process.pid)
        second.wait_for("standby")  # active now, and the folder still belongs to the first
        first.process.send_signal(signal.SIGCONT)
        second.wait_for("model_published", version=50)
        second.kill()  # and the first goes on from where the second was
        assert [first.end(), *(client.end() for client in clients)] == [0, 0, 0]
    np.testing.assert_array_equal(final_weights(tmp_path)[0][:3], [150.0, 150.0, 0.0])


def cut(place: Place, user: str, second_pid: int) -> None:
    """Close the oldest consuming connection of ``user``."""

    def consuming() -> list[dict[str, object]]:
        found = place.management.get("vhosts", place.name, "connections")
        assert isinstance(found, list)
        mine = [c for c in found if c.get("user") == user and "updates in" in str(c)]
        return sorted(mine, key=lambda connection: int(str(connection["connected_at"])))

    until(lambda: len(consuming()) == 2)
    place.management.delete("connections", str(consuming()[0]["name"]))


def test_a_mailbox_that_was_deleted_is_used_again_once_it_is_back(
    place: Place, tmp_path: Path
) -> None:
    from broker_config.node import lifecycle as private_node
    from tests.conftest import CLIENTS, FLEET

    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "1")
        client = start_client(place, "alfa", "ledger")
        started += [coordinator, client]
        coordinator.wait_for("model_published", version=2)
        place.management.delete("queues", place.name, "model.alfa")
        client.wait_for("connection_lost")
        private_node.bring_to_state(
            place.node, Federation(place.name, clients=CLIENTS, fleets=(FLEET,))
        )
        client.wait_for("connected")
        client.wait_for("update_confirmed")
        client.wait_for("update_confirmed")


def test_a_client_that_was_away_for_long_goes_on_from_the_newest_model_alone(
    place: Place, tmp_path: Path
) -> None:
    arguments = ("--index", "1", "--size", str(SIZE))
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "1", "--max-staleness", "9")
        away = start_client(place, "bravo", "ledger", *arguments)
        started += [coordinator, away]
        away.wait_for("update_confirmed")
        away.kill()
        started.append(start_client(place, "alfa", "ledger", "--size", str(SIZE)))
        version = int(coordinator.wait_for("update_accepted", client="alfa")["base_version"])
        for _ in range(20):
            version = int(coordinator.wait_for("model_published")["version"])
        back = start_client(place, "bravo", "ledger", *arguments)
        started.append(back)
        trained = back.wait_for("update_confirmed")["base_version"]
        assert trained >= version - 1
        assert [line for line in back.lines if '"training"' in line][1:] == []


def test_a_client_may_be_there_before_the_broker_is(place: Place, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    url = place.urls["alfa"].rpartition("@")[0] + f"@127.0.0.1:{port}/{place.name}"
    with workers() as started:
        client = keeping(url, tmp_path / "s", "ledger", "--wait-broker-s", "60")
        coordinator = start_coordinator(place, tmp_path / "c", "--quorum", "1", "--rounds", "1")
        started += [client, coordinator]
        coordinator.wait_for("connected")
        with closing(Relay(place.urls["alfa"], port)):
            assert [coordinator.end(), client.end()] == [0, 0]
