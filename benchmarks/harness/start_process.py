"""Seconds from a command to what it is for, each repetition in a federation of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.harness.processes import rss_bytes
from broker_config.declaration.federation import Federation
from broker_config.node import lifecycle as private_node
from broker_config.node.record import Node
from broker_config.secrets.bundles import bundle_path
from warren_examples.stage.processes import BIN, Child, ChildFailed

CLIENTS: Final = ("alfa", "bravo")
DEADLINE_S: Final = 90.0
LOOK_S: Final = 0.005  # between two looks; what is measured are the times that files and logs keep
# As `Child` sets them for the workers, so that the bare Python of `import_s` has no more work.
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}

Command = tuple[str, str, str | None]  # program, its user, its task if it has one


class Stage:
    """Federation ``number`` on a running node, and the workers started in it.

    ``folder`` keeps their logs and the checkpoint; it must not exist yet.
    """

    def __init__(self, node: Node, number: int, folder: Path) -> None:
        self._home, self._folder = node.home, folder
        folder.mkdir()
        private_node.bring_to_state(node, federation(number))

    def consuming_s(self, program: str, task: str | None) -> float:
        """Seconds until one worker's ready file is there: it consumes its queue."""
        ready = self._folder / "ready"
        user = "coordinator" if task is None else CLIENTS[0]
        with self._started([(program, user, task)], "--ready-file", str(ready)) as workers:
            _wait_for(ready.exists, workers)
            return ready.stat().st_mtime - workers[0].started

    def waiting_bytes(self, program: str, task: str | None) -> int:
        """Resident memory of one worker that consumes its queue and has no model yet."""
        ready = self._folder / "ready"
        user = "coordinator" if task is None else CLIENTS[0]
        with self._started([(program, user, task)], "--ready-file", str(ready)) as workers:
            _wait_for(ready.exists, workers)
            return rss_bytes(workers[0].process.pid)

    def first_round_s(self, task: str) -> float:
        """Seconds until the model of the first round is published, from the first command on."""
        commands: list[Command] = [("coordinator-worker", "coordinator", None)]
        commands += [("client-worker", client, task) for client in CLIENTS]
        with self._started(commands) as workers:
            coordinator = workers[0]
            _wait_for(lambda: _published(coordinator.log, 1) is not None, workers)
            return (_published(coordinator.log, 1) or 0.0) - coordinator.started

    @contextmanager
    def _started(self, commands: Sequence[Command], *extra: str) -> Iterator[list[Child]]:
        started: list[Child] = []
        try:
            for program, user, task in commands:
                arguments = ["--task", f"benchmarks.harness.start_tasks:{task}"]
                if task is None:
                    arguments = ["--rounds", "1", "--checkpoint-dir", str(self._folder / "model")]
                bundle, log = bundle_path(self._home, user), self._folder / f"{user}.log"
                started.append(Child(user, program, bundle, log, *arguments, *extra))
            yield started
        finally:
            for worker in started:
                worker.stop()


def federation(number: int) -> Federation:
    """Two clients, in a vhost that no other repetition has used."""
    return Federation(f"start-{number}", clients=CLIENTS, fleets=())


def node_s(home: Path) -> float:
    """Seconds of ``broker-config up`` in a new folder: when it returns, the node is ready."""
    command = [str(BIN / "broker-config"), "up", "--home", str(home)]
    started = time.perf_counter()
    subprocess.run(command, check=True, timeout=DEADLINE_S, capture_output=True)
    return time.perf_counter() - started


def import_s(modules: str) -> float:
    """Seconds until a new Python has imported ``modules``."""
    program = [sys.executable, "-c", f"import time, {modules}; print(time.time())"]
    environment = os.environ | ONE_THREAD
    started = time.time()
    told = subprocess.run(
        program, check=True, timeout=DEADLINE_S, capture_output=True, text=True, env=environment
    )
    return float(told.stdout.split()[-1]) - started


def import_bytes(modules: str) -> int:
    """Resident memory of a new Python that has imported ``modules``."""
    told = f"import {modules}; print(open('/proc/self/statm').read().split()[1])"
    said = subprocess.check_output(
        [sys.executable, "-c", told], text=True, timeout=DEADLINE_S, env=os.environ | ONE_THREAD
    )
    return int(said) * os.sysconf("SC_PAGE_SIZE")


def _wait_for(condition: Callable[[], bool], workers: Sequence[Child]) -> None:
    """Return when ``condition`` holds; ChildFailed if a worker ended first, or it is too late."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        for worker in workers:
            worker.check(may_end=True)
        if time.monotonic() > deadline:
            said = "; ".join(f"{worker.name}: {worker.last_words()}" for worker in workers)
            raise ChildFailed(f"not there after {DEADLINE_S:.0f} s ({said})")
        time.sleep(LOOK_S)


def _published(log: Path, version: int) -> float | None:
    """When the coordinator logged that ``version`` is published, in seconds of the epoch."""
    for line in log.read_text().splitlines():
        if '"model_published"' in line and line.endswith("}"):
            record = json.loads(line)
            if record["version"] == version:
                return float(record["time"])
    return None
