"""A federation that is stopped, rolled back, and goes on: over a real broker, by its commands."""

import signal
import subprocess
from pathlib import Path

import numpy as np

from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from coordinator_worker.storage.audit_files import read
from coordinator_worker.versions.audit_report import faults, versions
from coordinator_worker.versions.registry import ModelRegistry
from tests.acceptance.test_federation import start_client, start_coordinator
from tests.conftest import Place
from tests.support.processes import BIN, ROOT, Worker, workers
from warren_shared import weights_file

USERS = ("alfa", "bravo")


def command(place: Place, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "coordinator-worker"), *words, "--checkpoint-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def state_in(folder: Path) -> State:
    found = checkpoint.load(folder)
    assert found is not None
    return found


def counts(folder: Path) -> np.ndarray:
    """How many updates of each client are in the model; each round moves an index by 1/2."""
    return np.array(state_in(folder).weights[0][:2]) * len(USERS)


def start_clients(place: Place, *arguments: str) -> list[Worker]:
    return [
        start_client(place, user, "ledger", "--index", str(index), *arguments)
        for index, user in enumerate(USERS)
    ]


def train(place: Place, folder: Path, started: list[Worker], rounds: int, *more: str) -> Worker:
    until = ("--quorum", "2", "--rounds", str(rounds))
    coordinator = start_coordinator(place, folder, *until, *more)
    started.append(coordinator)
    return coordinator


def test_stopped_rolled_back_and_started_again_everybody_goes_on_from_the_old_model(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        started += start_clients(place)
        coordinator = train(place, tmp_path, started, 10_000)
        coordinator.wait_for("model_published", version=6)
        refused = command(place, tmp_path, "rollback", "1")
        assert refused.returncode == 2
        assert "a coordinator that runs has" in refused.stderr
        assert coordinator.kill(signal.SIGTERM) == 128 + signal.SIGTERM

        before = state_in(tmp_path)
        for client in started[:2]:  # what they made of the newest version waits in the broker
            client.wait_for("update_confirmed", base_version=before.version)
        target = before.version - 3
        done = command(place, tmp_path, "rollback", str(target))
        assert done.returncode == 0, done.stderr
        after = state_in(tmp_path)
        assert (after.version, after.run) == (before.version + 1, before.run)
        assert list(counts(tmp_path)) == [target, target]

        rounds = after.version + 4
        coordinator = train(place, tmp_path, started, rounds, "--max-staleness", "9")
        coordinator.wait_for("rolled_back", version=after.version)
        for _ in USERS:
            rejected = coordinator.wait_for("update_rejected")
            assert "the federation was rolled back" in rejected["message"]
        assert [worker.end() for worker in started[:2]] == [0, 0]
        assert coordinator.end() == 0
    assert state_in(tmp_path).version == rounds
    # Each effect is there once: the rounds before the old model, and the four after the rollback;
    # nothing of what was rolled back, though its updates were waiting in the broker.
    assert list(counts(tmp_path)) == [target + 4, target + 4]
    assert list(faults(read(tmp_path))) == []
    made = versions(read(tmp_path))
    assert [number for _, number in made] == list(range(1, rounds + 1))
    copy = made[before.run, after.version]
    assert copy.rolled_back_to is not None
    assert copy.rolled_back_to.version == target
    assert copy.published is not None
    assert copy.published["digest"] == copy.rolled_back_to.digest


def test_a_run_that_begins_with_an_import_has_its_weights_as_version_zero(
    place: Place, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    brought = weights_file.Weights.of([np.full(8, 100, np.float32)])
    weights_file.write(tmp_path / "mine.safetensors", brought)
    done = command(
        place, folder, "import", str(tmp_path / "mine.safetensors"),
        "--broker-url", place.urls["coordinator"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = state_in(folder).run
    with workers() as started:
        started += start_clients(place)
        coordinator = train(place, folder, started, 3, "--monitor", "loss:min")
        assert [worker.end() for worker in started] == [0, 0, 0]
        assert "initial_model" not in coordinator.said
    assert state_in(folder).run == run
    np.testing.assert_array_equal(state_in(folder).weights[0][:3], [101.5, 101.5, 100])
    past = ModelRegistry(folder)
    assert sorted(past.kept) == [0, 1, 2, 3]
    assert past.find("0").weights.buffer.tobytes() == brought.buffer.tobytes()
    setup = state_in(folder).setup
    assert setup[0]["imported"]["source"] == "mine.safetensors"
    assert (setup[1]["version"], setup[1]["settings"]["quorum"]) == (1, 2)


def test_a_full_versions_folder_does_not_stop_a_federation(place: Place, tmp_path: Path) -> None:
    (tmp_path / "versions").write_text("no folder")  # so that not even root can write into it
    with workers() as started:
        started += start_clients(place)
        coordinator = train(place, tmp_path, started, 4)
        assert [worker.end() for worker in started] == [0, 0, 0]
        assert coordinator.said.count("version_not_kept") == 1
    assert list(counts(tmp_path)) == [4, 4]
