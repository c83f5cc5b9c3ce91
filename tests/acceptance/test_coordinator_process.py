"""The coordinator as a process: what it loads, and how it shows in the management UI."""

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.conftest import Place
from tests.support.processes import BIN, Worker, workers


def test_a_running_coordinator_has_loaded_no_framework(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        coordinator = Worker(
            "coordinator-worker", place.urls["coordinator"], "--checkpoint-dir", str(tmp_path)
        )
        started.append(coordinator)
        coordinator.wait_for("connected")
        coordinator.wait_for("connected")
        mapped = Path(f"/proc/{coordinator.process.pid}/maps").read_text()
    assert "numpy" in mapped
    for framework in ("tensorflow", "keras", "sklearn", "h5py"):
        assert framework not in mapped


def test_the_environment_that_make_test_runs_the_coordinator_in_has_no_tensorflow() -> None:
    program = Path(os.environ.get("TEST_COORDINATOR_WORKER", BIN / "coordinator-worker"))
    finds = "import importlib.util as u; print(u.find_spec('tensorflow') is not None)"
    found = subprocess.check_output([program.parent / "python", "-c", finds], text=True).strip()
    # Run by hand with plain pytest there is only the development environment to be had.
    assert found == str(program.parent == BIN)


def test_the_management_ui_names_who_is_connected(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        for command, user, arguments in (
            ("coordinator-worker", "coordinator", ["--checkpoint-dir", str(tmp_path)]),
            ("client-worker", "alfa", ["--task", "tests.tasks:line"]),
        ):
            started.append(Worker(command, place.urls[user], *arguments))
            started[-1].wait_for("connected")
        names: set[str] = set()
        pause = threading.Event()
        while len(names) < 3:
            found: list[dict[str, Any]] = place.management.get("vhosts", place.name, "connections")
            named = (entry.get("client_properties", {}).get("connection_name") for entry in found)
            names = {name for name in named if name}
            pause.wait(0.2)  # the API shows a connection some time after it is open
        federation = f"coordinator · {place.name}"
        assert names == {f"{federation} · models out", f"{federation} · updates in", "client alfa"}
        consumers = place.management.get("consumers", place.name)
        assert {entry["consumer_tag"] for entry in consumers} >= {"coordinator"}
