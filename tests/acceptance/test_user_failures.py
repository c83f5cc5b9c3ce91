"""The user's code fails: the coordinator hears of it, the client tries again, others go on."""

import signal
from pathlib import Path

from tests.acceptance.test_federation import start_client, start_coordinator
from tests.conftest import Place
from tests.support.processes import Worker, workers


def test_a_training_that_fails_once_is_told_and_tried_again(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        coordinator = start_coordinator(place, tmp_path, "--quorum", "1", "--rounds", "2")
        client = start_client(place, "alfa", "moody")
        started.extend([coordinator, client])
        heard = coordinator.wait_for("client_failed", client="alfa", ends=False)
        assert "alfa failed and will try again: KeyError: 'age' (tasks.py:" in heard["message"]
        line = client.wait_for("task_failed")
        assert "Traceback" in line["traceback"]
        assert [worker.end() for worker in started] == [0, 0]


def test_a_virtual_client_that_fails_holds_up_no_other(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        clients = Worker(
            "client-worker", place.urls["fleet"], "--task", "tests.tasks:first_is_moody",
            "--fleet", "fleet", "--virtual", "2",
        )  # fmt: skip
        coordinator = start_coordinator(place, tmp_path, "--quorum", "1", "--rounds", "5")
        started.extend([clients, coordinator])
        coordinator.wait_for("client_failed", client="fleet.0")
        assert coordinator.end() == 0
        assert clients.end() == 0


def test_a_client_that_is_stopped_while_it_trains_says_so_at_once(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        client = start_client(place, "alfa", "slow", "--seconds", "4")
        coordinator = start_coordinator(place, tmp_path, "--quorum", "1", "--rounds", "9")
        started.extend([client, coordinator])
        client.wait_for("training")
        client.process.send_signal(signal.SIGINT)
        client.wait_for("stopping")
        assert not [line for line in client.said.splitlines() if "update_confirmed" in line]
        assert client.end() == 128 + signal.SIGINT
