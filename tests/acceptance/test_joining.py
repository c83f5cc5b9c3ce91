"""Scaling by starting one more process: places, identities and shards come from the broker."""

import itertools
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from broker_config.declaration.federation import Federation, Fleet
from broker_config.node import lifecycle as private_node
from broker_config.node.record import Node
from coordinator_worker.storage import checkpoint
from tests.conftest import Place
from tests.support.pace import allow
from tests.support.processes import ROOT, Worker, workers
from tests.support.relay import Relay, relay

CROWD = 12
KILLED = 10
JOINED_S = 2.0  # what is promised; here it is measured while other processes start
SLACK_S = 8.0
HEARTBEAT_S = 2

_numbers = itertools.count()


@pytest.fixture
def crowd(node: Node) -> Iterator[Callable[[str], str]]:
    """A federation with a fleet ``crowd`` of CROWD places; gives the URL of a user."""
    federation = Federation(f"crowd-{next(_numbers)}", fleets=(Fleet("crowd", CROWD),))
    private_node.bring_to_state(node, federation)
    yield node.broker_url
    with node.manage() as management:
        management.delete("vhosts", federation.name)


def replica(url: str, fleet: str, *arguments: str, task: str = "slow_shard_ledger") -> Worker:
    told = ("--fleet", fleet, "--task", f"tests.tasks:{task}", *arguments)
    return Worker("client-worker", url, *told)


def place_of(worker: Worker) -> int:
    """Which place a replica has: it trains under that name."""
    return int(worker.wait_for("training")["client"].partition(".")[2])


def test_a_dozen_started_at_once_join_with_shards_of_their_own_and_the_killed_are_replaced(
    crowd: Callable[[str], str], tmp_path: Path
) -> None:
    """No configuration is touched; the model counts each round's shards, and each exactly once."""
    np.savez(tmp_path / "initial.npz", np.zeros(64, np.float32))
    told = ("--checkpoint-dir", str(tmp_path), "--quorum", str(CROWD))
    told += ("--initial-model", str(tmp_path / "initial.npz"))
    with workers() as started:
        coordinator = Worker("coordinator-worker", crowd("coordinator"), *told)
        started.append(coordinator)
        coordinator.wait_for("model_published")
        fleet = [replica(crowd("crowd"), "crowd") for _ in range(CROWD)]
        started += fleet
        ready = [float(one.wait_for("started")["time"]) for one in fleet]
        places = [place_of(one) for one in fleet]
        assert sorted(places) == list(range(CROWD))
        joined = [coordinator.wait_for("client_joined") for _ in fleet]
        assert {one["client"] for one in joined} == {f"crowd.{n}" for n in range(CROWD)}
        assert max(float(one["time"]) for one in joined) - max(ready) < allow(JOINED_S + SLACK_S)

        for one in fleet[:KILLED]:
            one.kill()
        anew = [replica(crowd("crowd"), "crowd") for _ in range(KILLED)]
        started += anew
        assert sorted(map(place_of, anew)) == sorted(places[:KILLED]), "exactly what became free"
        before = int(coordinator.wait_for("model_published")["version"])
        coordinator.wait_for("model_published", version=before + 2)
        assert coordinator.kill(signal.SIGTERM) == 128 + signal.SIGTERM
        assert all(one.process.poll() is None for one in fleet[KILLED:]), "the others stayed"
    state = checkpoint.load(tmp_path)
    assert state is not None
    made = np.full(CROWD, state.version / CROWD)
    np.testing.assert_allclose(state.weights[0][:CROWD], made, rtol=1e-5)
    assert not state.weights[0][CROWD:].any()


