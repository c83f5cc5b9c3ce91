"""What `versions`, `diff` and `export` say of the models that are there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from coordinator_worker.cli import main
from coordinator_worker.state.training_state import Best
from coordinator_worker.storage import version_archive
from coordinator_worker.storage.version_archive import kept_in
from coordinator_worker.versions.diff import differences
from coordinator_worker.versions.registry import Model, ModelRegistry
from coordinator_worker.versions.rollback import rollback
from tests.support.runs import RUN, federation, weights
from warren_shared import weights_file
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Layout, Weights


def told(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> Any:
    assert main([*words, "--json", "--checkpoint-dir", str(folder)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return lines if words[0] == "versions" else lines[0]


def test_versions_lists_what_is_there_and_what_each_is_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation(tmp_path, best=Best(4, 0.4))
    (tmp_path / version_archive.FOLDER / f"{RUN}-000003.safetensors").unlink()
    found = told(capsys, tmp_path, "versions")
    assert [line["version"] for line in found] == [1, 2, 4, 5, 6]
    four = found[2]
    assert (four["updates"], four["examples"], four["update_norm"]) == (2, 300, 0.5)
    assert four["metrics"] == {"loss": 1 / 4, "eval_loss": 2 / 5}, "clients judge it one round on"
    assert four["digest"] == weights_file.digest_text(weights(4))
    assert four["size_bytes"] == Path(four["file"]).stat().st_size
    assert [line["version"] for line in found if line["best"]] == [4]
    assert [line["version"] for line in found if line["current"]] == [6]
    rollback(tmp_path, "best")
    seven = told(capsys, tmp_path, "versions")[-1]
    assert seven["metrics"] == four["metrics"], "it is the same model"
    assert seven["best"]
    assert main(["versions", "--checkpoint-dir", str(tmp_path)]) == 0
    assert "current, best, = version 4" in capsys.readouterr().out


def test_without_past_versions_there_are_the_current_one_and_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation(tmp_path, best=Best(2, 0.4))
    for kept in kept_in(tmp_path):
        kept.path.unlink()
    weights_file.write(tmp_path / "best.npz", weights(2))
    assert [line["version"] for line in told(capsys, tmp_path, "versions")] == [2, 6]
    assert (
        ModelRegistry(tmp_path).find("best").weights.buffer.tobytes() == weights(2).buffer.tobytes()
    )
    assert main(["versions", "--checkpoint-dir", str(tmp_path)]) == 0


def test_other_runs_are_not_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = federation(tmp_path)
    kept = kept_in(tmp_path)[0]
    kept.path.rename(kept.path.with_name(f"{'cd' * 4}-000001.safetensors"))
    assert [line["version"] for line in told(capsys, tmp_path, "versions")] == [2, 3, 4, 5, 6]
    assert set(ModelRegistry(tmp_path).kept) == {2, 3, 4, 5, state.version}


def model(*arrays: Any) -> Model:
    return Model("m", Weights.of([np.asarray(array, np.float32) for array in arrays]), None, {})


def test_differences_are_what_they_are_called() -> None:
    first, second, whole = differences(
        model([3.0, 4.0], [[0.0], [0.0], [0.0], [0.0]]),
        model([3.0, 1.0], [[0.0], [2.0], [0.0], [0.0]]),
    )
    assert (first.norm, first.relative, first.largest, first.changed) == (3.0, 0.6, 3.0, 0.5)
    assert first.cosine == pytest.approx(13 / (5 * 10**0.5))
    assert (second.norm, second.relative, second.cosine, second.changed) == (2.0, None, None, 0.25)
    assert whole.norm == pytest.approx(13**0.5)
    assert (whole.numbers, whole.tensor, whole.changed) == (6, "", 2 / 6)


def test_no_difference_between_a_model_and_itself_and_all_of_it_to_its_opposite() -> None:
    same = differences(model([1.0, 2.0], []), model([1.0, 2.0], []))
    assert [(each.norm, each.changed) for each in same] == [(0.0, 0.0)] * 3
    assert same[0].cosine == pytest.approx(1.0)
    (opposite, _) = differences(model([1.0, 2.0]), model([-1.0, -2.0]))
    assert opposite.cosine == pytest.approx(-1.0)


def test_diff_takes_versions_and_files_and_puts_metrics_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation(tmp_path)
    weights_file.write(tmp_path / "mine.npz", weights(2))
    found = told(capsys, tmp_path, "diff", "2", "4")
    assert [tensor["norm"] for tensor in found["tensors"]] == [pytest.approx(12**0.5), 2.0]
    assert found["model"]["norm"] == pytest.approx(4.0)
    assert found["metrics"]["a"]["loss"] == 0.5
    assert found["metrics"]["b"]["loss"] == 0.25
    assert told(capsys, tmp_path, "diff", "2", str(tmp_path / "mine.npz"))["model"]["norm"] == 0
    assert told(capsys, tmp_path, "diff", "2")["b"] == "version 6"
    assert main(["diff", "2", "4", "--checkpoint-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "from version 2 to version 4" in out
    assert "the whole model" in out
    assert "eval_loss" in out


def test_export_writes_what_others_read_and_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation(tmp_path)
    folder = ("--checkpoint-dir", str(tmp_path))
    for wanted, value in (("3", 3), ("current", 6)):
        path = tmp_path / "out.safetensors"
        assert main(["export", wanted, "--to", str(path), *folder]) == 0
        np.testing.assert_array_equal(load_file(path)["0"], np.full(3, value, np.float32))
        facts = weights_file.facts_of(path)
        assert (facts["federation"], facts["run"], facts["version"]) == ("f", RUN, str(value))
        assert facts["digest"] == weights_file.digest_text(weights(value))
    assert main(["export", "3", "--to", str(tmp_path / "out.npz"), *folder]) == 0
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays.files == ["0", "1"]


def test_a_kept_version_is_exported_the_same_whenever_that_is_done(tmp_path: Path) -> None:
    federation(tmp_path)
    for name in ("a", "b"):
        path = str(tmp_path / f"{name}.safetensors")
        assert main(["export", "3", "--to", path, "--checkpoint-dir", str(tmp_path)]) == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_control_variates_are_no_part_of_an_exported_model(tmp_path: Path) -> None:
    arrays = [np.ones(3, np.float32), np.zeros(3, np.float32)]
    whole = Weights(Layout.of(arrays, ["w", "control/0"]), Weights.of(arrays).buffer)
    federation(tmp_path)
    found = ModelRegistry(tmp_path).find("3")
    from coordinator_worker.versions.export import export

    export(Model("m", whole, 3, found.facts), tmp_path / "m.safetensors", None, ())
    assert list(load_file(tmp_path / "m.safetensors")) == ["w"]
    weights_file.read(tmp_path / "m.safetensors")  # its digest is that of what is in it


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--to", "m.keras"], "give --task TASK, whose model it is"),
        (["--to", "m.npz", "--shard", "3"], "unknown option --shard"),
        (["--to", "none/m.npz"], "--to none/m.npz cannot be written"),
        (["99", "--to", "m.npz"], "version 99 is not kept"),
        ([], "--to"),
        (["--to", "m.keras", "--task", "tests.tasks:line"], "version-6.safetensors does not fit"),
        (["--to", "m.keras", "--task", "tests.nothing:line"], "there is no module tests.nothing"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], what: str
) -> None:
    federation(tmp_path)
    assert main(["export", *words, "--checkpoint-dir", str(tmp_path)]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert what in line


def test_a_damaged_version_is_one_line_and_nothing_is_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation(tmp_path)
    path = kept_in(tmp_path)[2].path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    to = tmp_path / "m.npz"
    assert main(["export", "3", "--to", str(to), "--checkpoint-dir", str(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert not to.exists()


def test_a_copy_of_the_best_that_a_crash_left_too_new_goes_under_no_other_number(
    tmp_path: Path,
) -> None:
    """It is written before the checkpoint that says so; `export best` called it the one before."""
    federation(tmp_path, best=Best(2, 0.4))
    for kept in kept_in(tmp_path):
        kept.path.unlink()
    weights_file.write(tmp_path / "best.npz", weights(6))
    with pytest.raises(ConfigError, match=r"best\.npz is version 6, which was about to become"):
        ModelRegistry(tmp_path).find("best")
    with pytest.raises(ConfigError, match=r"best\.npz is version 6"):
        rollback(tmp_path, "best")
    assert ModelRegistry(tmp_path).find("6").version == 6
