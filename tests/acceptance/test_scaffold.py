"""Control variates over a real broker: as in one process, also if a client is killed."""

from pathlib import Path

import numpy as np
import pytest

from coordinator_worker import FederatedCoordinator
from coordinator_worker.storage import checkpoint
from tests import tasks
from tests.acceptance.test_federation import start_client, start_coordinator
from tests.conftest import Place
from tests.support.processes import workers
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.layout import Weights

ROUNDS = 6
CLIENTS = ("alfa", "bravo", "charlie")


def in_one_process(local: LocalTraining) -> Weights:
    clients = [tasks.descent(shard).client() for shard in range(3)]
    coordinator = FederatedCoordinator([tasks.Held(clients[0].initial(local))])
    coordinator.population = 3
    for _ in range(ROUNDS):
        updates = [client.train(coordinator.weights, local) for client in clients]
        coordinator.send(coordinator.aggregate(updates))
    return coordinator.weights


@pytest.mark.parametrize("killed", [False, True], ids=["undisturbed", "killed"])
def test_scaffold_over_the_broker_is_scaffold_in_one_process(
    place: Place, tmp_path: Path, killed: bool
) -> None:
    told = ("--quorum", "3", "--rounds", str(ROUNDS), "--scaffold", "--proximal", "0.1")
    with workers() as started:
        for shard, user in enumerate(CLIENTS):
            own = ("--state-dir", str(tmp_path / user), "--shard", str(shard))
            started.append(start_client(place, user, "descent", *own))
        started.append(start_coordinator(place, tmp_path / "checkpoint", *told))
        if killed:
            started[0].wait_for("update_confirmed", base_version=2)
            started[0].kill()
            own = ("--state-dir", str(tmp_path / CLIENTS[0]), "--shard", "0")
            started[0] = start_client(place, CLIENTS[0], "descent", *own)
        assert [worker.end() for worker in started] == [0, 0, 0, 0]
        assert "state_not_kept" not in started[0].said
    state = checkpoint.load(tmp_path / "checkpoint")
    assert state is not None
    reference = in_one_process(LocalTraining(scaffold=True, proximal=0.1))
    assert [tensor.name for tensor in state.weights.layout.tensors[2:]] == [
        "control/0",
        "control/1",
    ]
    for ours, theirs in zip(state.weights, reference, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


def test_a_personal_model_is_reported_beside_the_global_one(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        for shard, user in enumerate(CLIENTS):
            own = ("--shard", str(shard), "--ditto", "0.5")
            started.append(start_client(place, user, "descent", *own))
        told = ("--quorum", "3", "--rounds", "3")
        started.append(start_coordinator(place, tmp_path, *told))
        assert [worker.end() for worker in started] == [0, 0, 0, 0]
        assert started[0].said.count("state_not_kept") == 1
    state = checkpoint.load(tmp_path)
    assert state is not None
    first, last = (state.history[place].metrics for place in (0, -1))
    assert {"eval_loss", "loss", "personal_loss"} == set(last)
    assert last["personal_loss"] < first["personal_loss"]
