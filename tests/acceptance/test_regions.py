"""Federations that nest: a root, two regions that are its clients, two clients in each."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from broker_config import node as private_node
from broker_config.federation import Federation
from client_worker import FederatedClient
from coordinator_worker import FederatedCoordinator, checkpoint
from tests import tasks
from tests.conftest import CLIENTS
from tests.processes import KEYS, Worker, workers

REGIONS = {"region-a": CLIENTS[:2], "region-b": CLIENTS[2:]}
_numbers = itertools.count()


@dataclass(frozen=True)
class Tree:
    """A root federation and its regions, each a vhost of the test node."""

    folder: Path
    urls: dict[str, str]

    def root(self, *arguments: str) -> Worker:
        return self._coordinator("root", "--quorum", "2", *arguments)

    def region(self, name: str, *arguments: str) -> Worker:
        bundle = self.folder / f"{name}.env"
        keys = KEYS["client-worker"]["WARREN_VERIFY_KEYS"]
        url = self.urls[f"root {name}"]
        bundle.write_text(f"WARREN_BROKER_URL={url}\nWARREN_VERIFY_KEYS={keys}\n")
        return self._coordinator(name, "--quorum", "2", "--parent", str(bundle), *arguments)

    def client(self, name: str, task: str, *arguments: str) -> Worker:
        region = next(region for region, names in REGIONS.items() if name in names)
        url = self.urls[f"{region} {name}"]
        return Worker("client-worker", url, "--task", f"tests.tasks:{task}", *arguments)

    def clients(self, task: str, flag: str, *more: str) -> list[Worker]:
        return [
            self.client(name, task, flag, str(number), *more) for number, name in enumerate(CLIENTS)
        ]

    def state(self, name: str) -> checkpoint.State:
        found = checkpoint.load(self.folder / name)
        assert found is not None
        return found

    def _coordinator(self, name: str, *arguments: str) -> Worker:
        url = self.urls[f"{name} coordinator"]
        return Worker(
            "coordinator-worker", url, "--checkpoint-dir", str(self.folder / name), *arguments
        )


@pytest.fixture
def tree(node: private_node.Node, tmp_path: Path) -> Iterator[Tree]:
    number = next(_numbers)
    members = {"root": tuple(REGIONS), **REGIONS}
    urls, vhosts = {}, []
    for name, clients in members.items():
        vhost = f"tree-{number}-{name}"
        private_node.bring_to_state(node, Federation(vhost, clients=clients, fleets=()))
        vhosts.append(vhost)
        for user in ("coordinator", *clients):
            urls[f"{name} {user}"] = node.broker_url(user)
    yield Tree(tmp_path, urls)
    with node.manage() as management:
        for vhost in vhosts:
            management.delete("vhosts", vhost)


def test_regions_learn_what_their_clients_learn_in_one_federation(tree: Tree) -> None:
    rounds = 8
    with workers() as started:
        started += tree.clients("line", "--shard")
        started += [tree.region(name) for name in REGIONS]
        started.append(tree.root("--rounds", str(rounds)))
        assert [worker.end() for worker in started] == [0] * 7

    made = [tasks.line(shard) for shard in range(4)]
    clients = [
        FederatedClient(task.model, task.data, task.learning_rate, validation=task.validation)
        for task in made
    ]
    flat = FederatedCoordinator([client.model for client in clients])
    for _ in range(rounds):
        updates = [client.train(flat.weights) for client in clients]
        flat.send(flat.aggregate(updates))
    for name in ("root", *REGIONS):
        state = tree.state(name)
        for ours, reference in zip(state.weights, flat.weights, strict=True):
            np.testing.assert_allclose(ours, reference, rtol=1e-9)
        assert state.version == rounds
    record = tree.state("root").history[-1]
    assert {n: told["examples"] for n, told in record["clients"].items()} == {
        "region-a": 100 + 120,
        "region-b": 140 + 160,
    }
    losses = [client.evaluate()["loss"] for client in clients]  # of the last model
    assert record["evaluation"]["examples"] == 4 * 10
    assert record["metrics"]["eval_loss"] > np.mean(losses)
