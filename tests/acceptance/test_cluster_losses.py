"""A cluster of three of which any one node may be lost: queues, leases and rounds.

``make cluster LOSSES=300`` loses nodes as often as that.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.stage import CLIENTS
from tests.cluster.losses import WholeCluster, isolate, kill, lose, lose_majority
from tests.cluster.nodes import ADMIN, NODES, Cluster, cluster
from tests.cluster.stage import VHOST

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    # Not below pytest's own folder, which outlives the run: it holds passwords.
    root = Path(tempfile.mkdtemp(prefix="warren-cluster-"))
    try:
        with cluster(root, "pause_minority") as found:
            yield found
    finally:
        shutil.rmtree(root)


@pytest.fixture
def stage(nodes: Cluster, tmp_path: Path) -> Iterator[WholeCluster]:
    found = WholeCluster(nodes, tmp_path / "run")
    try:
        found.prepare_broker()
        yield found
    finally:
        found.close()
        nodes.hint()
        nodes.ask("DELETE", f"vhosts/{VHOST}")


def check(stage: WholeCluster) -> tuple[int, list[str]]:
    at = stage.cluster.machines[NODES[1]].address
    done = stage.cluster.command(
        "broker-config", "check", "--home", str(stage.home),
        "--management-url", f"http://{ADMIN}@{at}:15672", "--amqp-address", f"amqp://{stage.hosts}",
    )  # fmt: skip
    # The watcher's bundle names the management API that `apply` was given, not this one.
    lines = [line for line in done.stdout.splitlines() if not line.startswith("bundle watcher")]
    return done.returncode, lines


def test_each_queue_is_where_the_loss_of_one_node_leaves_one(stage: WholeCluster) -> None:
    rows = {row["name"]: row for row in stage.cluster.ask("GET", f"queues/{VHOST}")}
    for name in ("update", "coordinator.newest", "event.state", "update.rejected"):
        assert len(rows[name]["members"]) == 3, name
    homes = [rows[f"model.{client}"]["node"] for client in CLIENTS]
    assert set(map(homes.count, homes)) <= {2, 3}, "spread evenly over three nodes"
    for client in CLIENTS:
        assert rows[f"model.{client}"]["node"] != rows[f"model.{client}.spare"]["node"]
    assert check(stage)[1] == []


def test_what_was_just_applied_outlives_the_kill_of_a_node(stage: WholeCluster) -> None:
    """A node that is killed before it has written down its part of queues that were deleted and
    declared anew comes back without it."""
    stage.cluster.ask("DELETE", f"vhosts/{VHOST}")
    stage.prepare_broker()
    stage.cluster.kill(NODES[2])
    stage.cluster.hint()
    names = ("update", "coordinator.newest", "event.state", "update.rejected")

    def away() -> dict[str, set[str]]:
        rows = {row["name"]: row for row in stage.cluster.ask("GET", f"queues/{VHOST}") or ()}
        return {
            name: lost
            for name in names
            if (lost := set(rows[name]["members"]) - set(rows[name]["online"]))
        }

    assert stage.until(lambda: not away(), 30.0), away()


def test_check_says_what_one_more_loss_would_take(stage: WholeCluster) -> None:
    stage.cluster.kill(NODES[2])
    at = f"rabbit@{stage.cluster.machines[NODES[2]].address}"
    assert stage.until(lambda: any(at in line for line in check(stage)[1]), 30.0)
    code, lines = check(stage)
    assert code == 1
    assert f"node {at}: is down: start it (a private one: `broker-config up`), or if" in lines[0]
    # A member that is away is no hazard of its own, but none to upgrade with.
    assert all("upgrade nothing" in line for line in lines[1:])
    stage.prepare_broker()  # with one node less, it may be applied again
    stage.cluster.kill(NODES[0])
    # The last one pauses itself, and answers nothing.
    assert stage.until(lambda: check(stage)[0] == 1 and not check(stage)[1], 30.0)


def test_a_client_goes_on_at_its_spare_mailbox_and_keeps_its_lease(stage: WholeCluster) -> None:
    home = stage.cluster.leader(VHOST, "model.client-0")
    assert home is not None
    stage.start("coordinator-a")
    for number in range(4):
        stage.client(number)
    stage.wait_for_progress(2)
    stage.cluster.kill(home)
    assert stage.until(lambda: stage.heard("client-0", "queue_away") > 0, 30.0)
    stage.wait_for_progress(3)
    # While the mailbox is away, and when it is back and the first one still has the spare.
    for name in ("client-0-second", "client-0-third"):
        stage.crew.add(replace(stage._client("client-0"), name=name))
        assert stage.until(lambda name=name: record_rejection(stage, name), 30.0)  # type: ignore[misc]
        assert stage.heard(name, "connected") == 0
        stage.cluster.hint()
    stage.wait_for_progress(2)


def record_rejection(stage: WholeCluster, name: str) -> bool:
    return any("is taken" in str(each["message"]) for each in stage.crew.records(name))


def test_rounds_go_on_whichever_node_is_lost_and_nothing_is_lost_with_it(
    stage: WholeCluster, tmp_path: Path
) -> None:
    from tests.chaos.run import settle

    for number in range(len(CLIENTS)):
        stage.client(number)
    for name in ("coordinator-a", "coordinator-b"):
        stage.start(name)
    stage.wait_for_progress(2)
    leader = stage.cluster.leader(VHOST, "update") or NODES[0]
    follower = next(node for node in NODES if node != leader)
    for fault, node in ((kill, leader), (isolate, follower)):
        assert lose(stage, fault, node) < 30.0
        stage.wait_for_progress(1)
    lose_majority(stage, kill)
    stage.wait_for_progress(2)
    stuck: list[str] = []
    reckoning = settle(stage, stuck)
    assert stuck == stage.crew.unexpected == stage.crew.tracebacks() == []
    assert reckoning.is_exact, json.dumps(reckoning.__dict__)
    assert reckoning.updates_confirmed > 20
