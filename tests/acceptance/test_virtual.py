"""Many clients in one process, over the same broker path as one that is alone."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from broker_config.declaration.federation import Fleet
from broker_config.node.processes import wait_for
from broker_config.node.record import Node
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests.acceptance.test_federation import start_coordinator
from tests.conftest import Place, new_place
from tests.support.processes import Worker, workers

CLIENTS, ROUNDS = 20, 4


@pytest.fixture
def wide(node: Node) -> Iterator[Place]:
    """A federation with one more place in its fleet than there are virtual clients."""
    with new_place(node, (), Fleet("phone", CLIENTS + 1)) as found:
        yield found


def start_phones(place: Place, count: int, *arguments: str, task: str = "shard_ledger") -> Worker:
    return Worker(
        "client-worker", place.urls["phone"], "--task", f"tests.tasks:{task}",
        "--fleet", "phone", "--virtual", str(count), *arguments,
    )  # fmt: skip


def final(folder: Path) -> State:
    state = checkpoint.load(folder)
    assert state is not None
    return state


def test_each_virtual_client_counts_once_a_round(wide: Place, tmp_path: Path) -> None:
    with workers() as started:
        started.append(start_phones(wide, CLIENTS))
        rounds = ("--quorum", str(CLIENTS), "--rounds", str(ROUNDS))
        started.append(start_coordinator(wide, tmp_path, *rounds))
        assert [worker.end() for worker in started] == [0, 0]
    state = final(tmp_path)
    np.testing.assert_allclose(state.weights[0][:CLIENTS], ROUNDS / CLIENTS, rtol=1e-6)
    assert not state.weights[0][CLIENTS:].any()
    assert set(state.roster) == {f"phone.{number}" for number in range(CLIENTS)}


def test_killed_and_started_again_none_is_lost_or_counted_twice(
    wide: Place, tmp_path: Path
) -> None:
    kept = ("--state-dir", str(tmp_path / "kept"))
    with workers() as started:
        rounds = ("--quorum", str(CLIENTS), "--rounds", str(ROUNDS))
        coordinator = start_coordinator(wide, tmp_path, *rounds)
        started.append(coordinator)
        for version in range(ROUNDS - 1):
            phones = start_phones(wide, CLIENTS, *kept)
            started.append(phones)
            phones.wait_for("update_confirmed", base_version=version)
            phones.wait_for("update_confirmed", base_version=version)
            phones.kill()
        started.append(start_phones(wide, CLIENTS, *kept))
        assert coordinator.end() == 0
        assert started[-1].end() == 0
    np.testing.assert_allclose(final(tmp_path).weights[0][:CLIENTS], ROUNDS / CLIENTS, rtol=1e-6)


def test_those_who_are_not_drawn_do_not_train(wide: Place, tmp_path: Path) -> None:
    with workers() as started:
        phones = start_phones(wide, CLIENTS)
        share = ("--participation", "0.2", "--deadline-s", "5", "--quorum", "2", "--rounds", "6")
        started += [phones, start_coordinator(wide, tmp_path, *share)]
        assert [worker.end() for worker in started] == [0, 0]
    assert phones.said.count('"action": "training"') < 6 * CLIENTS / 2
    assert phones.said.count('"action": "not_drawn"') > CLIENTS


def test_virtual_clients_and_real_ones_share_a_fleet(wide: Place, tmp_path: Path) -> None:
    with workers() as started:
        single = Worker(
            "client-worker", wide.urls["phone"], "--task", "tests.tasks:shard_ledger",
            "--fleet", "phone",
        )  # fmt: skip
        started.append(single)
        single.wait_for("connected")
        started.append(start_phones(wide, CLIENTS))
        rounds = ("--quorum", str(CLIENTS + 1), "--rounds", "2")
        started.append(start_coordinator(wide, tmp_path, *rounds))
        assert [worker.end() for worker in started] == [0, 0, 0]
    weights = final(tmp_path).weights[0][: CLIENTS + 1]
    np.testing.assert_allclose(weights, 2 / (CLIENTS + 1), rtol=1e-6)


def test_too_few_free_places_are_told_with_what_to_do(wide: Place) -> None:
    with workers() as started:
        started.append(start_phones(wide, CLIENTS + 2, "--wait-broker-s", "2"))
        assert started[0].end() == 1
        assert f"of {CLIENTS + 1} places from model.phone.0 on only" in started[0].said
        assert "enlarge the fleet" in started[0].said


def test_after_a_lost_connection_they_are_who_they_were(wide: Place, tmp_path: Path) -> None:
    with workers() as started:
        phones = start_phones(wide, CLIENTS)
        started.append(phones)
        coordinator = start_coordinator(wide, tmp_path, "--quorum", str(CLIENTS))
        started.append(coordinator)
        coordinator.wait_for("model_published", version=2)
        found: list[dict[str, str]] = []

        def are_there() -> bool:
            found[:] = wide.management.get("vhosts", wide.name, "connections")
            return len(found) == 3  # the coordinator has two

        assert wait_for(are_there, 20)
        for connection in found:
            wide.management.delete("connections", connection["name"])
        coordinator.wait_for("connection_lost")
        version = int(coordinator.wait_for("model_published")["version"])
        coordinator.wait_for("model_published", version=version + 3)
        assert coordinator.kill(signal.SIGTERM) == 128 + signal.SIGTERM
        assert phones.kill(signal.SIGTERM) == 128 + signal.SIGTERM
    state = final(tmp_path)
    np.testing.assert_allclose(state.weights[0][:CLIENTS], state.version / CLIENTS, rtol=1e-5)


def test_a_model_lies_in_the_process_once(wide: Place, tmp_path: Path) -> None:
    """Twenty copies of 8 MB each arrive, but no more than a few are ever held."""
    with workers() as started:
        phones = start_phones(wide, CLIENTS, "--size", "2000000", task="shared_ledger")
        started.append(phones)
        rounds = ("--quorum", str(CLIENTS), "--rounds", "2")
        coordinator = start_coordinator(wide, tmp_path, *rounds)
        started.append(coordinator)
        coordinator.wait_for("model_published", version=1)
        resident = psutil.Process(phones.process.pid).memory_info().rss
        assert [worker.end() for worker in started] == [0, 0]
    assert resident < 60e6 + 10 * 8e6
