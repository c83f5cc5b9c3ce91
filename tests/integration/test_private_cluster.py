"""A private cluster of three nodes on this machine, as `broker-config up --nodes 3` makes it."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker_config.cli import main
from broker_config.declaration.topology import Federation
from broker_config.node import lifecycle as private
from broker_config.node.processes import wait_for
from broker_config.node.record import Node
from tests.support.pace import allow
from warren_shared.amqp.delivery import Delivery, Subscription
from warren_shared.amqp.publisher import Publication
from warren_shared.amqp.session import Session
from warren_shared.errors import BrokerConfigError

FEDERATION = Federation("three", clients=("alfa",), fleets=(), model_bytes=1 << 20)
PAYLOAD = bytes(range(256))


@pytest.fixture(autouse=True)
def no_broker_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WARREN_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    found = tmp_path_factory.mktemp("three nodes")
    try:
        yield found
    finally:
        private.down(found)


@pytest.fixture(scope="module")
def node(home: Path, seen: Callable[[Node], Node]) -> Node:
    return seen(private.up(home, FEDERATION, nodes=3))


def running(node: Node) -> int:
    with node.manage() as management:
        return sum(bool(row.get("running")) for row in management.get("nodes"))


def session(node: Node, user: str, subscription: Subscription | None = None) -> Session:
    found = Session.for_broker(node.broker_url(user), "test", subscription)
    found.start(30.0)
    return found


def update() -> Publication:
    return Publication("update", "update", (PAYLOAD,), "update", persistent=True)


def test_three_nodes_are_one_broker(
    node: Node, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert running(node) == 3
    assert len(node.address.amqp.split(",")) == 3
    bundle = (home / "bundles" / "alfa.env").read_text()
    assert "WARREN_SPARE_MAILBOXES=true" in bundle
    assert all(f"127.0.0.1:{port}" in bundle for port, _ in node.peers)
    with node.manage() as management:
        rows = {row["name"]: row for row in management.get("queues", "three")}
    assert rows["model.alfa"]["node"] != rows["model.alfa.spare"]["node"]
    assert len(rows["update"]["members"]) == 3
    assert main(["check", "--home", str(home)]) == 0
    assert main(["status", "--home", str(home)]) == 0
    table = capsys.readouterr().out
    assert f"{node.name.partition('@')[0]}-3@localhost (pid " in table
    assert "yes, 3 of 3 nodes" in table


def test_down_and_up_keeps_what_all_of_them_had(node: Node, home: Path) -> None:
    sender = session(node, "alfa")
    sender.publish([update()])
    sender.close()
    assert private.down(home)
    assert not any(other.running for other in private.status(home).members)
    again = private.up(home, FEDERATION)
    assert (again.ports, again.peers) == (node.ports, node.peers)
    assert running(again) == 3
    with again.manage() as management:
        # The count is told some seconds after the queue is there.
        assert wait_for(lambda: management.get("queues", "three", "update").get("messages"), 20.0)


def test_what_was_confirmed_is_there_without_any_one_node(node: Node, home: Path) -> None:
    sender = session(node, "alfa")
    sender.publish([update()])
    for number in range(3):
        status = private.status(home)
        assert status.node is not None
        other = (status.node, *status.members)[number]
        os.kill(other.pid, signal.SIGKILL)
        assert wait_for(lambda other=other: not other.running, 10.0)  # type: ignore[misc]
        assert private.status(home).running
        assert main(["check", "--home", str(home)]) == 1
        sender.publish([update()])
        found: list[Delivery] = []
        reader = session(node, "coordinator", Subscription(("update",), found.append))
        assert wait_for(lambda: len(found) >= 2, 20.0)  # noqa: B023  asked at once
        reader.close()
        assert {bytes(delivery.body) for delivery in found} == {PAYLOAD}
        private.up(home, FEDERATION)
        assert running(node) == 3
    sender.close()


@pytest.mark.parametrize(
    ("number", "words"), [("2", "choose 1, 3, 5, 7"), ("1", "cannot become smaller")]
)
def test_what_makes_no_cluster_is_refused(
    node: Node, home: Path, number: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", "--home", str(home), "--nodes", number]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert running(node) == 3


def test_a_halted_node_is_not_waited_for(
    node: Node, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes connections and answers nothing; the first node is the one that would be asked."""
    status = private.status(home)
    assert status.node is not None
    halted = (status.node, *status.members)
    # A signal to 0 goes to this test's own group.
    assert all(each.pid > 0 for each in halted), "a node has ended"
    for each in halted:
        os.kill(each.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert main(["status", "--home", str(home)]) == 0
        assert time.monotonic() - began < allow(10)
        assert "yes, but it does not answer, 3 of 3 nodes" in capsys.readouterr().out
    finally:
        for each in halted:
            os.kill(each.pid, signal.SIGCONT)
    assert wait_for(lambda: private.status(home).version is not None, 60.0)


def test_a_member_whose_folder_is_lost_is_said_and_can_be_replaced(
    node: Node, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["up", "--home", str(home), "--federation", "three", "--client", "alfa"]
    assert main(["up", "--home", str(home)]) == 0
    sender = session(node, "alfa")
    sender.publish([update()])
    sender.close()
    private.down(home)
    shutil.rmtree(home / "nodes" / "2")
    capsys.readouterr()
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "--replace-lost" in line
    assert str(home / "nodes") in line
    found = private.status(home).node
    assert found is not None
    assert running(found) == 2, "what there is of the cluster goes on"
    assert not (home / "nodes" / "2").exists(), "the folder can be put back"
    assert main([*words, "--replace-lost"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["check", "--home", str(home)]) == 0, capsys.readouterr().out
    again = private.status(home).node
    assert again is not None
    assert running(again) == 3
    with again.manage() as management:
        assert wait_for(lambda: management.get("queues", "three", "update").get("messages"), 20.0)


def test_one_node_becomes_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["up", "--home", str(tmp_path), "--federation", "three", "--client", "alfa"]
    try:
        assert main(words) == 0
        assert main([*words, "--nodes", "3"]) == 0
        capsys.readouterr()
        assert main(["check", "--home", str(tmp_path)]) == 0, capsys.readouterr().out
        node = private.status(tmp_path).node
        assert node is not None
        assert running(node) == 3
        with node.manage() as management:
            assert len(management.get("queues", "three", "update")["members"]) == 3
    finally:
        private.down(tmp_path)


def test_a_member_that_does_not_start_takes_none_of_the_others_with_it(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "2").mkdir()
    (tmp_path / "nodes" / "2" / "node").write_text("in the way")
    with pytest.raises((BrokerConfigError, OSError)):
        private.up(tmp_path, FEDERATION, nodes=3)
    assert not private.status(tmp_path).running
