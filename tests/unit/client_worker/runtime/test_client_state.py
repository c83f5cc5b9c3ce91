"""What a client carries on is the sum of what counted, whatever crashes when."""

from pathlib import Path

import numpy as np
import pytest

from client_worker import FederatedClient, Task, interpolate
from client_worker.models import linear_regression
from client_worker.runtime.client_state import MAX_REVOCABLE, ClientState
from client_worker.runtime.update_store import UpdateStore
from client_worker.training.scaffold import longer
from warren_shared.protocol.messages import LocalTraining, UpdateManifest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.layout import Weights
from warren_shared.tensors.update import Update

RUN, OTHER_RUN = "ab" * 4, "cd" * 4
LOCAL = LocalTraining(scaffold=True)
X = np.random.default_rng(0).normal(size=(30, 2))
DATA = (X, X @ [1.0, -1.0] + 2.0)
START = longer(Weights.of([np.full((2, 1), 0.5), np.ones(1)]))


class Process:
    """One life of a client: what its worker does, in its order, without the broker."""

    def __init__(self, folder: Path | None, run: str = RUN, **options: object) -> None:
        self.client = Task(linear_regression(2), DATA, 0.1, **options).client()  # type: ignore[arg-type]
        self.keep = None if folder is None else UpdateStore(folder)
        self.memory = ClientState("f", self.keep)
        self.memory.resume(self.client, "alfa", run, LOCAL)
        kept = self.keep.get("alfa", self.client.layout_for(LOCAL)) if self.keep else None
        if kept is not None:
            self.confirm(kept[0])

    def train(self, version: int) -> Update:
        update = self.client.train(START, LOCAL)
        self.memory.trained(update, version)
        return update

    def put(self, update: Update, version: int) -> Outgoing:
        delta = Weights.of(update.delta)
        manifest = UpdateManifest(
            federation="f", run=RUN, client="alfa", base_version=version, num_examples=30,
            layout=delta.layout.digest, **transfer_fields(delta.buffer),
        )  # fmt: skip
        outgoing = Outgoing(manifest, delta.buffer)
        if self.keep is not None:
            self.keep.put(outgoing, "alfa")
        return outgoing

    def confirm(self, outgoing: Outgoing, *, crash: bool = False) -> None:
        manifest = outgoing.manifest
        assert isinstance(manifest, UpdateManifest)
        self.memory.confirmed(manifest, outgoing)
        if self.keep is not None and not crash:
            self.keep.confirmed("alfa", RUN, manifest.base_version)

    @property
    def control(self) -> list[np.ndarray]:
        return [array.copy() for array in self.client.control.value]


def same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


ZERO = [np.zeros((2, 1)), np.zeros(1)]


def test_a_confirmed_change_is_there_after_a_restart(tmp_path: Path) -> None:
    first = Process(tmp_path)
    for version in range(3):
        first.confirm(first.put(first.train(version), version))
    assert np.abs(first.control[0]).max() > 0.1
    same(Process(tmp_path).control, first.control)


def test_a_change_that_was_not_confirmed_counts_when_it_is_sent_again(tmp_path: Path) -> None:
    first = Process(tmp_path)
    first.confirm(first.put(first.train(0), 0))
    first.put(first.train(1), 1)  # and it dies
    same(Process(tmp_path).control, first.control)
    same(Process(tmp_path).control, first.control)


def test_a_change_that_was_trained_and_not_kept_does_not_count(tmp_path: Path) -> None:
    first = Process(tmp_path)
    first.confirm(first.put(first.train(0), 0))
    before = first.control
    first.train(1)  # and it dies
    same(Process(tmp_path).control, before)


def test_a_crash_between_the_two_files_counts_the_change_once(tmp_path: Path) -> None:
    first = Process(tmp_path)
    first.confirm(first.put(first.train(0), 0), crash=True)
    same(Process(tmp_path).control, first.control)


def test_a_rejected_update_is_taken_back_also_after_others_and_after_a_restart(
    tmp_path: Path,
) -> None:
    first = Process(tmp_path)
    first.confirm(first.put(first.train(0), 0))
    after_one = first.control
    first.confirm(first.put(first.train(1), 1))
    first.memory.rejected(1)
    same(first.control, after_one)
    first.memory.rejected(1)
    first.memory.rejected(None)
    same(first.control, after_one)
    second = Process(tmp_path)
    same(second.control, after_one)
    second.confirm(second.put(second.train(2), 2))
    third = Process(tmp_path)
    third.memory.rejected(2)
    same(third.control, after_one)
    same(Process(tmp_path).control, after_one)


def test_a_rejection_that_comes_before_the_first_model_is_not_lost(tmp_path: Path) -> None:
    first = Process(tmp_path)
    first.confirm(first.put(first.train(0), 0))
    again = ClientState("f", UpdateStore(tmp_path))
    again.rejected(0)
    client = FederatedClient(linear_regression(2), DATA, 0.1)
    again.resume(client, "alfa", RUN, LOCAL)
    same(list(client.control.value), ZERO)


def test_another_run_begins_at_nothing(tmp_path: Path) -> None:
    first = Process(tmp_path)
    first.confirm(first.put(first.train(0), 0))
    first.memory.resume(first.client, "alfa", OTHER_RUN, LOCAL)
    same(first.control, ZERO)
    same(Process(tmp_path, OTHER_RUN).control, ZERO)


def test_only_so_many_changes_are_held(tmp_path: Path) -> None:
    first = Process(None)
    for version in range(MAX_REVOCABLE + 3):
        first.confirm(first.put(first.train(version), version))
    before = first.control
    first.memory.rejected(0)
    same(first.control, before)


def test_a_damaged_file_is_no_control_variate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Process(tmp_path)
    first.confirm(first.put(first.train(0), 0))
    path = tmp_path / "alfa.control"
    path.write_bytes(path.read_bytes()[:-3])
    same(Process(tmp_path).control, ZERO)
    assert "control that was kept cannot be used" in caplog.text


def test_what_is_personal_survives_too(tmp_path: Path) -> None:
    options = {"update_rule": interpolate(0.5), "ditto": 0.2}
    first = Process(tmp_path, **options)
    first.train(0)
    second = Process(tmp_path, **options)
    assert first.client.personal.state is not None
    assert second.client.personal.state is not None
    np.testing.assert_array_equal(
        first.client.personal.state.buffer, second.client.personal.state.buffer
    )
    assert Process(tmp_path, OTHER_RUN, **options).client.personal.state is None


def test_without_a_folder_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    process = Process(None)
    process.memory.resume(process.client, "alfa", OTHER_RUN, LOCAL)
    assert caplog.text.count("give it --state-dir") == 1
    caplog.clear()
    plain = FederatedClient(linear_regression(2), DATA, 0.1)
    ClientState("f", None).resume(plain, "alfa", RUN, LocalTraining())
    assert "--state-dir" not in caplog.text
