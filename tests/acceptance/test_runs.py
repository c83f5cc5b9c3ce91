"""``coordinator-worker runs``: many runs in one folder, and why each ended."""

import json
import os
import subprocess
from pathlib import Path

from tests.conftest import Place
from tests.support.processes import BIN, Worker, workers


def said(*words: str) -> "subprocess.CompletedProcess[str]":
    program = [BIN / "coordinator-worker", "runs", *words]
    wide = os.environ | {"COLUMNS": "200"}
    return subprocess.run(
        program, capture_output=True, text=True, check=False, timeout=60, env=wide
    )


def test_runs_are_listed_by_their_folders(place: Place, tmp_path: Path) -> None:
    for name, goal in (("a/short", ("--rounds", "2")), ("b", ("--target", "eval_loss<=1000"))):
        with workers() as started:
            task = ("--task", "tests.tasks:line")
            started.append(Worker("client-worker", place.urls["alfa"], *task))
            told = ("--checkpoint-dir", str(tmp_path / name), "--quorum", "1", *goal)
            more = ("--server-optimizer", "momentum") if name == "b" else ()
            url = place.urls["coordinator"]
            started.append(Worker("coordinator-worker", url, *told, *more))
            assert [worker.end() for worker in started] == [0, 0], started[-1].said
    done = said("--runs-dir", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    short, other = map(json.loads, done.stdout.splitlines())
    assert (short["name"], short["version"]) == ("a/short", 2)
    assert short["ended"] == "--rounds 2 are made"
    assert other["name"] == "b"
    assert other["ended"].startswith("--target eval_loss<=1000 is met")
    assert short["differs"]["server_optimizer"] == "sgd"
    assert other["differs"]["server_optimizer"] == "momentum"
    assert "loss" in short["metrics"]
    words = said("--runs-dir", str(tmp_path)).stdout
    assert "a/short" in words
    assert "--rounds 2 are made" in words


def test_a_folder_without_runs_is_one_line(tmp_path: Path) -> None:
    done = said("--runs-dir", str(tmp_path))
    assert done.returncode == 2
    assert "holds no checkpoint" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
