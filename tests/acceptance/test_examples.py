"""The demonstrations as a person runs them, only shorter."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.processes import ROOT


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
    assert report["bytes_down"] >= report["bytes_up"]
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
    done = run("examples.breast_cancer", "--out", str(tmp_path), "--seeds", "1", "--rounds", "4")
    assert done.returncode == 0, done.stderr
    check_report(tmp_path, rounds=4)
    assert "federated" in done.stdout
    assert "Traceback" not in done.stderr
    assert started_from(tmp_path) == []


def test_the_hospitals_train_and_report(tmp_path: Path) -> None:
    folder = os.environ.get("WARREN_HEART_DISEASE_DATA")
    if folder is None:
        pytest.skip("WARREN_HEART_DISEASE_DATA names no folder with the heart disease data")
    options = ("--out", str(tmp_path), "--seeds", "1", "--rounds", "4")
    done = run("examples.heart_disease", "--data", folder, *options)
    assert done.returncode == 0, done.stderr
    check_report(tmp_path, rounds=4)


def test_the_hospitals_without_their_data_are_one_line(tmp_path: Path) -> None:
    for options in ([], ["--data", str(tmp_path)]):
        done = run("examples.heart_disease", *options)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "UCI Machine Learning Repository" in done.stderr


def test_one_interrupt_ends_the_demo_and_all_it_started(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("examples.breast_cancer", "--out", str(tmp_path), "--seeds", "1"),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    watchdog = threading.Timer(100, process.kill)
    watchdog.start()
    for line in process.stdout:
        if "round 1:" in line:
            process.send_signal(signal.SIGINT)
            break
    _, complaints = process.communicate()
    watchdog.cancel()
    assert process.returncode == 130
    assert "Traceback" not in complaints
    assert started_from(tmp_path) == []
