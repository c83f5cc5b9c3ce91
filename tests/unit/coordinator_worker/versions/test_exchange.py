"""A coordinator that holds only what trains: its files say of which frozen weights they are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator_worker.aggregation.algorithm import check_exchange
from coordinator_worker.cli import main
from coordinator_worker.settings import read_initial_model
from coordinator_worker.state.training_state import Best, State
from coordinator_worker.storage import checkpoint
from coordinator_worker.storage.store import Store
from coordinator_worker.versions.registry import ModelRegistry
from coordinator_worker.versions.rollback import import_model, rollback
from tests.support.runs import SETTINGS, federation, weights
from warren_shared import weights_file
from warren_shared.errors import ConfigError
from warren_shared.tensors.frozen import FACT, FROZEN_WEIGHTS, digest

BASE = "cafe" * 8
FIXED = {FROZEN_WEIGHTS: BASE}
ENDINGS = pytest.mark.parametrize("ending", weights_file.ENDINGS)


def run_in(folder: Path, **more: Any) -> State:
    folder.mkdir()
    return federation(folder, **more)


def export(folder: Path, model: str, to: Path) -> int:
    return main(["export", model, "--checkpoint-dir", str(folder), "--to", str(to)])


@ENDINGS
@pytest.mark.parametrize("model", ["current", "best", "4"])
def test_what_is_exported_names_the_frozen_weights(tmp_path: Path, ending: str, model: str) -> None:
    state = run_in(tmp_path / "run", fixed_state=FIXED, best=Best(2, 0.4))
    for kept in (tmp_path / "run" / "versions").iterdir():
        if "000004" in kept.name:
            weights_file.write(kept, weights(4), {FACT: BASE})
        else:
            kept.unlink()
    weights_file.write(tmp_path / "run" / "best.npz", weights(2), {FACT: BASE})
    assert export(tmp_path / "run", model, tmp_path / f"m{ending}") == 0
    assert weights_file.frozen_in(tmp_path / f"m{ending}") == BASE
    assert weights_file.read(tmp_path / f"m{ending}").facts[FACT] == BASE
    assert state.fixed_state == FIXED


@ENDINGS
def test_a_file_of_a_run_with_all_is_as_it_was(tmp_path: Path, ending: str) -> None:
    run_in(tmp_path / "run")
    assert export(tmp_path / "run", "current", tmp_path / f"m{ending}") == 0
    assert weights_file.frozen_in(tmp_path / f"m{ending}") is None
    weights_file.write(tmp_path / "plain.npz", weights(1), {"run": "ab"})
    assert weights_file.frozen_in(tmp_path / "plain.npz") is None
    assert weights_file.read(tmp_path / "plain.npz").facts == {}
    assert weights_file.frozen_in(tmp_path / "none.npz") is None


@ENDINGS
def test_an_initial_model_is_of_what_trains_or_of_all_as_the_run_is(
    tmp_path: Path, ending: str
) -> None:
    part, whole = tmp_path / f"part{ending}", tmp_path / f"whole{ending}"
    nothing = tmp_path / f"nothing{ending}"
    weights_file.write(part, weights(1), {FACT: BASE})
    weights_file.write(whole, weights(1))
    weights_file.write(nothing, weights(1), {FACT: digest({})})
    assert read_initial_model(part, "trainable").facts[FACT] == BASE
    read_initial_model(whole)
    read_initial_model(nothing)
    read_initial_model(nothing, "trainable")
    with pytest.raises(ConfigError, match="holds only the tensors that train: start with --exch"):
        read_initial_model(part)
    with pytest.raises(ConfigError, match="as a file of a whole model does not"):
        read_initial_model(whole, "trainable")


def test_a_run_that_begins_with_a_file_asks_for_its_frozen_weights(tmp_path: Path) -> None:
    weights_file.write(tmp_path / "part.npz", weights(1), {FACT: BASE})
    told = {"initial_model": tmp_path / "part.npz", "checkpoint_dir": tmp_path / "run"}
    settings = SETTINGS.model_copy(update={**told, "exchange": "trainable"})
    store = Store(settings, lambda _seconds: False)
    assert store.state is not None
    assert store.state.fixed_state == FIXED
    check_exchange("trainable", store.state)
    store.close()


def test_a_run_goes_on_with_the_exchange_it_was_begun_with(tmp_path: Path) -> None:
    state = federation(tmp_path)
    check_exchange("all", state)
    part = replace(state, fixed_state=FIXED)
    check_exchange("trainable", part)
    with pytest.raises(ConfigError, match="was begun with --exchange trainable"):
        check_exchange("all", part)
    with pytest.raises(ConfigError, match="was begun with --exchange all, or with a file that nam"):
        check_exchange("trainable", state)


def test_import_and_rollback_keep_it(tmp_path: Path) -> None:
    weights_file.write(tmp_path / "part.safetensors", weights(1), {FACT: BASE})
    import_model(tmp_path / "new", "f", tmp_path / "part.safetensors")
    found = checkpoint.load(tmp_path / "new")
    assert found is not None
    assert found.fixed_state == FIXED
    run_in(tmp_path / "run", fixed_state=FIXED)
    assert rollback(tmp_path / "run", "4").fixed_state == FIXED
    assert rollback(tmp_path / "run", str(tmp_path / "part.safetensors")).fixed_state == FIXED


def test_a_file_beside_other_frozen_weights_or_of_a_whole_model_is_no_model_of_the_run(
    tmp_path: Path,
) -> None:
    run_in(tmp_path / "part", fixed_state=FIXED)
    run_in(tmp_path / "whole")
    weights_file.write(tmp_path / "whole.npz", weights(1))
    weights_file.write(tmp_path / "other.npz", weights(1), {FACT: "beef" * 8})
    for folder, file, words in (
        ("part", "whole.npz", "names no frozen weights, as a whole model's"),
        ("part", "other.npz", "names other frozen weights"),
        ("whole", "other.npz", "holds only the tensors that train, this run's models all"),
    ):
        with pytest.raises(ConfigError, match=words):
            ModelRegistry(tmp_path / folder).find(str(tmp_path / file))


def test_many_statistics_do_not_push_the_digest_out_of_an_npz(tmp_path: Path) -> None:
    """Their names fit no comment any more; without the digest it would be any model's."""
    from warren_shared.tensors.layout import Layout, Weights

    arrays = [np.zeros(1, np.float32)] * 1000
    names = [f"{'moving' * 15}/{number}" for number in range(1000)]
    many = Weights.of(arrays, Layout.of(arrays, names, ["statistic"] * 1000))
    weights_file.write(tmp_path / "m.npz", many, {FACT: BASE})
    assert weights_file.frozen_in(tmp_path / "m.npz") == BASE


def test_the_card_says_that_the_rest_of_the_model_is_at_the_sites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in(tmp_path / "part", fixed_state=FIXED)
    run_in(tmp_path / "whole")
    for folder, told in (("part", True), ("whole", False)):
        assert main(["card", "--checkpoint-dir", str(tmp_path / folder)]) == 0
        card = capsys.readouterr().out
        assert (f"the sites; its digest is `{BASE}`" in " ".join(card.split())) == told
