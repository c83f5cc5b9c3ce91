"""What a worker does not use it does not import, and it is no larger than what it has to import."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from broker_config.node.record import Node
from tests.conftest import CLIENTS, Place
from tests.support.keeper_stage import stage
from tests.support.pace import DEADLINE_S
from tests.support.processes import ENCRYPT, KEYS, ROOT, Worker, environment_of, workers

# Imported with a setting that asks for them, or by a task.
ON_REQUEST = (
    *("cryptography", "prometheus_client", "http.server", "opentelemetry", "tensorboardX"),
    *("rich", "urllib3", "pydantic_settings", "gzip", "safetensors"),
    *("numpy.f2py", "numpy.fft", "numpy.ma", "numpy.testing"),
    *("tensorflow", "keras", "sklearn", "scipy", "pandas", "torch", "jax", "transformers"),
)
# Beside what BARE imports: our own modules, settings, a connection and its thread. Measured with
# Python 3.11: 11.2 MB of the coordinator, of which masks are 1.1. Metrics are 2.5 MB more.
OURS_BYTES = 12_000_000

WORKER = """
import atexit, json, sys
from {package}.cli import main
atexit.register(lambda: print(json.dumps(sorted(sys.modules))))
sys.exit(main())
"""
# What any worker with keys imports, which is most of its memory before there is a model.
BARE = """
import numpy, pika, msgpack, xxhash, blake3, pydantic, dotenv, concurrent.futures.thread
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ed25519
ed25519.Ed25519PrivateKey.generate().sign(b"")
class Model(pydantic.BaseModel):
    field: int
print(open("/proc/self/status").read())
"""


def started(package: str, environment: dict[str, str], *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WORKER.format(package=package), *arguments],
        env=environment_of(ROOT) | {"PYTHONPATH": python_path()} | environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def python_path() -> str:
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


def resident_bytes(status: str) -> int:
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def asked_for(modules: Sequence[str]) -> set[str]:
    return {
        name for name in ON_REQUEST for module in modules if f"{module}.".startswith(f"{name}.")
    }


def test_what_a_worker_does_not_use_it_does_not_import(place: Place, tmp_path: Path) -> None:
    """Through a whole round, without keys and metrics."""
    task = ("--task", "tests.tasks:ledger", "--index", "0", "--size", "1000")
    goal = ("--quorum", "1", "--rounds", "2", "--checkpoint-dir", str(tmp_path))
    both = [
        started("client_worker", {"WARREN_BROKER_URL": place.urls["alfa"]}, *task),
        started(
            "coordinator_worker",
            {"WARREN_BROKER_URL": place.urls["coordinator"], "WARREN_METRICS_PORT": "off"},
            *goal,
        ),
    ]
    for worker in both:
        said, _ = worker.communicate(timeout=DEADLINE_S)
        assert worker.returncode == 0
        assert asked_for(json.loads(said)) == set()


@pytest.mark.parametrize(
    ("command", "user", "more"),
    [
        ("coordinator-worker", "coordinator", ("--metrics-port", "off")),
        ("client-worker", "alfa", ("--task", "tests.tasks:ledger")),
    ],
)
def test_before_the_first_model_a_worker_is_little_more_than_what_it_imports(
    place: Place, tmp_path: Path, command: str, user: str, more: tuple[str, ...]
) -> None:
    """With keys, as with a bundle."""
    bare = subprocess.check_output([sys.executable, "-c", BARE], text=True)
    extra = ENCRYPT if command == "client-worker" else {"WARREN_CHECKPOINT_DIR": str(tmp_path)}
    with workers() as running:
        running.append(worker := Worker(command, place.urls[user], *more, **extra))
        worker.wait_for("connected")
        found = resident_bytes(Path(f"/proc/{worker.process.pid}/status").read_text())
    assert found < resident_bytes(bare) + OURS_BYTES


# Two sums of this size fit beside what a keeper imports.
SUM_BYTES = 8_000_000
THREE = CLIENTS[:3]


def test_a_keeper_imports_what_it_uses_and_has_room_for_one_sum(node: Node, tmp_path: Path) -> None:
    """With keys, without metrics, through two sums; it knows nothing of the other workers."""
    size = SUM_BYTES // 4
    with stage(node, tmp_path / "keeper", CLIENTS) as made:
        keeper = started(
            "keeper_worker",
            KEYS["keeper-worker"] | {"WARREN_BROKER_URL": made.place.urls["keeper"]},
            "--state-dir",
            str(made.folder),
        )
        for version in (1, 2):
            seeds = [made.seed(client, version - 1, elements=size) for client in THREE]
            made.send(*seeds)
            made.ask(made.request(version, *THREE))
        found = resident_bytes(Path(f"/proc/{keeper.pid}/status").read_text())
        keeper.send_signal(signal.SIGTERM)
        modules = json.loads(keeper.communicate(timeout=DEADLINE_S)[0])
        assert keeper.returncode == 128 + signal.SIGTERM
    assert asked_for(modules) <= {"cryptography"}
    others = {"coordinator_worker", "client_worker", "broker_config"}
    assert not others & {module.partition(".")[0] for module in modules}
    bare = subprocess.check_output([sys.executable, "-c", BARE], text=True)
    # The sum, and what is on its way to the broker: 16 MiB at most.
    assert found < resident_bytes(bare) + OURS_BYTES + 2 * SUM_BYTES + (16 << 20)
