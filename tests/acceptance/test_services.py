"""Workers as services: what systemd hears of them, and what it no longer hears when one hangs.

The test plays systemd: a datagram socket in NOTIFY_SOCKET, and WATCHDOG_USEC.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest

from tests.conftest import Place
from tests.support import documents
from tests.support.processes import BIN, DEADLINE_S, ROOT, Worker, workers
from tests.support.relay import relay
from warren_shared.service.systemd import CLIENT, COORDINATOR, Unit

WATCHDOG_S = 1.5  # a worker asks itself every half second


class Systemd:
    """The end of the socket at which systemd would sit."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.path = path
        self.heard: list[str] = []

    def environment(self, watchdog_s: float = WATCHDOG_S) -> dict[str, str]:
        return {
            "NOTIFY_SOCKET": str(self.path),
            "WATCHDOG_USEC": str(int(watchdog_s * 1e6)),
        }

    def hears(self, words: str, within_s: float = DEADLINE_S) -> bool:
        """Whether a line that begins with ``words`` comes within ``within_s``."""
        deadline = time.monotonic() + within_s
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                lines = self._socket.recv(4096).decode().split("\n")
            except TimeoutError:
                break
            self.heard += lines
            if any(line.startswith(words) for line in lines):
                return True
        return False

    def silent(self, words: str) -> bool:
        """Whether ``words`` stay away for as long as systemd waits; what came before may come."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if not self.hears(words, WATCHDOG_S):
                return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    played = Systemd(tmp_path / "notify")
    yield played
    played.close()


def ledger(index: int, *more: str) -> tuple[str, ...]:
    return ("--task", "tests.tasks:ledger", "--index", str(index), "--size", "8", *more)


def test_a_coordinator_tells_systemd_how_it_is(
    place: Place, tmp_path: Path, systemd: Systemd
) -> None:
    folder = ("--checkpoint-dir", str(tmp_path / "checkpoint"), "--quorum", "2")
    with workers() as started:
        told = systemd.environment()
        started.append(Worker("coordinator-worker", place.urls["coordinator"], *folder, **told))
        assert systemd.hears("READY=1")
        assert systemd.hears("STATUS=waiting for initial weights")
        started.append(Worker("client-worker", place.urls["alfa"], *ledger(0)))
        assert systemd.hears("STATUS=version 0 is out, 1 of 2 updates to the next")
        assert systemd.hears("WATCHDOG=1")
        started[0].process.send_signal(signal.SIGTERM)
        assert systemd.hears("STOPPING=1")
        assert started[0].end() == 128 + signal.SIGTERM


STUCK = """#!{python}
import threading
from coordinator_worker import cli
from coordinator_worker.storage import checkpoint
checkpoint.Checkpoint.save = lambda self, state: threading.Event().wait()
raise SystemExit(cli.main())
"""


def test_a_coordinator_that_hangs_is_not_taken_for_one_that_lives(
    place: Place, tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "stuck-coordinator"
    program.write_text(STUCK.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("TEST_STUCK_COORDINATOR", str(program))
    folder = ("--checkpoint-dir", str(tmp_path / "checkpoint"), "--quorum", "1")
    with workers() as started:
        told = systemd.environment()
        started.append(Worker("stuck-coordinator", place.urls["coordinator"], *folder, **told))
        assert systemd.hears("WATCHDOG=1")
        started.append(Worker("client-worker", place.urls["alfa"], *ledger(0)))
        assert systemd.silent("WATCHDOG=1")
        # Its connection lives on all the while: this is not what a dead process looks like.
        with pika.BlockingConnection(pika.URLParameters(place.urls["coordinator"])) as connection:
            queue = connection.channel().queue_declare("update", passive=True)
        assert queue.method.consumer_count == 1


def test_a_client_that_trains_for_long_is_well_until_its_limit(
    place: Place, tmp_path: Path, systemd: Systemd
) -> None:
    endless = ("--task", "tests.tasks:endless")
    folder = ("--checkpoint-dir", str(tmp_path / "checkpoint"), "--quorum", "1")
    with workers() as started:
        started.append(Worker("coordinator-worker", place.urls["coordinator"], *folder))
        words = (*endless, "--training-limit-s", "3")
        told = systemd.environment()
        started.append(Worker("client-worker", place.urls["alfa"], *words, **told))
        assert systemd.hears("READY=1")
        started[1].wait_for("training")
        assert systemd.hears("STATUS=busy with a model for 1 s")
        assert systemd.silent("WATCHDOG=1")
        assert not [line for line in systemd.heard if line.endswith(" for 4 s")]


def test_while_the_broker_is_away_the_status_says_so(
    place: Place, tmp_path: Path, systemd: Systemd
) -> None:
    """A sign of life said again what was waited for before."""
    with workers() as started, relay(place.urls["alfa"]) as wire:
        told = systemd.environment()
        started.append(Worker("client-worker", wire.url, *ledger(0), **told))
        assert systemd.hears("STATUS=waiting for a model")
        wire.close()
        assert systemd.hears("STATUS=the broker is away")
        assert systemd.hears("WATCHDOG=1")
        assert systemd.hears("WATCHDOG=1")
        latest = [line for line in systemd.heard if line.startswith("STATUS=")][-1]
        assert latest == "STATUS=the broker is away; connecting again"


JUDGE = """#!{python}
import pathlib, sys, time
deadline = time.monotonic() + 60
while not pathlib.Path({go_on!r}).exists() and time.monotonic() < deadline:
    time.sleep(0.05)
