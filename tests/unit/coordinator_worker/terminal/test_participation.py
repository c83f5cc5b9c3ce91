"""The participation report: what it says of the code that sites run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator_worker.state.roster import with_codes
from coordinator_worker.storage import checkpoint
from coordinator_worker.terminal.participation import report
from tests.support.runs import federation

DIFFERS = "sites run different versions of the task's code"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def with_code(folder: Path, **codes: str) -> None:
    state = federation(folder)
    checkpoint.save(folder, replace(state, roster=with_codes(state.roster, codes)))


def test_a_column_says_which_code_a_site_runs_if_a_site_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation(tmp_path)
    report(tmp_path, as_json=False)
    assert "code" not in capsys.readouterr().out
    with_code(tmp_path, alfa="0123456789ab", bravo="0123456789ab")
    report(tmp_path, as_json=False)
    said = capsys.readouterr().out
    assert said.count("0123456789ab") == 2
    assert DIFFERS not in said


def test_a_line_says_which_sites_run_another_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_code(tmp_path, alfa="0123456789ab", bravo="0123456789ab", charlie="fedcba987654")
    report(tmp_path, as_json=False)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"{DIFFERS}: 0123456789ab at alfa, bravo; fedcba987654 at charlie"


def test_programs_are_told_of_each_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_code(tmp_path, alfa="0123456789ab")
    report(tmp_path, as_json=True)
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    assert {line["client"]: line["code"] for line in lines} == {
        "alfa": "0123456789ab", "bravo": "", "charlie": "", "echo": "",
    }  # fmt: skip


def test_a_narrow_terminal_has_the_line_and_no_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with_code(tmp_path, alfa="0123456789ab", bravo="0123456789ab", charlie="fedcba987654")
    report(tmp_path, as_json=False)
    table, _, line = capsys.readouterr().out.partition(DIFFERS)
    assert "0123" not in table
    assert "fedcba987654" in line
