"""What the coordinator's folder says of each client after a run: its code, its figures."""

import json
from pathlib import Path

import pytest

from coordinator_worker.cli import main
from tests.acceptance.test_federation import start_client, start_coordinator
from tests.conftest import Place
from tests.support.processes import workers

ROUNDS = 3


def test_each_clients_code_and_curve_are_there_after_a_run(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(*words: str) -> list[dict[str, object]]:
        capsys.readouterr()
        assert main([*words, "--checkpoint-dir", str(tmp_path), "--json"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    with workers() as started:
        started += [start_client(place, user, "line") for user in ("alfa", "bravo")]
        arguments = ("--quorum", "2", "--rounds", str(ROUNDS))
        started.append(start_coordinator(place, tmp_path, *arguments))
        assert [worker.end() for worker in started] == [0, 0, 0]
    there = [line for line in lines("participation") if line["status"] != "unseen"]
    codes = {line["client"]: line["code"] for line in there}
    assert set(codes) == {"alfa", "bravo"}
    (code,) = set(codes.values())
    assert len(str(code)) == 12
    accepted = [
        line
        for line in map(json.loads, (tmp_path / "audit.jsonl").read_text().splitlines())
        if line["event"] == "accepted"
    ]
    assert {line["code"] for line in accepted} == {code}
    rows = lines("history", "--clients")
    assert sorted((row["version"], row["client"]) for row in rows) == [
        (version, client) for version in range(1, ROUNDS + 1) for client in ("alfa", "bravo")
    ]
    assert all("metric/loss" in row and "metric/eval_loss" in row for row in rows)
    (alfa,) = lines("history", "--clients", "alfa")[-1:]
    assert (alfa["version"], alfa["base_version"], alfa["staleness"]) == (ROUNDS, ROUNDS - 1, 0)
