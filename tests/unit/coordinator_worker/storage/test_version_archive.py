"""Past versions beside the checkpoint: which are kept, and that no round fails for them."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.round_record import ClientReport, RoundRecord
from coordinator_worker.state.training_state import Best, State
from coordinator_worker.storage import version_archive
from coordinator_worker.storage.store import Store
from coordinator_worker.storage.version_archive import Retention, VersionArchive, kept_in
from warren_shared import weights_file
from warren_shared.tensors.layout import Weights

RUN = "ab" * 4


def state(version: int, best: int | None = None, run: str = RUN) -> State:
    weights = Weights.of([np.full(3, version, np.float32)])
    record = RoundRecord(version, metrics={"loss": 0.5}, clients={"alfa": ClientReport(1, {})})
    found = Best(best, 0.5) if best is not None else None
    return State("f", run, version, weights, {}, (record,), best=found)


def numbers(folder: Path, run: str = RUN) -> list[int]:
    return [kept.version for kept in kept_in(folder, run)]


def keep(archive_: VersionArchive, *states: State) -> None:
    for each in states:
        archive_.keep(each, weights_file.digest(each.weights.buffer))
    archive_.settle()


@given(st.integers(0, 5), st.frozensets(st.integers(0, 60)), st.none() | st.integers(0, 60))
def test_the_newest_and_the_best_are_kept_and_nothing_else(
    newest: int, there: frozenset[int], best: int | None
) -> None:
    kept = there - set(Retention(newest).surplus(there, best))
    assert kept == set(sorted(there, reverse=True)[:newest]) | ({best} & there)


def test_versions_come_and_go_as_the_settings_say(tmp_path: Path) -> None:
    here = VersionArchive(tmp_path, Retention(2, 4))
    keep(here, *(state(version, best=3 if version > 3 else None) for version in range(10)))
    assert numbers(tmp_path) == [0, 3, 4, 7, 8, 9]
    (three,) = [kept for kept in kept_in(tmp_path) if kept.version == 3]
    found = weights_file.read(three.path)
    np.testing.assert_array_equal(found.weights[0], np.full(3, 3, np.float32))
    assert found.facts["federation"] == "f"
    assert three.record is not None
    assert three.record.metrics == {"loss": 0.5}
    assert "alfa" not in three.path.read_text(errors="replace"), "nothing of single clients"
    keep(here, state(10, best=9))
    assert numbers(tmp_path) == [0, 4, 8, 9, 10], "what is no longer the best is not kept as such"


def test_a_milestone_stays_whatever_later_settings_say(tmp_path: Path) -> None:
    keep(VersionArchive(tmp_path, Retention(1, 3)), *(state(version) for version in range(1, 8)))
    later = VersionArchive(tmp_path, Retention(0))
    later.take_over(state(7))
    assert numbers(tmp_path) == [3, 6]


def test_none_are_kept_unless_asked_for(tmp_path: Path) -> None:
    keep(VersionArchive(tmp_path, Retention(0)), state(1), state(2))
    assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_is_removed_when_the_next_one_takes_over(tmp_path: Path) -> None:
    here = VersionArchive(tmp_path, Retention(5))
    keep(here, *(state(version) for version in range(1, 6)))
    torn = tmp_path / version_archive.FOLDER / f"{RUN}-000004.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    (tmp_path / version_archive.FOLDER / f"{RUN}-000006.safetensors.tmp").write_bytes(b"half")
    (tmp_path / version_archive.FOLDER / "notes.txt").write_text("mine")
    VersionArchive(tmp_path, Retention(2)).take_over(state(5))
    assert sorted(path.name for path in (tmp_path / version_archive.FOLDER).iterdir()) == [
        f"{RUN}-000003.safetensors",
        f"{RUN}-000005.safetensors",
        "notes.txt",
    ]


def test_other_runs_and_versions_from_before_a_backup_are_left_alone(tmp_path: Path) -> None:
    other = "cd" * 4
    here = VersionArchive(tmp_path, Retention(5))
    keep(here, state(1, run=other), *(state(version) for version in range(1, 6)))
    again = VersionArchive(tmp_path, Retention(1))
    again.take_over(state(2))
    assert numbers(tmp_path) == [2, 3, 4, 5]
    assert numbers(tmp_path, other) == [1]


def test_a_full_disk_costs_one_warning_and_no_round(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write = version_archive.write

    def full(*_: object, **__: object) -> Path:
        raise OSError(28, "No space left on device")

    here = VersionArchive(tmp_path, Retention(5))
    monkeypatch.setattr(version_archive, "write", full)
    keep(here, state(1), state(2))
    assert caplog.text.count("past versions are not kept") == 1
    monkeypatch.setattr(version_archive, "write", write)
    keep(here, state(3))
    assert numbers(tmp_path) == [3]
    monkeypatch.setattr(version_archive, "write", full)
    keep(here, state(4))
    assert caplog.text.count("past versions are not kept") == 2


def test_a_folder_that_cannot_be_made_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / version_archive.FOLDER).write_text("a file")
    here = VersionArchive(tmp_path, Retention(5))
    here.take_over(state(1))
    keep(here, state(1), state(2))
    assert caplog.text.count("past versions are not kept") == 1


def store(folder: Path, **more: Any) -> Store:
    settings = CoordinatorSettings(
        broker_url="amqp://a:b@localhost/f", checkpoint_dir=folder, **more
    )
    return Store(settings, lambda _seconds: False)


def test_a_round_goes_on_while_a_version_is_written_and_its_memory_is_left_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, begun, may_end = version_archive.write, threading.Event(), threading.Event()

    def slow(*arguments: Any, **more: Any) -> Path:
        begun.set()
        assert may_end.wait(10)
        return write(*arguments, **more)

    monkeypatch.setattr(version_archive, "write", slow)
    place = store(tmp_path)
    place.take_over()
    first = state(1)
    place.save(first)  # returns, though the version is not written
    assert begun.wait(10)
    assert numbers(tmp_path) == []
    second = threading.Thread(target=place.save, args=(state(2),))
    second.start()
    second.join(0.05)
    assert second.is_alive(), "the next checkpoint frees the memory that is being written"
    may_end.set()
    second.join(10)
    first.weights.buffer[:] = 255  # as the next round does
    place.give_back()
    assert numbers(tmp_path) == [1, 2]
    for kept in kept_in(tmp_path):
        found = weights_file.read(kept.path).weights
        np.testing.assert_array_equal(found[0], np.full(3, kept.version, np.float32))
    place.close()


def test_the_checkpoint_says_with_which_settings_from_which_version_on(tmp_path: Path) -> None:
    for version, quorum in ((1, 2), (2, 2), (3, 3), (4, 3)):
        place = store(tmp_path, quorum=quorum, rounds=version)
        place.take_over()
        place.save(state(version))
        place.give_back()
        place.close()
    found = store(tmp_path).state
    assert found is not None
    assert [(each["version"], each["settings"]["quorum"]) for each in found.setup] == [
        (1, 2),
        (3, 3),
    ]
    assert found.setup[0]["software"]["numpy"] == np.__version__
    assert "broker_url" not in found.setup[0]["settings"]


def test_the_initial_model_of_a_scaffold_run_gets_its_control_variates(tmp_path: Path) -> None:
    weights_file.write(tmp_path / "w.safetensors", Weights.of([np.ones(3, np.float32)]))
    (tmp_path / "c").mkdir()
    place = store(tmp_path / "c", initial_model=tmp_path / "w.safetensors", scaffold=True)
    assert place.state is not None
    assert [tensor.name for tensor in place.state.weights.layout.tensors] == ["0", "control/0"]
    place.close()
