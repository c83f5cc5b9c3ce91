"""Federations that nest: a root, two regions that are its clients, two clients in each."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pika
import pytest

from broker_config.declaration.federation import Federation
from broker_config.node import lifecycle as private_node
from broker_config.node.processes import wait_for
from broker_config.node.record import Node
from client_worker import FederatedClient
from coordinator_worker import FederatedCoordinator
from coordinator_worker.aggregation.schedules import schedule
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from coordinator_worker.storage.audit_files import read
from coordinator_worker.versions.audit_report import versions
from coordinator_worker.versions.rollback import rollback
from tests import tasks
from tests.acceptance.test_compression import published, seen, sizes
from tests.conftest import CLIENTS
from tests.support.bodies import encode
from tests.support.processes import BIN, DEADLINE_S, KEYS, Worker, workers
from warren_shared.errors import ConfigError
from warren_shared.protocol.codec import decode
from warren_shared.protocol.messages import Join, LocalTraining, ModelManifest, UpdateManifest
from warren_shared.tensors.compression import size_bytes
from warren_shared.tensors.layout import Layout, Weights

# A coordinator that kills itself before or after its Nth call of what DIE names.
MORTAL = """#!{python}
import os, signal
from client_worker.runtime import upstream_client
from coordinator_worker import cli
from coordinator_worker.runtime import model_publisher, upstream
from coordinator_worker.storage import store
from warren_shared.amqp import session
owner, method, when, count = os.environ["DIE"].split()
found = {{
    "Store": store.Store, "Origin": upstream.Origin, "Session": session.Session,
    "ModelPublisher": model_publisher.ModelPublisher, "Above": upstream_client._Above,
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
IMPATIENT = """#!{python}
from coordinator_worker import cli
from coordinator_worker.runtime import upstream
upstream.REPLACED_S = 1.0
raise SystemExit(cli.main())
"""
# Each effect of a region's round, in order: its checkpoint, its update, the next model.
DEATHS = (
    "Store save before 3",
    "Store save after 3",
    "Above _submit before 3",
    "Above _submit after 3",
    "Origin put before 3",
    "Origin put after 3",
    "ModelPublisher set_weights before 3",
    "ModelPublisher set_weights after 3",
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

    def left(self) -> set[tuple[str, int]]:
        """Updates that wait for the root: what came when it had made its last model."""
        with pika.BlockingConnection(pika.URLParameters(self.urls["root coordinator"])) as opened:
            channel = opened.channel()
            left = channel.queue_declare("update", passive=True).method.message_count
            letters = channel.consume("update", inactivity_timeout=DEADLINE_S)
            headers = [decode(next(letters)[2])[0] for _ in range(left)]
        return {(h.client, h.base_version) for h in headers if isinstance(h, UpdateManifest)}

    def root(self, *arguments: str) -> Worker:
        return self._coordinator("root", *arguments)

    def region(self, name: str, *arguments: str, **how: str) -> Worker:
        bundle = self.folder / f"{name}.env"
        keys = KEYS["client-worker"]["WARREN_VERIFY_KEYS"]
        url = self.urls[f"root {name}"]
        bundle.write_text(f"WARREN_BROKER_URL={url}\nWARREN_VERIFY_KEYS={keys}\n")
        told = ("--quorum", "2", "--parent", str(bundle), *arguments)
        return self._coordinator(name, *told, **how)

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

    def _coordinator(
        self, name: str, *arguments: str, die: str = "", program: str = "coordinator-worker"
    ) -> Worker:
        url = self.urls[f"{name} coordinator"]
        told = ("--checkpoint-dir", str(self.folder / name), "--metrics-port", "0", *arguments)
        if die:
            return Worker("mortal-coordinator", url, *told, DIE=die)
        return Worker(program, url, *told)


@pytest.fixture
def tree(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    for name, text in (("mortal", MORTAL), ("impatient", IMPATIENT)):
        program = tmp_path / f"{name}-coordinator"
        program.write_text(text.format(python=sys.executable))
        program.chmod(0o755)
        monkeypatch.setenv(f"TEST_{name.upper()}_COORDINATOR", str(program))
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
    made = versions(read(tree.folder / name)).values()
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
        in_root = {v for client, v in (*counted, *tree.left()) if client == region}
        last = tree.state(region).version
        for name in names:
            confirmed = {line["base_version"] for line in records(lives[name], "update_confirmed")}
            lost = {version for version in confirmed if above[version] not in in_root}
            assert lost <= {last - 1, last}, "confirmed, closed in its region, and not in the root"
        published = defaultdict(set)
        for _, text in read(tree.folder / region):
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


def test_root_region_and_client_may_be_killed_on_anything_they_log(tree: Tree) -> None:
    waits = ("--quorum", "2")
    lives: dict[str, list[Worker]] = defaultdict(list)
    with workers() as started:

        def begin(name: str) -> Worker:
            if name == "root":
                worker = tree.root(*waits)
            elif name in REGIONS:
                worker = tree.region(name)
            else:
                index = ("--index", str(CLIENTS.index(name)), "--size", "300000")
                worker = tree.client(name, "slow", *index, "--seconds", "0.1")
            lives[name].append(worker)
            started.append(worker)
            return worker

        for name in ("root", *REGIONS, *CLIENTS):
            begin(name)
        for name, action in (
            ("region-a", "update_accepted"),
            ("root", "update_accepted"),
            ("bravo", "training"),
            ("region-a", "model_from_above"),
            ("root", "model_published"),
            ("region-a", "update_confirmed"),
            ("delta", "update_confirmed"),
            ("region-b", "model_published"),
            ("root", "connected"),
        ):
            victim = lives[name][-1]
            for _ in range(2 if victim.lines else 1):  # not what is an old story
                victim.wait_for(action)
            victim.kill()
            begin(name)
        lives["region-a"][-1].wait_for("update_confirmed")
        lives["root"][-1].kill()
        waits = (*waits, "--rounds", str(tree.state("root").version + 5))
        begin("root")
        assert [worker[-1].end() for worker in lives.values()] == [0] * 7
    reckon(tree, lives)


def test_a_region_that_was_stopped_or_has_finished_can_be_started_again(tree: Tree) -> None:
    with workers() as started:
        clients = tree.clients("ledger", "--index")
        region, other = tree.region("region-a"), tree.region("region-b")
        started += [*clients, region, other]
        region.wait_for("connected")
        assert region.kill(signal.SIGTERM) == 128 + signal.SIGTERM, (
            "asked to stop before there was a model above"
        )
        region = tree.region("region-a")
        started += [region, tree.root("--quorum", "2", "--rounds", "3")]
        assert [worker.end() for worker in (*clients, region, other, started[-1])] == [0] * 7
        again, late = tree.region("region-a"), tree.client("alfa", "ledger", "--index", "0")
        started += [again, late]
        assert again.end() == 0
        late.wait_for("ended_run")  # the last model is published again, and ends no newcomer
    for name in ("root", *REGIONS):
        np.testing.assert_allclose(tree.state(name).weights[0], [0.75] * 4 + [0] * 4, rtol=1e-6)
    with pytest.raises(ConfigError, match="roll back there"):
        rollback(tree.folder / "region-a", "1")


def test_statistics_of_all_clients_are_averaged_by_weight_through_regions(tree: Tree) -> None:
    """Momentum at the root would make 7, 30, 46, … of what is 30 in each round."""
    with workers() as started:
        started += tree.clients("measured", "--index")
        started += [tree.region(name) for name in REGIONS]
        optimizer = ("--server-optimizer", "momentum:beta=0.5")
        started.append(tree.root("--quorum", "2", "--rounds", "4", *optimizer))
        assert [worker.end() for worker in started] == [0] * 7
    mean = sum(10.0 * n * n for n in (1, 2, 3, 4)) / (1 + 2 + 3 + 4)
    for name in ("root", *REGIONS):
        layout, weights = tree.state(name).weights.layout, tree.state(name).weights
        assert [tensor.name for tensor in layout.tensors] == ["ledger", "moving"]
        np.testing.assert_allclose(weights[1], [mean, mean], rtol=1e-6)


def test_what_comes_from_above_as_a_change_goes_on_as_one(tree: Tree, tmp_path: Path) -> None:
    """And every client below has the very model of the root."""
    with workers() as started:
        for shard, name in enumerate(CLIENTS):
            file = tmp_path / f"{name}.seen"
            started.append(tree.client(name, "witness", "--seen", str(file), "--shard", str(shard)))
        regions = [tree.region(name) for name in REGIONS]
        told = ("--rounds", "8", "--downlink", "1bit", "--keep-versions", "100")
        started += [*regions, tree.root("--quorum", "2", *told)]
        assert [worker.end() for worker in started] == [0] * 7, started[-1].said
    state, made = published(tree.folder / "root")
    for name in CLIENTS:
        assert seen(tmp_path, name) == made[:-1]
    code, whole = size_bytes(state.weights.layout, "1bit"), state.weights.layout.size_bytes
    for worker in (*regions, started[-1]):
        assert sizes(worker) == [whole, *[code] * 7, whole]


def test_a_region_does_not_choose_how_models_are_sent(tree: Tree) -> None:
    worker = tree.region("region-a", "--downlink", "1bit")
    assert worker.end() == 2
    assert "leave out --downlink" in worker.said


def test_a_standby_takes_the_region_over(tree: Tree) -> None:
    with workers() as started:
        clients = tree.clients("slow", "--index", "--seconds", "0.1")
        first, other, root = tree.region("region-a"), tree.region("region-b"), tree.root()
        started += [*clients, first, other, root]
        first.wait_for("model_published", version=2)
        second = tree.region("region-a")
        started.append(second)
        second.wait_for("standby")
        first.kill()
        second.wait_for("update_confirmed")
        root.kill()
        rounds = tree.state("root").version + 3
        root = tree.root("--rounds", str(rounds))
        started.append(root)
        assert [worker.end() for worker in (*clients, second, other, root)] == [0] * 7
    np.testing.assert_allclose(tree.state("root").weights[0][:4], [rounds / 4] * 4, rtol=1e-5)


def test_a_coordinator_that_was_replaced_ends_and_leaves_its_place_above(
    tree: Tree, node: Node
) -> None:
    with workers() as started:
        clients = tree.clients("slow", "--index", "--seconds", "0.1")
        root, other = tree.root(), tree.region("region-b")
        first = tree.region("region-a", program="impatient-coordinator")
        started += [*clients, root, other, first]
        first.wait_for("model_published", version=2)
        second = tree.region("region-a", "--wait-broker-s", "30")
        started.append(second)
        second.wait_for("standby")
        vhost = tree.urls["region-a coordinator"].rpartition("/")[2]
        cut: set[str] = set()

        def cut_off() -> bool:
            """The management API hears late of connections."""
            with node.manage() as management:
                for connection in management.get("vhosts", vhost, "connections"):
                    name, port = connection["name"], connection.get("peer_port", 0)
                    if name not in cut and _is_of(first.process.pid, port):
                        management.delete("connections", name)
                        cut.add(name)
            return len(cut) >= 2  # one that publishes, one that consumes

        assert wait_for(cut_off, DEADLINE_S)
        assert first.end() == 1
        assert "another coordinator of this region is active" in first.lines[-1]
        for _ in range(2):
            second.wait_for("update_confirmed")
        assert second.kill(signal.SIGTERM) == 128 + signal.SIGTERM


def _is_of(pid: int, port: int) -> bool:
    """Whether the process holds the connection with this port of its own."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed since it was listed
            inodes.add(os.readlink(entry))
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = (line.split() for line in lines)
    return any(
        int(row[1].partition(":")[2], 16) == port and f"socket:[{row[9]}]" in inodes for row in rows
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--scaffold",), "control variates do not nest"),
        (("--config", "width=7"), "give it to this coordinator as well"),
    ],
)
def test_what_does_not_nest_is_refused(tree: Tree, flags: tuple[str, ...], said: str) -> None:
    with workers() as started:
        region = tree.region("region-a")
        started += [tree.client("alfa", "ledger", "--index", "0"), region, tree.root(*flags)]
        assert region.end() == 2
        last = region.lines[-1]
        assert last.startswith("coordinator-worker: ")
        assert said in last


def test_a_parent_that_is_none_is_refused_in_one_line(tree: Tree) -> None:
    below = tree.urls["region-a coordinator"]
    bundles = {
        "nobody.env": (None, "is not the bundle of a client above"),
        "empty.env": ("A=1\n", "is not the bundle of a client above"),
        "boss.env": (f"WARREN_BROKER_URL={tree.urls['root coordinator']}\n", "which is no client"),
        "self.env": (f"WARREN_BROKER_URL={tree.urls['region-a alfa']}\n", "this very federation"),
        "fleet.env": (
            f"WARREN_BROKER_URL={tree.urls['root region-a']}\nWARREN_FLEET=region-a\n",
            "WARREN_CLIENT=region-a.0",
        ),
    }
    for name, (text, said) in bundles.items():
        path = tree.folder / name
        if text is not None:
            path.write_text(text)
        refused = Worker("coordinator-worker", below, "--parent", str(path))
        assert refused.end() == 2
        assert len(refused.lines) == 1
        assert said in refused.said
    for flag in (("--rounds", "3"), ("--proximal", "0.1"), ("--average", "0.5")):
        refused = Worker("coordinator-worker", below, "--parent", "x.env", *flag)
        assert refused.end() == 2
        assert f"leave out {flag[0]}" in refused.said


def test_check_looks_at_the_federation_above_too(tree: Tree) -> None:
    bundle = tree.folder / "region-a.env"
    url = tree.urls["root region-a"]

    def check(text: str) -> tuple[int, str]:
        bundle.write_text(f"WARREN_BROKER_URL={text}\n")
        flags = ("--parent", str(bundle), "--checkpoint-dir", str(tree.folder))
        done = subprocess.run(
            [BIN / "coordinator-worker", "check", *flags],
            env={**os.environ, "WARREN_BROKER_URL": tree.urls["region-a coordinator"]},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    code, said = check(url)
    assert code == 0, said
    assert "ok    above, vhost:" in said
    code, said = check(url.replace("region-a:", "region-a:wrong"))
    assert code == 1
    assert "FAIL  above, login:" in said
    code, said = check(tree.urls["root coordinator"])
    assert code == 1
    assert "FAIL  above:" in said


def test_a_folder_belongs_to_a_region_or_to_a_federation_of_its_own(tree: Tree) -> None:
    zeros = Weights.empty(Layout.of([np.zeros(8, np.float32)]))
    url = tree.urls["region-a coordinator"]
    federation = url.rpartition("/")[2]
    for name in ("plain", "region"):
        (tree.folder / name).mkdir()
        checkpoint.save(tree.folder / name, State(federation, "ab" * 4, 1, zeros, applied={}))
    (tree.folder / "region" / "above").mkdir()
    bundle = tree.folder / "region-a.env"
    bundle.write_text(f"WARREN_BROKER_URL={tree.urls['root region-a']}\n")
    plain = ("--checkpoint-dir", str(tree.folder / "plain"), "--parent", str(bundle))
    for told in (plain, ("--checkpoint-dir", str(tree.folder / "region"))):
        refused = Worker("coordinator-worker", url, *told)
        assert refused.end() == 2
        assert "federation above" in refused.said
        assert len(refused.lines) == 1


def test_regions_learn_what_their_clients_learn_in_one_federation(tree: Tree) -> None:
    rounds, named = 8, "cosine:rounds=8"
    with workers() as started:
        started += tree.clients("line", "--shard")
        started += [tree.region(name) for name in REGIONS]
        told = ("--quorum", "2", "--rounds", str(rounds), "--learning-rate-schedule", named)
        started.append(tree.root(*told))
        assert [worker.end() for worker in started] == [0] * 7

    made = [tasks.line(shard) for shard in range(4)]
    clients = [
        FederatedClient(task.model, task.data, task.learning_rate, validation=task.validation)
        for task in made
    ]
    flat = FederatedCoordinator([client.model for client in clients])
    factor = schedule(named)
    for version in range(rounds):
        local = LocalTraining(learning_rate_factor=factor(version))
        updates = [client.train(flat.weights, local) for client in clients]
        flat.send(flat.aggregate(updates))
    for name in ("root", *REGIONS):
        state = tree.state(name)
        for ours, reference in zip(state.weights, flat.weights, strict=True):
            np.testing.assert_allclose(ours, reference, rtol=1e-9)
        assert state.version == rounds
    record = tree.state("root").history[-1]
    assert record.clients is not None
    assert {client: report.examples for client, report in record.clients.items()} == {
        "region-a": 100 + 120,
        "region-b": 140 + 160,
    }
    assert record.evaluation is not None
    assert record.evaluation.examples == 4 * 10
    losses = [update.metrics["eval_loss"] for update in updates]  # of ten examples each
    assert record.metrics["eval_loss"] == pytest.approx(np.mean(losses))


def test_a_client_that_joins_a_region_finds_the_model_in_its_spare_mailbox_too(
    tree: Tree, node: Node
) -> None:
    """Which a region never filled: a client whose mailbox was lost with a node had no model."""
    url = tree.urls["region-a bravo"]
    vhost = url.rpartition("/")[2]
    spared = Federation(vhost, clients=REGIONS["region-a"], fleets=(), spare_mailboxes=True)
    private_node.bring_to_state(node, spared)
    mailboxes = ("model.bravo", "model.bravo.spare")
    with workers() as started, pika.BlockingConnection(pika.URLParameters(url)) as opened:
        channel = opened.channel()

        def models() -> list[str]:
            """The mailboxes in which a model was, which is taken out."""
            found = []
            for mailbox in mailboxes:
                while (body := channel.basic_get(mailbox, auto_ack=True)[2]) is not None:
                    if isinstance(decode(body)[0], ModelManifest):
                        found.append(mailbox)
            return found

        client = tree.client("alfa", "ledger", "--index", "0")
        region = tree.region("region-a", "--spare-mailboxes")
        started += [client, region, tree.root("--quorum", "1")]
        region.wait_for("update_accepted")  # the round waits for bravo: no other model goes out
        assert models() == list(mailboxes), "what all clients get"
        join = encode(Join(federation=vhost, client="bravo"))
        channel.basic_publish(
            "update", "update", join, pika.BasicProperties(user_id="bravo", type="join")
        )
        region.wait_for("client_joined", client="bravo")
        found: list[str] = []

        def is_in_both() -> bool:
            found.extend(models())
            return found == list(mailboxes)

        assert wait_for(is_in_both, DEADLINE_S), found
