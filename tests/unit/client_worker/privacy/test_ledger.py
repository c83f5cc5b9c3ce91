"""What is spent is on the disk before it is used, is never forgotten, and adds up."""

import json
import os
import subprocess
import sys
from math import sqrt
from pathlib import Path

import pytest

from client_worker.cli import main
from client_worker.privacy.ledger import FILE, Claim, Ledger, read, total
from client_worker.privacy.terms import Refused
from warren_shared.errors import ConfigError
from warren_shared.privacy.accountant import mu_of


def claim(unit: str = "record", run: str = "ab12", spent: int = 3, **more: object) -> Claim:
    steps = {"steps": 12, "examples": 50} if unit == "record" else {"contributions": 2}
    facts = {"federation": "f", "client": "alfa", "epsilon": 1.0, "delta": 1e-5, "clip": 1.0}
    return Claim.model_validate(
        {**facts, **steps, "unit": unit, "run": run, "spent": spent, **more}
    )


def test_a_claim_is_there_when_the_ledger_is_opened_again_and_for_its_owner_alone(
    tmp_path: Path,
) -> None:
    ledger = Ledger.open(tmp_path / "state")
    ledger.put(claim(spent=1))
    ledger.put(claim(spent=3, version=7))
    ledger.close()
    (found,) = read(tmp_path / "state")
    assert (found.spent, found.version) == (3, 7)
    assert found.first <= found.last
    assert (tmp_path / "state" / FILE).stat().st_mode & 0o077 == 0


def test_other_terms_and_other_runs_are_claims_of_their_own(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path)
    for one in (claim(), claim(run="cd34"), claim(epsilon=2.0), claim(unit="client", spent=0)):
        ledger.put(one)
    assert len(read(tmp_path)) == 4


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"format": 2, "claims": []}', '{"format": 1, "claims": [{"unit": "record"}]}',
     '{"format": 1, "claims": [], "more": 1}'],
)  # fmt: skip
def test_a_ledger_that_cannot_be_read_is_no_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match="must not be forgotten: restore it") as caught:
        Ledger.open(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("more", [{"spent": 13}, {"spent": -1}, {"steps": None}, {"delta": 0.0}])
def test_a_claim_that_cannot_be_is_none(more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        claim(**more)


def test_what_the_disk_does_not_take_is_not_granted(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path)
    (tmp_path / f".{FILE}.tmp").mkdir()  # in the way of the new file
    with pytest.raises(Refused, match="nothing was trained"):
        ledger.put(claim())
    assert ledger.claims == []


def test_a_folder_is_for_one_process(tmp_path: Path) -> None:
    with_it = Ledger.open(tmp_path)
    code = (
        "import sys; from pathlib import Path; from client_worker.privacy.ledger import Ledger\n"
        "Ledger.open(Path(sys.argv[1]))"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    other = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ)
    assert "another client's, which runs" in other.stderr
    with_it.close()
    subprocess.run(words, check=True, env=os.environ)


def test_part_of_the_steps_is_that_part_of_the_square() -> None:
    assert claim(spent=12).mu == pytest.approx(mu_of(1, 1e-5))
    assert claim(spent=3).mu == pytest.approx(mu_of(1, 1e-5) / 2)
    assert claim(spent=0).mu == 0


def test_runs_add_up_as_gaussians_do() -> None:
    both = total([claim(spent=12), claim(run="cd34", spent=12)])
    assert both.unit == "record"
    assert both.mu == pytest.approx(mu_of(1, 1e-5) * sqrt(2))
    clients = total([claim(unit="client"), claim(unit="client", run="cd34", epsilon=2.0)])
    assert clients.unit == "client"
    assert clients.mu == pytest.approx(sqrt(mu_of(1, 1e-5) ** 2 + mu_of(2, 1e-5) ** 2))
    assert total([]).epsilon(1e-5) == 0


def test_to_a_record_a_promise_to_clients_is_worth_half() -> None:
    mixed = total([claim(spent=12), claim(unit="client", run="cd34")])
    assert mixed.unit == "record"
    assert mixed.mu == pytest.approx(mu_of(1, 1e-5) * sqrt(1 + 4))


def test_the_ledger_is_printed_for_people_and_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger.open(tmp_path)
    ledger.put(claim(spent=3))
    ledger.put(claim(unit="client", run="cd34"))
    words = ["privacy", "--state-dir", str(tmp_path), "--privacy-limit", "epsilon=8,delta=1e-6"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "3 of 12 steps" in said
    assert "of 8 that the limit allows, at delta 1e-06" in said
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in found["runs"]] == ["ab12", "cd34"]
    assert found["total"]["unit"] == "record"
    assert found["total"]["mu"] == pytest.approx(total(ledger.claims).mu)
    assert found["runs"][1]["epsilon_spent"] == pytest.approx(1.0)


def test_a_folder_without_a_ledger_has_claimed_nothing_and_no_folder_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["privacy", "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no run has claimed anything\n"
    assert main(["privacy", "--state-dir", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert main(["privacy"]) == 2
