"""A federation whose sites let nothing out but what goes to their proxy's port 443."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordinator_worker.storage import checkpoint
from tests.conftest import Place
from tests.support.machines import Machine, network
from tests.support.processes import BIN, ROOT, Worker, environment_of, workers
from tests.support.proxy import KINDS, proxy
from tests.support.reader import wait_for

if TYPE_CHECKING:
    import subprocess

HOSTS = {"broker": "broker.example", "proxy": "proxy.example", "site": "site.example"}
AMQPS, OUT = 5671, 443
LOGIN = "site:s3cr-t"
COORDINATOR = os.environ.get("TEST_COORDINATOR_WORKER", str(BIN / "coordinator-worker"))


@dataclass
class Hospital:
    """The machines, and what runs on them."""

    machines: dict[str, Machine]
    folder: Path
    running: list["subprocess.Popen[str]"]

    def start(self, machine: str, name: str, *command: str, **environment: str) -> Path:
        """Start ``command``; return its log."""
        log = self.folder / f"{name}.log"
        told = environment_of(ROOT) | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.running.append(self.machines[machine].start(*command, log=log, env=told | environment))
        return log

    def run(self, machine: str, *command: str, **environment: str) -> tuple[int, str]:
        """Run ``command`` to its end: its code, and all that it said."""
        told = environment_of(ROOT) | {"PYTHONPATH": str(ROOT)}
        done = self.machines[machine].run(*command, env=told | environment)
        return done.returncode, done.stdout

    def bundle(self, user: str) -> str:
        """Where ``user``'s is, for everybody."""
        return str(self.machines["broker"].folder / f".warren/bundles/{user}.env")


@pytest.fixture(scope="module")
def hospital() -> Iterator[Hospital]:
    root = Path(tempfile.mkdtemp(prefix="warren-tests-"))
    try:
        with network(root, HOSTS) as machines:
            machines["broker"].allow_in(port=AMQPS)
            machines["site"].allow_in(answers_from=OUT)
            made = Hospital(machines, root, [])
            try:
                up = ("--tls", "--host", "broker.example", "--port", str(AMQPS), "--client", "alfa")
                code, said = made.run("broker", str(BIN / "broker-config"), "up", *up)
                assert code == 0, said
                yield made
            finally:
                for process in made.running:
                    process.kill()
                    process.wait()
                made.run("broker", str(BIN / "broker-config"), "down")
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("kind", KINDS)
def test_both_workers_reach_the_broker_through_the_proxy_alone(
    hospital: Hospital, kind: str
) -> None:
    python = str(BIN / "python")
    serve = (
        python,
        "-m",
        "tests.support.proxy",
        "--kind",
        kind,
        "--port",
        str(OUT),
        "--login",
        LOGIN,
    )
    goals = hospital.start("proxy", f"proxy-{kind}", *serve)
    serving = hospital.running.pop()
    scheme = "http" if kind == "connect" else "socks5"
    through = {"WARREN_PROXY": f"{scheme}://{LOGIN}@proxy.example:{OUT}"}
    task = ("--task", "tests.tasks:ledger", "--env-file", hospital.bundle("alfa"))
    try:
        wait_for(lambda: "ready" in goals.read_text(), goals.read_text)
        code, said = hospital.run("site", str(BIN / "client-worker"), *task, "--wait-broker-s", "1")
        assert code == 1
        assert "broker.example:5671, vhost 'warren', as 'alfa' did not answer" in said

        code, said = hospital.run("site", str(BIN / "client-worker"), "check", *task, **through)
        assert f"broker.example:{AMQPS} answers through the proxy at proxy.example:{OUT}" in said
        assert "the certificate is believed" in said
        assert code == 0, said

        client = hospital.start(
            "site", f"client-{kind}", str(BIN / "client-worker"), *task, **through
        )
        told = ("--env-file", hospital.bundle("coordinator"), "--quorum", "1", "--rounds", "3")
        kept = hospital.folder / f"checkpoint-{kind}"
        code, said = hospital.run(
            "site", COORDINATOR, *told, "--checkpoint-dir", str(kept), **through
        )
        assert code == 0, f"{said}\n{client.read_text()}"
        assert hospital.running.pop().wait(30) == 0, client.read_text()
        state = checkpoint.load(kept)
        assert state is not None
        assert state.version == 3
        assert set(goals.read_text().split()) == {"ready", f"broker.example:{AMQPS}"}
        assert "s3cr-t" not in said + client.read_text()
    finally:
        serving.kill()
        serving.wait()


@pytest.mark.parametrize("kind", KINDS)
def test_a_tunnel_that_is_cut_is_asked_for_again(place: Place, tmp_path: Path, kind: str) -> None:
    task = ("--task", "tests.tasks:ledger")
    told = ("--quorum", "2", "--rounds", "1", "--checkpoint-dir", str(tmp_path / "c"))
    with proxy(kind, LOGIN) as site, workers() as running:
        coordinator = Worker("coordinator-worker", place.urls["coordinator"], *told)
        client = Worker("client-worker", place.urls["alfa"], *task, WARREN_PROXY=site.url)
        running += [coordinator, client]
        coordinator.wait_for("update_accepted", client="alfa")
        site.cut()
        client.wait_for("connection_lost")
        client.wait_for("connected")
        running.append(Worker("client-worker", place.urls["bravo"], *task, "--index", "1"))
        assert [worker.end() for worker in running] == [0, 0, 0]
        assert len(set(site.goals)) == 1
        assert len(site.goals) >= 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_that_refuses_the_login_ends_the_client_at_once_with_one_line(
    place: Place, kind: str
) -> None:
    with proxy(kind, LOGIN) as site, workers() as running:
        wrong = site.url.replace("s3cr-t", "wr0ng")
        running.append(
            client := Worker(
                "client-worker", place.urls["alfa"], "--task", "tests.tasks:ledger",
                "--wait-broker-s", "60", WARREN_PROXY=wrong,
            )
        )  # fmt: skip
        assert client.end() == 1
        assert "it refuses the name or password in WARREN_PROXY" in client.said
        assert "wr0ng" not in client.said
