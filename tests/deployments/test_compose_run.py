"""docker-compose.yml, run by an engine: it trains to the end, and nothing that dies stays away."""

import re
import time
from collections.abc import Iterator

import pytest
import yaml

from tests.deployments.engine import TREE, WITHIN_S, Engine, engine
from tests.documents import blocks

COORDINATOR = "warren-coordinator-1"
CLIENTS = tuple(f"warren-client-{number}" for number in (1, 2, 3, 4))
BROKER = "warren-broker-1"
CONTAINERS = (COORDINATOR, *CLIENTS, BROKER)
_PUBLISHED = re.compile(r"version (\d+) is published")


class Federation:
    """The file's project, with the page's task that needs no TensorFlow."""

    def __init__(self, machine: Engine) -> None:
        self.machine = machine
        (task,) = [b for b in blocks("docs/deploy.md", "python") if "site_task.py" in b.text]
        self._write("/run/trial/task/site_task.py", task.text)
        self._write("/run/trial/first.yml", yaml.safe_dump({"services": {"client": CLIENT}}))
        words = yaml.safe_load(machine.run("cat", f"{TREE}/docker-compose.yml"))
        command = words["services"]["coordinator"]["command"]
        endless = [word for word in command if not word.startswith("--rounds")]
        # Three of four: who has just died is waited for otherwise, and nothing is seen of the rest.
        endless = ["--quorum=3" if word.startswith("--quorum") else word for word in endless]
        services = {"client": CLIENT, "coordinator": {"command": endless}}
        self._write("/run/trial/endless.yml", yaml.safe_dump({"services": services}))

    def _write(self, path: str, text: str) -> None:
        script = f'mkdir -p "$(dirname {path})"; printf %s "$0" >{path}; chmod -R a+rX /run/trial'
        self.machine.run("sh", "-ec", script, text)

    def compose(self, *words: str, over: str) -> None:
        """``docker compose`` with our file, and with ``over`` on it."""
        files = ("--file", f"{TREE}/docker-compose.yml", "--file", f"/run/trial/{over}.yml")
        self.machine.run("docker", "compose", *files, "--project-name=warren", *words)

    def up(self, over: str) -> None:
        """Start it; images are there."""
        self.compose("up", "--detach", "--no-build", over=over)

    def version(self) -> int:
        """The newest that this coordinator's container has published, or 0."""
        found = _PUBLISHED.findall(self.machine.run("docker", "logs", COORDINATOR))
        return int(found[-1]) if found else 0

    def wait_for_more(self) -> int:
        """Wait for two further versions; one may have been as good as made before."""
        before = self.version()
        deadline = time.monotonic() + WITHIN_S
        while (found := self.version()) < before + 2:
            log = self.machine.run("docker", "logs", "--tail=30", COORDINATOR)
            assert time.monotonic() < deadline, f"no round was made:\n{log}"
            time.sleep(0.5)
        return found


CLIENT = {
    "command": [
        "client-worker",
        "--env-file=/run/bundle/client.env",
        "--task=site_task:site",
        "--ready-file=/tmp/warren.ready",
    ],
    "environment": {"PYTHONPATH": "/task"},
    "volumes": ["/run/trial/task:/task:ro"],
}


@pytest.fixture(scope="module")
def federation() -> Iterator[Federation]:
    with engine() as machine:
        yield Federation(machine)


@pytest.mark.timeout(3600)
def test_it_trains_to_the_end_and_everybody_is_done(federation: Federation) -> None:
    federation.up("first")
    for container in (COORDINATOR, *CLIENTS):
        assert federation.machine.ended(container) == 0
    log = federation.machine.run("docker", "logs", COORDINATOR)
    assert "version 20 is the last" in log


@pytest.mark.timeout(3600)
def test_whatever_dies_is_started_again_and_rounds_go_on(federation: Federation) -> None:
    federation.up("endless")
    federation.wait_for_more()
    for container in CONTAINERS:
        federation.machine.crash(container)
        federation.wait_for_more()
    federation.compose("restart", "broker", over="endless")
    federation.wait_for_more()


@pytest.mark.timeout(3600)
def test_down_and_up_go_on_where_it_was(federation: Federation) -> None:
    before = federation.version()
    federation.compose("down", over="endless")
    federation.up("endless")
    assert federation.wait_for_more() > before
    for container in CONTAINERS:
        log = federation.machine.run("docker", "logs", container)
        assert "Traceback" not in log


@pytest.mark.timeout(3600)
def test_no_container_reads_a_bundle_that_is_not_its_own(federation: Federation) -> None:
    for container, bundle in ((COORDINATOR, "coordinator.env"), (CLIENTS[0], "client.env")):
        command = ("docker", "exec", container, "ls", "/run/bundle")
        assert federation.machine.run(*command).split() == [bundle]
        refused = ("docker", "exec", container, "cat", "/run/warren/federation.json")
        assert "No such file" in federation.machine.run(*refused, check=False)
