"""The unit of `broker-config install`, run by systemd itself: a private broker that stays."""

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.deployments.systemd import SystemdMachine, systemd_machine

HOME = "/var/lib/warren/home"
UNIT = "warren-broker"
RETURN_S = 90.0
START_S = 300.0  # three nodes on two processors, shared with other tests

pytestmark = pytest.mark.timeout(900)


class Broker:
    """The broker of ``machine``, which belongs to the user ``warren``."""

    def __init__(self, machine: SystemdMachine) -> None:
        self._machine = machine

    def command(self, *words: str, check: bool = True) -> str:
        """What `broker-config` prints, called by its user and not by systemd."""
        command = ("runuser", "-u", "warren", "--", "/opt/warren/.venv/bin/broker-config", *words)
        return self._machine.run(*command, "--home", HOME, check=check, within_s=START_S)

    def node(self, number: int = 1) -> int:
        """The pid of a node as its folder has it."""
        home = HOME if number == 1 else f"{HOME}/nodes/{number}"
        return int(json.loads(self._machine.run("cat", f"{home}/node.json"))["pid"])

    def state(self) -> dict[str, str]:
        """How systemd sees it."""
        return self._machine.shows(UNIT, "ActiveState", "Result", "NRestarts", "MainPID", "User")

    def group(self) -> set[int]:
        """The processes of the service."""
        path = self._machine.shows(UNIT, "ControlGroup")["ControlGroup"]
        return set(map(int, self._machine.run("cat", f"/sys/fs/cgroup{path}/cgroup.procs").split()))


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Return when ``true`` is; fails after RETURN_S."""
    deadline = time.monotonic() + RETURN_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def machine() -> Iterator[SystemdMachine]:
    with systemd_machine() as found:
        found.run("useradd", "--home-dir", "/var/lib/warren", "--create-home", "warren")
        found.run("systemctl", "disable", "rabbitmq-server.service", "epmd.socket")
        broker = Broker(found)
        broker.command("up", "--client", "hospital-a")
        broker.command("down")
        found.run("broker-config", "install", "--home", HOME)
        found.run("systemctl", "daemon-reload")
        found.run("systemctl", "start", UNIT)
        yield found


def test_the_unit_starts_the_node_as_who_owns_the_home(machine: SystemdMachine) -> None:
    broker = Broker(machine)
    told = broker.state()
    assert (told["ActiveState"], told["NRestarts"], told["User"]) == ("active", "0", "warren")
    assert broker.node() in broker.group()
    assert broker.command("check") == ""
    assert "Operation not permitted" not in machine.journal(UNIT)


def test_a_node_that_is_killed_comes_back(machine: SystemdMachine) -> None:
    broker = Broker(machine)
    before = broker.node()
    machine.run("kill", "-9", str(before))
    wait_until(lambda: broker.node() != before, "nobody started the node again")
    machine.wait_for(UNIT, "starting it again")
    wait_until(lambda: broker.command("check", check=False) == "", "it does not answer")
    assert broker.state()["NRestarts"] == "0", "the service itself went on"
    assert broker.node() in broker.group()


def test_a_service_that_is_killed_comes_back(machine: SystemdMachine) -> None:
    broker = Broker(machine)
    before = broker.node()
    machine.run("kill", "-9", broker.state()["MainPID"])
    wait_until(
        lambda: broker.state()["NRestarts"] == "1" and broker.state()["ActiveState"] == "active",
        "systemd did not start it again",
    )
    assert broker.node() != before
    assert broker.command("check") == ""


def test_a_home_that_becomes_a_cluster_has_all_its_nodes_kept_up(machine: SystemdMachine) -> None:
    broker = Broker(machine)
    broker.command("up", "--nodes", "3")
    before = broker.node(2)
    machine.run("kill", "-9", str(before))
    wait_until(lambda: broker.node(2) != before, "nobody started the second node again")
    wait_until(lambda: broker.command("check", check=False) == "", "the cluster is not whole")


def test_stopping_it_stops_every_process_in_its_own_order(machine: SystemdMachine) -> None:
    broker = Broker(machine)
    machine.run("systemctl", "stop", UNIT, within_s=START_S)
    assert [broker.node(number) for number in (1, 2, 3)] == [0, 0, 0]
    assert machine.run("pgrep", "-u", "warren", "beam|epmd", check=False) == ""
    said = machine.journal(UNIT)
    assert f"{UNIT}.service: Deactivated successfully" in said
    assert "Failed with result" not in said.rpartition("starting it again")[2]
    log = machine.run("cat", f"{HOME}/node/log/node.log")
    assert "Successfully stopped RabbitMQ" in log.rpartition("Starting RabbitMQ")[2]


def test_what_an_administrator_stops_stays_stopped(machine: SystemdMachine) -> None:
    broker = Broker(machine)
    machine.run("systemctl", "start", UNIT, check=False, within_s=START_S)
    assert broker.state()["ActiveState"] == "active", machine.journal(UNIT)
    broker.command("down")
    wait_until(lambda: broker.state()["ActiveState"] == "inactive", "it was started again")
    assert broker.state()["Result"] == "success"
    assert "stopped by another command" in machine.journal(UNIT)
