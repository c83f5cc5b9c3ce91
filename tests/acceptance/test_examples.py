"""The demonstrations as a person runs them, only shorter."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.processes import BIN, ROOT


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=150, check=False
    )


def started_from(folder: Path) -> list[str]:
    """Processes whose command line or environment names ``folder``."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if any(str(folder) in word for word in words) and process.pid != os.getpid():
            found.append(" ".join(process.cmdline()))
    return found


def check_report(folder: Path, rounds: int) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert report["clients"] == 4
    assert report["rounds"] == rounds
    assert report["updates_folded"] == 4 * rounds
    assert report["bytes_up"] > 0
    assert report["masked"] or report["bytes_down"] >= report["bytes_up"]
    assert report["seconds"] > 0
    assert report["broker"]["version"].count(".") == 2
    assert len(report["local"]["auc"]) == 4
    assert 0.5 < report["federated"]["auc"] <= 1.0
    assert 0.5 < report["pooled"]["auc"] <= 1.0
    assert 0 < report["coordinator"]["rss_bytes"] < 120e6
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 3
    for outside in ("http:", "https:", "src=", "<script", "url("):
        assert outside not in page, "the page must need nothing but itself"


def test_the_demo_trains_reports_and_leaves_nothing_running(tmp_path: Path) -> None:
    demo = [str(BIN / "coordinator-worker"), "demo", "--out", str(tmp_path)]
    done = subprocess.run(
        [*demo, "--seeds", "1", "--rounds", "4"],
        cwd=tmp_path, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_report(tmp_path, rounds=4)
    assert "federated" in done.stdout
    assert "Traceback" not in done.stderr
    assert started_from(tmp_path) == []


def test_the_demo_without_what_it_needs_is_one_line(tmp_path: Path) -> None:
    alone = os.environ.get("TEST_COORDINATOR_WORKER")
    assert alone, "make test names a coordinator that is installed without TensorFlow"
    done = subprocess.run(
        [alone, "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pip install 'warren-fl[demo]'" in line
    assert not list(tmp_path.iterdir())


def test_the_demo_runs_with_everything_encrypted_and_masked(tmp_path: Path) -> None:
    options = ("--tls", "--secure", "--seeds", "1", "--rounds", "2")
    done = run("warren_examples.breast_cancer", "--out", str(tmp_path), *options)
    assert done.returncode == 0, done.stderr
    check_report(tmp_path, rounds=2)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["encrypted"]
    assert report["masked"]
    assert "Who could have seen what" in done.stdout
    assert "2 sums of 4 sites" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "keeper" / "ledger.jsonl").read_text().count('"revealed"') == 2
    # The node has no port but the encrypted one, so all that was aggregated came through it.
    (bundle, *_others) = tmp_path.rglob("coordinator.env")
    assert "=amqps://" in bundle.read_text().replace("'", "").replace('"', "")


def test_the_hospitals_train_and_report(tmp_path: Path) -> None:
    folder = os.environ.get("WARREN_HEART_DISEASE_DATA")
    if folder is None:
        pytest.skip("WARREN_HEART_DISEASE_DATA names no folder with the heart disease data")
    options = ("--out", str(tmp_path), "--seeds", "1", "--rounds", "4")
    done = run("warren_examples.heart_disease", "--data", folder, *options)
    assert done.returncode == 0, done.stderr
    check_report(tmp_path, rounds=4)


def test_the_hospitals_without_their_data_are_one_line(tmp_path: Path) -> None:
    for options in ([], ["--data", str(tmp_path)]):
        done = run("warren_examples.heart_disease", *options)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "UCI Machine Learning Repository" in done.stderr


@contextmanager
def demo_in_round_one(out: Path) -> Iterator[subprocess.Popen[str]]:
    """A demonstration that has closed its first round and would go on for long."""
    options = ("--out", str(out), "--seeds", "1", "--rounds", "500")
    process = subprocess.Popen(
        command("warren_examples.breast_cancer", *options),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    watchdog = threading.Timer(100, process.kill)
    watchdog.start()
    assert process.stdout is not None
    for line in process.stdout:
        if "round 1:" in line:
            break
    yield process
    watchdog.cancel()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_ends_the_demo_and_all_it_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    with demo_in_round_one(tmp_path) as process:
        process.send_signal(number)
        _, complaints = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in complaints
    assert started_from(tmp_path) == []


def test_a_client_that_dies_ends_the_demo_with_one_line_that_names_its_log(tmp_path: Path) -> None:
    with demo_in_round_one(tmp_path) as process:
        (client,) = [
            child
            for child in psutil.Process(process.pid).children()
            if "screening-centre.env" in " ".join(child.cmdline())
        ]
        client.kill()
        _, complaints = process.communicate()
    assert process.returncode == 1
    assert complaints.count("\n") == 1
    assert "screening-centre was ended by SIGKILL" in complaints
    assert str(tmp_path / "logs" / "screening-centre.log") in complaints
    assert started_from(tmp_path) == []
