"""The run in ``tests/golden/federation``: what older versions wrote is read, and written alike.

A test that fails here has found a change of a format. Golden files that are there are never
changed; what is new has a default that is left out.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from coordinator_worker.monitoring.events import Stamped
from coordinator_worker.monitoring.federation_view import FederationView
from coordinator_worker.storage import audit_files, checkpoint
from coordinator_worker.storage.audit_log import Audit
from coordinator_worker.storage.version_archive import FOLDER, facts
from coordinator_worker.versions import audit_report
from coordinator_worker.versions.registry import ModelRegistry
from tests.golden.federation.run import RUN, Run, history_of
from tests.support.processes import ROOT
from tests.support.runs import loaded
from warren_shared import strict_json

GOLDEN = ROOT / "tests" / "golden" / "federation"


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder as it was."""
    made = tmp_path / "was"
    (made / FOLDER).mkdir(parents=True)
    for name in ("a.checkpoint", "audit.jsonl"):
        shutil.copy(GOLDEN / name, made)
    shutil.copy(GOLDEN / "version-6.safetensors", made / FOLDER / f"{RUN}-000006.safetensors")
    return made


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run, made by today's code."""
    run = Run(tmp_path_factory.mktemp("today"))
    run.play()
    return run


def test_a_checkpoint_is_read_and_written_again_in_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    again.mkdir()
    checkpoint.save(again, loaded(folder))
    assert (again / "a.checkpoint").read_bytes() == golden("a.checkpoint")


def test_todays_code_writes_the_checkpoint_and_the_audit_log_of_the_run(played: Run) -> None:
    for name in ("a.checkpoint", "audit.jsonl"):
        assert (played.folder / name).read_bytes() == golden(name)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_the_history_of_a_checkpoint_is_printed_as_it_was(folder: Path, ending: str) -> None:
    assert history_of(loaded(folder), ending) == golden(f"history.{ending}").decode()


def test_an_audit_log_is_read_and_gone_on_with(folder: Path) -> None:
    audit = Audit(folder)
    audit.take_over(loaded(folder))
    audit.give_back()
    lines = list(audit_files.read(folder))
    assert not list(audit_report.faults(lines, loaded(folder).audit_head))
    assert [version for _, version in audit_report.versions(lines)] == [1, 2, 3, 4, 5, 6]
    assert json.loads(lines[-1][1])["event"] == "resumed"


def test_a_past_version_says_how_it_was_made(folder: Path) -> None:
    past = ModelRegistry(folder)
    kept = past.kept[6]
    assert facts(past.state, 7, kept.facts["time"]).items() <= kept.facts.items()
    assert kept.record is not None
    assert strict_json.dumps(kept.record.to_dict(), separators=(",", ":")) == kept.facts["record"]


def test_todays_code_says_what_was_said_of_the_run(played: Run) -> None:
    was, now = (map(json.loads, lines) for lines in (events(), played.outbox.events))
    for before, after in zip(was, now, strict=True):
        assert list(map(_without_prose, before.items())) == list(map(_without_prose, after.items()))


def test_events_come_to_the_view_that_they_came_to() -> None:
    view = FederationView()
    for line in events():
        view.apply(Stamped.from_dict(json.loads(line)))
    assert strict_json.dumps(view.as_dict()).encode() == golden("state.json").strip()
    again = FederationView.of(json.loads(golden("state.json")))
    assert strict_json.dumps(again.as_dict()).encode() == golden("state.json").strip()


def events() -> list[bytes]:
    return golden("events.jsonl").splitlines()


def _without_prose(item: tuple[str, Any]) -> tuple[str, Any]:
    """What people are told in words is no format; that it is there, and where, is."""
    name, value = item
    return (name, str) if name == "words" else (name, value)