print('{{"accuracy": 0.5}}')
"""


def test_a_long_judgement_of_the_last_model_is_no_hanging(
    place: Place, tmp_path: Path, systemd: Systemd
) -> None:
    judge, go_on = tmp_path / "judge", tmp_path / "go-on"
    judge.write_text(JUDGE.format(python=sys.executable, go_on=str(go_on)))
    judge.chmod(0o755)
    folder = ("--checkpoint-dir", str(tmp_path / "checkpoint"), "--quorum", "1", "--rounds", "1")
    with workers() as started:
        words = (*folder, "--evaluate", str(judge))
        told = systemd.environment()
        started.append(Worker("coordinator-worker", place.urls["coordinator"], *words, **told))
        started.append(Worker("client-worker", place.urls["alfa"], *ledger(0)))
        waiting = "STATUS=waiting until the last model is judged"
        assert systemd.hears(waiting)
        assert systemd.hears(waiting, WATCHDOG_S)
        assert systemd.hears(waiting, WATCHDOG_S)
        go_on.touch()
        assert started[0].end() == 0


def test_a_client_without_work_lives_and_says_what_it_waits_for(
    place: Place, systemd: Systemd
) -> None:
    with workers() as started:
        told = systemd.environment()
        started.append(Worker("client-worker", place.urls["alfa"], *ledger(0), **told))
        assert systemd.hears("STATUS=waiting for a model")
        assert systemd.hears("WATCHDOG=1")
        assert systemd.hears("WATCHDOG=1")


def test_the_ready_file_is_touched_for_as_long_as_all_is_well(place: Place, tmp_path: Path) -> None:
    """What the health checks of compose and Kubernetes look at."""
    ready = tmp_path / "ready"
    ready.touch()  # of a process that was killed
    os.utime(ready, (0, 1.0))
    with workers() as started:
        told = {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "600000"}
        words = (*ledger(0), "--ready-file", str(ready))
        started.append(Worker("client-worker", place.urls["alfa"], *words, **told))
        started[0].wait_for("connected")
        first = touched(ready, 0.0)
        assert touched(ready, first) > first
        started[0].process.send_signal(signal.SIGTERM)
        assert started[0].end() == 128 + signal.SIGTERM
    assert not ready.exists()


def touched(ready: Path, since: float) -> float:
    """When the file was touched next after ``since``."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if ready.exists() and (at := ready.stat().st_mtime) > since:
            return at
        time.sleep(0.02)
    raise AssertionError(f"{ready} is not touched")


def command_of(unit: Unit, folder: Path, state: Path, instance: str) -> tuple[list[str], Path]:
    """What systemd would run, and where, with its specifiers and variables replaced."""
    text = unit.text(BIN / unit.program, str(folder / "warren.toml"), str(folder))
    text = text.replace("%S", str(state)).replace("%i", instance)
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return lines["ExecStart"].split(), Path(lines.get("WorkingDirectory", folder))


def bundles_of(unit: Unit, folder: Path, instance: str) -> dict[str, str]:
    """The variables of the unit's bundles, the later ones before the earlier."""
    text = unit.text(BIN / unit.program, "/s", str(folder)).replace("%i", instance)
    told: dict[str, str] = {}
    for line in text.splitlines():
        name, _, path = line.partition("=")
        if name == "EnvironmentFile" and (file := Path(path.removeprefix("-"))).exists():
            told |= dict(entry.split("=", 1) for entry in file.read_text().splitlines())
    return told


def test_the_units_of_the_page_run_a_federation(place: Place, tmp_path: Path) -> None:
    (file,) = documents.blocks("docs/deploy.md", "toml")
    settings = file.text.replace("rounds = 100", "rounds = 3").replace("my_task:", "tests.tasks:")
    (tmp_path / "warren.toml").write_text(settings.replace("tasks:site", "tasks:shard_ledger"))
    for name, user in (
        ("coordinator", "coordinator"),
        ("client", "fleet"),
        ("client-alfa", "alfa"),
    ):
        fleet = "WARREN_FLEET=fleet\n" if user == "fleet" else "WARREN_FLEET=\nWARREN_CLIENT=alfa\n"
        (tmp_path / f"{name}.env").write_text(f"WARREN_BROKER_URL={place.urls[user]}\n{fleet}")
    running = []
    for unit, instance in ((COORDINATOR, ""), (CLIENT, "1"), (CLIENT, "2")):
        words, folder = command_of(unit, tmp_path, tmp_path, instance)
        environment = {
            name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ
        }
        environment |= {"PYTHONPATH": str(ROOT)} | bundles_of(unit, tmp_path, instance)
        running.append(subprocess.Popen(words, cwd=folder, env=environment))
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert (tmp_path / "warren-coordinator" / "a.checkpoint").exists()
    assert bundles_of(CLIENT, tmp_path, "alfa")["WARREN_BROKER_URL"] == place.urls["alfa"]
