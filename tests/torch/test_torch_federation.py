"""PyTorch at client workers, as processes over a broker."""

from pathlib import Path

import numpy as np
import pytest

from client_worker.client import FederatedClient
from coordinator_worker import FederatedCoordinator
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests.conftest import Place
from tests.support.processes import Worker, workers
from tests.torch.sites import site
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.layout import Weights

USERS = ("alfa", "bravo", "charlie")
ROUNDS = 6


def trained(place: Place, folder: Path, *arguments: str) -> State:
    """What three processes and a coordinator make of ``tests.torch.sites``."""
    task = ("--task", "tests.torch.sites:site")
    goal = ("--quorum", "3", "--rounds", str(ROUNDS), "--checkpoint-dir", str(folder))
    with workers() as started:
        for shard, user in enumerate(USERS):
            own = ("--shard", str(shard))
            started.append(Worker("client-worker", place.urls[user], *task, *own))
        url = place.urls["coordinator"]
        started.append(Worker("coordinator-worker", url, *goal, *arguments))
        assert [worker.end() for worker in started] == [0, 0, 0, 0]
    state = checkpoint.load(folder)
    assert state is not None
    return state


def test_statistics_names_and_accuracy_arrive_at_the_coordinator(
    place: Place, tmp_path: Path
) -> None:
    state = trained(place, tmp_path)
    roles = {tensor.name: tensor.role for tensor in state.weights.layout.tensors}
    assert roles["1.running_mean"] == roles["1.running_var"] == "statistic"
    assert roles["3.weight"] == "trainable"
    assert "1.num_batches_tracked" not in roles
    variance = dict(zip(roles, state.weights, strict=True))["1.running_var"]
    assert np.all(variance > 0)
    assert not np.allclose(variance, 1.0)


def test_scaffold_and_clipping_reach_pytorch(place: Place, tmp_path: Path) -> None:
    """The workers' loss falls with both, and controls lie behind the weights."""
    state = trained(place, tmp_path, "--scaffold", "--local-clip-norm", "1", "--proximal", "0.01")
    assert any(tensor.name.startswith("control/") for tensor in state.weights.layout.tensors)


@pytest.mark.parametrize("scaffold", [False, True])
def test_one_process_learns_as_well(scaffold: bool) -> None:
    local = LocalTraining(scaffold=scaffold, proximal=0.01)
    clients = [site(shard).client() for shard in range(3)]

    class Shared:
        def __init__(self, client: FederatedClient) -> None:
            self.get_weights = lambda: client.initial(local)

        def set_weights(self, weights: Weights) -> None:
            pass

    coordinator = FederatedCoordinator([Shared(clients[0])])
    coordinator.population = len(clients)
    found = []
    for _ in range(ROUNDS):
        updates = [client.train(Weights.of(coordinator.weights, client.layout_for(local)), local)
                   for client in clients]  # fmt: skip
        found.append(updates[0].metrics["eval_accuracy"])
        coordinator.send(coordinator.aggregate(updates))
    assert found[-1] > max(0.85, found[0])