def test_who_only_loses_its_connection_stays_who_it_was(place: Place, tmp_path: Path) -> None:
    """Also when a place before its own has become free: its data is in memory, and its state."""
    with workers() as started, relay(place.urls["fleet"]) as wire:
        coordinator = Worker(
            "coordinator-worker", place.urls["coordinator"], "--quorum", "2",
            "--checkpoint-dir", str(tmp_path),
        )  # fmt: skip
        first = replica(place.urls["fleet"], "fleet")
        started += [coordinator, first]
        first.wait_for("connected")
        second = replica(wire.url, "fleet")
        started.append(second)
        assert place_of(second) == 1
        first.kill()
        wire.cut()
        second.wait_for("connected")
        started.append(replica(place.urls["fleet"], "fleet"))
        assert place_of(started[-1]) == 0
        assert place_of(second) == 1


def test_the_place_of_a_machine_that_vanished_is_free_after_three_heartbeats(
    place: Place, tmp_path: Path
) -> None:
    """Without a word, not even the end of its connection, so that only the heartbeat tells."""
    with workers() as started, relay(f"{place.urls['fleet']}?heartbeat={HEARTBEAT_S}") as wire:
        told = ("--wait-broker-s", "25")
        for url in (wire.url, place.urls["fleet"], place.urls["fleet"]):
            started.append(replica(url, "fleet"))
            started[-1].wait_for("connected")
        vanish(wire, started[0])
        gone = time.time()
        heir = replica(place.urls["fleet"], "fleet", *told)
        started.append(heir)
        waiting = heir.wait_for("waiting")
        assert "all 3 places from model.fleet.0 on are taken" in waiting["message"]
        took_s = float(heir.wait_for("connected")["time"]) - gone
        assert HEARTBEAT_S / 2 < took_s < allow(3 * HEARTBEAT_S + SLACK_S)
        coordinator = Worker(
            "coordinator-worker", place.urls["coordinator"], "--quorum", "3",
            "--checkpoint-dir", str(tmp_path),
        )  # fmt: skip
        started.append(coordinator)
        assert place_of(heir) == 0


def vanish(wire: Relay, worker: Worker) -> None:
    wire.vanish()
    worker.kill()


def test_a_place_that_is_asked_for_and_taken_is_refused_with_the_nearest_free_one(
    place: Place,
) -> None:
    with workers() as started:
        started.append(replica(place.urls["fleet"], "fleet", "--client", "fleet.1"))
        started[0].wait_for("connected")
        second = replica(
            place.urls["fleet"], "fleet", "--client", "fleet.1", "--wait-broker-s", "0.3"
        )
        started.append(second)
        with pytest.raises(subprocess.TimeoutExpired):
            started[0].process.wait(0.1)
        assert second.end() == 1
        complaint = [line for line in second.lines if not line.startswith("{")]
        assert complaint == [
            "client-worker: model.fleet.1 is taken: another process consumes it under this"
            " identity; fleet.0 is free, and without --client any free place is taken\n"
        ]


SLOW_TO_MAKE = """
import time
from tests import tasks
def ledger(index: int, size: int):
    time.sleep(1)  # as long as a framework takes to be imported
    return tasks.ledger(index=index, size=size)
"""


def test_a_replica_that_starts_when_the_coordinator_is_gone_trains_from_what_waits_for_it(
    place: Place, tmp_path: Path
) -> None:
    """It makes its task when it has its place; what came to it before that was passed over."""
    initial = tmp_path / "initial.npz"
    np.savez(initial, np.zeros(8, np.float32))
    with workers() as started:
        words = ("--checkpoint-dir", str(tmp_path / "c"), "--initial-model", str(initial))
        coordinator = Worker("coordinator-worker", place.urls["coordinator"], *words)
        started.append(coordinator)
        coordinator.wait_for("model_published")
        assert coordinator.kill(signal.SIGTERM) == 128 + signal.SIGTERM
        (tmp_path / "slow_to_make.py").write_text(SLOW_TO_MAKE)
        task = ("--task", "slow_to_make:ledger", "--index", "0", "--size", "8")
        url, path = place.urls["fleet"], f"{ROOT}:{tmp_path}"
        late = Worker("client-worker", url, "--fleet", "fleet", *task, PYTHONPATH=path)
        started.append(late)
        late.wait_for("update_confirmed")
