"""Federations that nest: a root, two regions that are its clients, two clients in each."""

import itertools
import json
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from broker_config import node as private_node
from broker_config.federation import Federation
from client_worker import FederatedClient
from coordinator_worker import FederatedCoordinator, checkpoint
from coordinator_worker.audit import NAME
from coordinator_worker.audited import read, versions
from tests import tasks
from tests.conftest import CLIENTS
from tests.processes import KEYS, Worker, workers

# A coordinator that kills itself before or after its Nth call of what DIE names.
MORTAL = """#!{python}
import os, signal
from client_worker import participant
from coordinator_worker import cli, fanout, region, store
from shared import amqp
import client_worker.region
owner, method, when, count = os.environ["DIE"].split()
found = {{
    "Store": store.Store, "Origin": region.Origin, "Fanout": fanout.Fanout,
    "Above": client_worker.region._Above, "Session": amqp.Session,
}}[owner]
whole, calls = getattr(found, method), 0
def mortal(self, *arguments, **more):
    global calls
    calls += 1
    due = calls >= int(count)
    if due and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = whole(self, *arguments, **more)
    if due:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(found, method, mortal)
raise SystemExit(cli.main())
"""
# Each effect of a region's round, in order: its checkpoint, its update, the next model.
DEATHS = (
    "Store save before 3",
    "Store save after 3",
    "Above _hand_in before 3",
    "Above _hand_in after 3",
    "Origin put before 3",
    "Origin put after 3",
    "Fanout set_weights before 3",
    "Fanout set_weights after 3",
    "Session acknowledge before 9",
)
LEDGER = ("--index", "--size", "300000")  # two messages, so an update is never one

REGIONS = {"region-a": CLIENTS[:2], "region-b": CLIENTS[2:]}
_numbers = itertools.count()


@dataclass(frozen=True)
class Tree:
    """A root federation and its regions, each a vhost of the test node."""

    folder: Path
    urls: dict[str, str]

    def root(self, *arguments: str) -> Worker:
        return self._coordinator("root", *arguments)

    def region(self, name: str, *arguments: str, die: str = "") -> Worker:
        bundle = self.folder / f"{name}.env"
        keys = KEYS["client-worker"]["WARREN_VERIFY_KEYS"]
        url = self.urls[f"root {name}"]
        bundle.write_text(f"WARREN_BROKER_URL={url}\nWARREN_VERIFY_KEYS={keys}\n")
        told = ("--quorum", "2", "--parent", str(bundle), *arguments)
        return self._coordinator(name, *told, die=die)

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

    def _coordinator(self, name: str, *arguments: str, die: str = "") -> Worker:
        url = self.urls[f"{name} coordinator"]
        told = ("--checkpoint-dir", str(self.folder / name), "--metrics-port", "0", *arguments)
        if die:
            return Worker("mortal-coordinator", url, *told, DIE=die)
        return Worker("coordinator-worker", url, *told)


@pytest.fixture
def tree(
    node: private_node.Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Tree]:
    program = tmp_path / "mortal-coordinator"
    program.write_text(MORTAL.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("TEST_MORTAL_COORDINATOR", str(program))
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


def records(lives: Sequence[Worker], action: str) -> list[dict[str, int]]:
    lines = (line for worker in lives for line in worker.lines if line.startswith("{"))
    return [found for found in map(json.loads, lines) if found["action"] == action]


def contributions(tree: Tree, name: str) -> list[list[tuple[str, int]]]:
    """Who is in each version of a federation, with which base version."""
    made = versions(read(tree.folder / name / NAME)).values()
    return [
        [(entry["client"], entry["base_version"]) for entry in one.line["contributions"]]
        for one in made
    ]


def reckon(tree: Tree, lives: dict[str, list[Worker]]) -> None:
    """Hold what the clients logged as confirmed against what is in the root's model."""
    rounds = contributions(tree, "root")
    counted = [found for one in rounds for found in one]
    assert len(counted) == len(set(counted)), "a region's round counted twice"
    effects = dict.fromkeys(REGIONS, 0.0)
    for one in rounds:
        for region, _ in one:
            effects[region] += 1 / len(one)
    (ledger,) = tree.state("root").weights
    expected = [effects[region] / 2 for region, names in REGIONS.items() for _ in names]
    np.testing.assert_allclose(ledger[:4], expected, rtol=1e-4)
    assert not ledger[4:].any()
    for region, names in REGIONS.items():
        above = {
            line["version"]: line["above"] for line in records(lives[region], "model_from_above")
        }
        closed = [{client for client, _ in one} for one in contributions(tree, region)]
        assert closed == [set(names)] * len(closed)
        in_root = {version for client, version in counted if client == region}
        last = tree.state(region).version
        for name in names:
            confirmed = {line["base_version"] for line in records(lives[name], "update_confirmed")}
            lost = {version for version in confirmed if above[version] not in in_root}
            assert lost <= {last - 1, last}, "confirmed, closed in its region, and not in the root"
        published = defaultdict(set)
        for _, text in read(tree.folder / region / NAME):
            line = json.loads(text)
            if line["event"] == "published":
                published[line["version"]].add(line["content"])
        assert {len(found) for found in published.values()} == {1}, "a version that is two models"


@pytest.mark.parametrize(
    "waits",
    [
        ("--quorum", "2"),
        ("--quorum", "1", "--max-staleness", "100000", "--staleness-exponent", "0"),
    ],
    ids=["root that waits", "root that does not"],
)
def test_a_region_killed_at_any_line_counts_every_round_once(
    tree: Tree, waits: tuple[str, ...]
) -> None:
    with workers() as started:
        clients = [
            tree.client(name, "slow", "--index", str(index), "--size", "300000", "--seconds", "0.1")
            for index, name in enumerate(CLIENTS)
        ]
        first, other = tree.root(*waits), tree.region("region-b")
        lives = {"region-a": [], "region-b": [other]}
        lives |= {name: [worker] for name, worker in zip(CLIENTS, clients, strict=True)}
        started += [first, other, *clients]
        for die in DEATHS:
            lives["region-a"].append(tree.region("region-a", die=die))
            started.append(lives["region-a"][-1])
            assert started[-1].end() == -signal.SIGKILL, started[-1].said
        lives["region-a"].append(tree.region("region-a"))
        started.append(lives["region-a"][-1])
        started[-1].wait_for("update_confirmed")
        first.kill()
        last = tree.root(*waits, "--rounds", str(tree.state("root").version + 5))
        started.append(last)
        ended = [last, lives["region-a"][-1], other, *clients]
        assert [worker.end() for worker in ended] == [0] * 7
    reckon(tree, lives)


def test_regions_learn_what_their_clients_learn_in_one_federation(tree: Tree) -> None:
    rounds = 8
    with workers() as started:
        started += tree.clients("line", "--shard")
        started += [tree.region(name) for name in REGIONS]
        started.append(tree.root("--quorum", "2", "--rounds", str(rounds)))
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
