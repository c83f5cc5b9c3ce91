"""Going back to an older model and beginning with a given one, without a broker."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator_worker.aggregation.algorithm import Algorithm
from coordinator_worker.aggregation.coordinator import FederatedCoordinator
from coordinator_worker.cli import main
from coordinator_worker.rounds.intake import Intake
from coordinator_worker.rounds.outcome import Accepted, Duplicate, Refused
from coordinator_worker.rounds.policy import Policy
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.round_record import Rollback
from coordinator_worker.state.training_state import Best
from coordinator_worker.storage import checkpoint, version_archive
from coordinator_worker.storage.audit_files import NAME, read
from coordinator_worker.storage.audit_log import Audit
from coordinator_worker.storage.store import Store
from coordinator_worker.versions.audit_report import faults, versions
from coordinator_worker.versions.rollback import import_model, rollback
from tests.support.bodies import bodies_of, staging
from tests.support.runs import RUN, federation, loaded, record, weights
from warren_shared import weights_file
from warren_shared.amqp.delivery import Delivery
from warren_shared.errors import ConfigError, WarrenError
from warren_shared.folder_lock import FolderLock
from warren_shared.protocol.messages import UpdateManifest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.layout import Weights


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / NAME).read_text().splitlines()]


def test_a_rollback_is_a_new_version_with_the_old_weights(tmp_path: Path) -> None:
    before = federation(tmp_path)
    rollback(tmp_path, "3")
    after = loaded(tmp_path)
    assert (after.run, after.version) == (RUN, 7)
    assert after.weights.buffer.tobytes() == weights(3).buffer.tobytes()
    assert after.applied == before.applied, "what is in a model is never counted again"
    assert after.roster == before.roster
    assert after.slots == {}
    assert after.oldest_base == 7
    digest = weights_file.digest_text(weights(3))
    assert after.rolled_back == Rollback(3, "version 3", digest)
    assert [kept.version for kept in version_archive.kept_in(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_the_audit_log_tells_of_it_and_verifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation(tmp_path)
    rollback(tmp_path, "3")
    assert [line["event"] for line in lines(tmp_path)[-2:]] == ["resumed", "rolled_back"]
    assert list(faults(read(tmp_path))) == []
    audit = Audit(tmp_path)
    audit.take_over(loaded(tmp_path))  # as the coordinator does when it starts again
    audit.published(7, 255, None)
    audit.give_back()
    made = versions(read(tmp_path))
    assert [number for _, number in made] == [1, 2, 3, 4, 5, 6, 7]
    assert made[RUN, 7].published is not None
    assert "recovered" not in made[RUN, 7].line, "nothing is made up of whose updates it is"
    assert main(["audit", "7", "--checkpoint-dir", str(tmp_path)]) == 0
    assert "rolled back to version 3" in capsys.readouterr().out


def test_killed_between_log_and_checkpoint_nothing_was_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = federation(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.Checkpoint, "save", full)
    with pytest.raises(WarrenError, match="cannot be written"):
        rollback(tmp_path, "3")
    monkeypatch.undo()
    assert loaded(tmp_path).version == before.version
    audit = Audit(tmp_path)
    audit.take_over(loaded(tmp_path))
    audit.give_back()
    assert [number for _, number in versions(read(tmp_path))] == [1, 2, 3, 4, 5, 6]
    rollback(tmp_path, "2")
    assert loaded(tmp_path).weights[0][0] == 2
    assert list(faults(read(tmp_path))) == []


def test_while_a_coordinator_runs_nothing_is_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    lease = FolderLock(tmp_path)
    assert lease.take()
    assert main(["rollback", "3", "--checkpoint-dir", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a coordinator that runs has" in line
    assert "stop it first" in line
    assert {path: path.read_bytes() for path in files} == files
    lease.give_back()
    assert main(["rollback", "3", "--checkpoint-dir", str(tmp_path)]) == 0
    assert "version 7 has the weights of version 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wanted", "what"),
    [
        ("6", "version 6 is the newest already"),
        ("current", "version 6 is the newest already"),
        ("9", "version 9 is not kept: there are 1, 2, 3, 4, 5, 6"),
        ("best", "no version is known to be the best"),
        ("-1", "-1 is neither a version"),
        ("²", "² is neither a version"),
        ("nothing.npz", "nothing.npz is neither a version (1, 2, 3, 4, 5, 6) nor a file"),
    ],
)
def test_what_is_no_older_version_is_one_line(tmp_path: Path, wanted: str, what: str) -> None:
    federation(tmp_path)
    with pytest.raises(ConfigError) as caught:
        rollback(tmp_path, wanted)
    assert what in str(caught.value)
    assert loaded(tmp_path).version == 6


def test_back_to_the_best_the_best_is_the_new_version_so_patience_begins_again(
    tmp_path: Path,
) -> None:
    federation(tmp_path, best=Best(4, 0.25))
    rollback(tmp_path, "best")
    after = loaded(tmp_path)
    assert after.best == Best(7, 0.25)
    assert after.weights[0][0] == 4


def test_a_file_that_fits_can_be_gone_back_to_and_another_cannot(tmp_path: Path) -> None:
    federation(tmp_path)
    weights_file.write(tmp_path / "mine.npz", weights(42))
    rollback(tmp_path, str(tmp_path / "mine.npz"))
    after = loaded(tmp_path)
    assert after.weights[0][0] == 42
    assert after.rolled_back is not None
    assert after.rolled_back.version is None
    assert after.rolled_back.source == "the file mine.npz"
    weights_file.write(tmp_path / "other.npz", Weights.of([np.zeros(3)]))
    with pytest.raises(ConfigError, match="does not fit the model"):
        rollback(tmp_path, str(tmp_path / "other.npz"))
    weights_file.write(tmp_path / "nan.npz", weights(np.nan))
    with pytest.raises(ConfigError, match="not finite"):
        rollback(tmp_path, str(tmp_path / "nan.npz"))
    assert loaded(tmp_path).version == 7


def test_the_moments_begin_anew_whatever_the_server_optimizer_is(tmp_path: Path) -> None:
    federation(tmp_path)
    rollback(tmp_path, "3")

    class Model:
        def get_weights(self) -> Weights:
            return weights(3)

        def set_weights(self, weights: Weights) -> None: ...

    for optimizer in ("momentum", "adam", "sgd"):
        settings = CoordinatorSettings(
            broker_url="amqp://a:b@localhost/f", server_optimizer=optimizer
        )
        made = Algorithm.from_settings(settings).coordinator(Model(), loaded(tmp_path)).slots
        fresh = FederatedCoordinator([Model()], server_optimizer=optimizer).slots
        assert {name: slot.buffer.tobytes() for name, slot in made.items()} == {
            name: slot.buffer.tobytes() for name, slot in fresh.items()
        }
    after_a_round = loaded(tmp_path).after(weights(4), (), record(8), 0)
    with pytest.raises(ConfigError, match="begun with another"):
        Algorithm.from_settings(
            settings.model_copy(update={"server_optimizer": "adam"})
        ).coordinator(Model(), after_a_round)


@pytest.mark.parametrize(("base", "fate"), [(6, "stale"), (5, None), (7, "whole")])
def test_updates_from_what_was_rolled_back_do_not_count_however_late_they_may_be(
    tmp_path: Path, base: int, fate: str | None
) -> None:
    federation(tmp_path)
    rollback(tmp_path, "3")
    state = loaded(tmp_path)
    delta = weights(1)
    manifest = UpdateManifest(
        federation="f", run=RUN, client="alfa", base_version=base, num_examples=9,
        layout=delta.layout.digest, metrics={}, **transfer_fields(delta.buffer),
    )  # fmt: skip
    (body,) = bodies_of(Outgoing(manifest, delta.buffer))
    intake = Intake("f", Policy(quorum=1, max_staleness=50), staging())
    outcome = intake.receive(Delivery(memoryview(body), 1, 1, "alfa", redelivered=False), state)
    if fate == "stale":
        assert isinstance(outcome, Refused)
        assert outcome.rejected.reason == "stale"
        assert "rolled back" in outcome.rejected.detail
    elif fate is None:  # alfa's update to version 5 is in version 6, and came again
        assert isinstance(outcome, Duplicate)
        assert outcome.acknowledgeable
    else:
        assert isinstance(outcome, Accepted)


def test_an_import_is_version_zero_of_a_new_run_and_the_store_goes_on_from_it(
    tmp_path: Path,
) -> None:
    weights_file.write(tmp_path / "mine.safetensors", weights(5))
    folder = tmp_path / "checkpoint"
    made = import_model(folder, "f", tmp_path / "mine.safetensors")
    assert (made.version, made.federation) == (0, "f")
    assert [line["event"] for line in lines(folder)] == ["imported"]
    assert lines(folder)[0]["source"] == "mine.safetensors"
    assert [kept.version for kept in version_archive.kept_in(folder, made.run)] == [0]
    settings = CoordinatorSettings(
        broker_url="amqp://a:b@localhost/f", checkpoint_dir=folder, scaffold=True
    )
    store = Store(settings, lambda _seconds: False)
    assert store.state is not None
    assert store.state.run == made.run
    assert store.state.weights[0][0] == 5
    assert len(store.state.weights) == 4, "SCAFFOLD's control variates begin with it"
    store.close()


def test_an_import_over_a_checkpoint_is_refused(tmp_path: Path) -> None:
    before = federation(tmp_path)
    weights_file.write(tmp_path / "mine.npz", weights(5))
    with pytest.raises(ConfigError, match=r"holds version 6 of 'f' already.*rollback"):
        import_model(tmp_path, "f", tmp_path / "mine.npz")
    assert loaded(tmp_path).run == before.run


def test_a_checkpoint_folder_that_does_not_exist_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "none")
    for words in (
        ["versions"],
        ["diff", "1"],
        ["rollback", "1"],
        ["card"],
        ["export", "--to", "x"],
    ):
        assert main([*words, "--checkpoint-dir", folder]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "holds no checkpoint yet" in line
    assert not os.path.exists(folder)


def test_a_rollback_says_when_it_was_made(tmp_path: Path) -> None:
    federation(tmp_path)
    began = time.time()
    assert began <= rollback(tmp_path, "3").history[-1].time <= time.time()


def test_a_rollback_whose_copy_cannot_be_kept_has_succeeded_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    federation(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(version_archive, "write", full)
    assert rollback(tmp_path, "3").version == 7
    assert loaded(tmp_path).version == 7
    assert "version 7 is in the checkpoint, but no copy of it" in caplog.text
