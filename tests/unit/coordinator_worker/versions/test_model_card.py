"""The model card: what it says of a run, across rollbacks, and what it does not say."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coordinator_worker.cli import main
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.privacy_state import PrivacyState
from coordinator_worker.state.round_record import EvaluationSummary
from coordinator_worker.storage import checkpoint
from coordinator_worker.storage.audit_files import NAME
from coordinator_worker.storage.provenance import setup_of, since
from coordinator_worker.text.markdown import SPARK_POINTS, SPARKS, sparkline, table
from coordinator_worker.versions.lineage import lineage
from coordinator_worker.versions.model_card import card
from coordinator_worker.versions.registry import ModelRegistry
from coordinator_worker.versions.rollback import rollback
from tests.support.runs import federation, loaded
from warren_shared.errors import ConfigError

DAY = "2026-01-31"


def written(folder: Path, wanted: str = "current", *, names: bool = False) -> str:
    return card(ModelRegistry(folder), wanted, names=names, day=DAY)


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """The first table under ``heading``, by first column."""
    (_, _, section) = text.partition(f"## {heading}\n")
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
    return {first: rest for first, *rest in cells}


def with_setup(folder: Path, *changes: dict[str, Any]) -> None:
    state, found = loaded(folder), ()
    for first, change in enumerate(changes, start=1):
        settings = CoordinatorSettings(broker_url="amqp://u:secret@localhost/f", **change)
        found = since(found, first, setup_of(settings))
    checkpoint.save(folder, replace(state, setup=found))


def test_the_card_says_what_the_model_is_and_who_made_it(tmp_path: Path) -> None:
    federation(tmp_path)
    text = written(tmp_path)
    assert "# Model card: f, version 6\n" in text
    assert "2 tensors, 4 parameters, 20 B" in text
    assert "3 clients, 300 examples" in text
    assert "- 1 clients are known to the federation and nothing of them is in this" in text
    facts = rows(text, "Rounds")
    assert facts["rounds"] == ["6"]
    assert facts["updates"] == ["12"]
    assert facts["updates rejected"] == ["6 (stale 6)"]
    assert facts["a round's length, median"] == ["2 s"]
    metrics = rows(text, "Metrics")
    assert metrics["loss"][:2] == ["1 (version 1)", "0.1667 (version 6)"]
    assert "The audit log is as it was written" in text
    assert "Replace each line" in text.partition("## Known limits")[2]


def test_clients_are_numbered_unless_names_are_asked_for(tmp_path: Path) -> None:
    federation(tmp_path)
    anonymous, named = written(tmp_path), written(tmp_path, names=True)
    for name in ("alfa", "bravo", "charlie", "echo"):
        assert name not in anonymous
        assert name in named
    assert rows(anonymous, "Training data")["client 1"][2] == "6"
    assert rows(named, "Training data")["alfa"][2] == "6"
    assert rows(named, "Training data")["bravo"] == [
        *("100", "33.3%", "3"),
        "1 round before it",
    ]


def test_the_card_of_an_older_version_knows_only_what_was_before_it(tmp_path: Path) -> None:
    federation(tmp_path)
    text = written(tmp_path, "3", names=True)
    assert "2 clients, 200 examples" in text
    assert rows(text, "Rounds")["rounds"] == ["3"]
    assert set(rows(text, "Training data")) == {"alfa", "bravo"}
    assert rows(text, "Metrics")["loss"][1] == "0.3333 (version 3)"
    assert rows(text, "Metrics")["eval\\_loss"][1] == "0.5 (version 3)"


def test_who_is_only_in_what_was_rolled_back_is_not_in_the_model(tmp_path: Path) -> None:
    federation(tmp_path)
    rollback(tmp_path, "2")
    past = ModelRegistry(tmp_path)
    line = lineage(past, 7)
    assert line.rounds == (1, 2)
    assert {name: member.contributions for name, member in line.roster.items()} == {
        "alfa": 2,
        "bravo": 1,
    }
    assert line.complete
    text = written(tmp_path, names=True)
    assert set(rows(text, "Training data")) == {"alfa", "bravo"}
    assert "rolled back to | version 2" in text
    assert rows(text, "Rounds")["rounds"] == ["2"]
    rollback(tmp_path, "5")
    assert lineage(ModelRegistry(tmp_path), 8).rounds == (1, 2, 3, 4, 5)


def test_nothing_but_the_day_depends_on_when_it_is_written(tmp_path: Path) -> None:
    federation(tmp_path)
    first, again = written(tmp_path), written(tmp_path)
    assert first == again
    later = card(ModelRegistry(tmp_path), "current", names=False, day="2031-12-01")
    assert later.replace("2031-12-01", DAY) == first


def test_settings_that_are_not_their_defaults_and_what_changed_are_told(tmp_path: Path) -> None:
    federation(tmp_path)
    with_setup(tmp_path, {"quorum": 2}, {"quorum": 2}, {"quorum": 3, "server_optimizer": "adam"})
    text = written(tmp_path)
    settings = rows(text, "Algorithm and settings")
    assert settings["quorum"] == ["3"]
    assert settings["server-optimizer"] == ["adam"]
    assert "staleness-exponent" not in settings
    assert "- from version 3: quorum 2 → 3" in text
    assert "secret" not in text
    assert "- from version" not in written(tmp_path, "2")


def test_a_log_that_was_changed_and_one_that_is_not_there_are_said_to_be(tmp_path: Path) -> None:
    federation(tmp_path)
    path = tmp_path / NAME
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*text[:2], *text[3:]]))
    assert "**The audit log is not as it was written**" in written(tmp_path)
    assert "does not tell of every round" in written(tmp_path)
    path.unlink()
    without = written(tmp_path)
    assert "There is no audit log" in without
    assert "4 clients" in without, "then the roster is all there is"


def test_a_checkpoint_of_an_older_warren_has_a_card_too(tmp_path: Path) -> None:
    state = federation(tmp_path)
    checkpoint.save(tmp_path, replace(state, setup=()))
    assert "it was written by an older Warren" in written(tmp_path)


@pytest.mark.parametrize("wanted", ["7", "mine.npz", "-1"])
def test_a_version_that_never_was_has_no_card(tmp_path: Path, wanted: str) -> None:
    federation(tmp_path)
    with pytest.raises(ConfigError, match="is no version of this run: they are 0 to 6"):
        written(tmp_path, wanted)


def test_the_command_writes_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    federation(tmp_path)
    folder = ("--checkpoint-dir", str(tmp_path))
    assert main(["card", "--to", str(tmp_path / "CARD.md"), *folder]) == 0
    assert "\n# Model card" in (tmp_path / "CARD.md").read_text()
    capsys.readouterr()
    assert main(["card", "4", *folder]) == 0
    assert "version 4" in capsys.readouterr().out
    assert main(["card", "--to", str(tmp_path / "no" / "CARD.md"), *folder]) == 1


@given(st.text(max_size=40))
def test_whatever_a_cell_says_it_stays_in_its_cell(said: str) -> None:
    _, _, row = table(("a", "b"), [(said, "x")]).splitlines()
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>`\[\]]", row)


@given(st.lists(st.floats(-1e300, 1e300), max_size=200))
def test_a_curve_is_a_short_row_of_bars(values: list[float]) -> None:
    bars = sparkline(values)
    assert len(bars) == min(len(values), SPARK_POINTS)
    assert set(bars) <= set(SPARKS)


def test_a_curve_goes_up_and_down_as_its_values_do() -> None:
    assert sparkline(range(8)) == SPARKS
    assert sparkline([5.0, 5.0]) == SPARKS[3] * 2
    assert sparkline([0.0] * 100 + [1.0] * 100) == SPARKS[0] * 20 + SPARKS[-1] * 20


def test_the_history_of_setups_is_bounded_and_keeps_the_first() -> None:
    found = ()
    for version in range(200):
        found = since(found, version, {"settings": {"quorum": version}})
    assert len(found) == 50
    assert [found[0]["version"], found[-1]["version"]] == [0, 199]
    assert json.dumps(found)


# --- what Hugging Face's hub reads ---------------------------------------------------------------


def front_matter(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    told, dashes, rest = text.removeprefix("---\n").partition("\n---\n")
    assert dashes
    assert rest.startswith("\n# Model card")
    found = yaml.safe_load(told)
    assert isinstance(found, dict)
    return found


def test_the_card_begins_with_what_the_hub_reads(tmp_path: Path) -> None:
    federation(tmp_path)
    assert front_matter(written(tmp_path)) == {"tags": ["federated-learning", "warren"]}


def test_a_licence_and_a_library_are_there_if_they_are_told(tmp_path: Path) -> None:
    federation(tmp_path)
    words = ["card", "--checkpoint-dir", str(tmp_path), "--to", str(tmp_path / "CARD.md")]
    assert main([*words, "--license", "no", "--library-name", "keras"]) == 0
    found = front_matter((tmp_path / "CARD.md").read_text())
    assert (found["license"], found["library_name"]) == ("no", "keras")


@pytest.mark.parametrize("word", ["MIT", "my licence", "a: b", "x\ny", "", "-"])
def test_a_word_that_is_none_of_the_hubs_form_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    federation(tmp_path)
    assert main(["card", "--checkpoint-dir", str(tmp_path), f"--license={word}"]) == 2
    assert "write one of the hub's words, such as apache-2.0" in capsys.readouterr().err


def test_metrics_have_the_hubs_names_and_others_are_left_out(tmp_path: Path) -> None:
    state = federation(tmp_path)
    told = {"eval_auc": 0.9, "eval_accuracy": 0.8, "eval_loss": 0.1, "auc": 0.5}
    newest = replace(
        state.history[-1], metrics=told, evaluation=EvaluationSummary(state.version, 2, 10)
    )
    checkpoint.save(tmp_path, replace(state, history=(*state.history[:-1], newest)))
    assert front_matter(written(tmp_path))["metrics"] == ["accuracy", "roc_auc"]


def test_the_hub_hears_of_masks_and_of_privacy(tmp_path: Path) -> None:
    federation(tmp_path)
    with_setup(tmp_path, {"secure": "clip=1"})
    state = loaded(tmp_path)
    privacy = PrivacyState("gaussian:epsilon=2,delta=1e-05,clip=1", 6, 2, 4, "ab")
    checkpoint.save(tmp_path, replace(state, privacy=privacy))
    tags = front_matter(written(tmp_path))["tags"]
    assert tags[2:] == ["differential-privacy", "secure-aggregation"]
