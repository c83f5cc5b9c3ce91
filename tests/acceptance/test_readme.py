"""Every block of the README, run as a reader would run it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator_worker.goal import Goal
from coordinator_worker.learning import Learning
from coordinator_worker.settings import CoordinatorSettings
from shared.settings import load
from tests.processes import BIN, ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert found, f"the README has no {language} block"
    return found


def save_tasks(folder: Path) -> None:
    for block in blocks("python"):
        if name := re.match(r"# (\w+\.py)\n", block):
            (folder / name[1]).write_text(block)


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
    return kept | {"PATH": f"{BIN}:{kept['PATH']}", "CUDA_VISIBLE_DEVICES": "-1"}


def test_the_example_in_one_process_finds_the_line(tmp_path: Path) -> None:
    (example,) = [block for block in blocks("python") if "FederatedCoordinator" in block]
    check = "\nassert abs(kernel.ravel() - [2, -1, 0.5]).max() < 0.1 and abs(bias - 4) < 0.1\n"
    done = subprocess.run(
        [sys.executable, "-c", example + check], cwd=tmp_path, env=environment(), check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize("task", ["my_task", "plain_task"])
def test_the_commands_of_the_readme_federate_the_tasks_of_the_readme(
    tmp_path: Path, task: str
) -> None:
    save_tasks(tmp_path)
    (commands,) = blocks("sh")
    script = "set -e\ntrap 'broker-config down' EXIT\n" + commands.replace("my_task", task)
    done = subprocess.run(
        ["bash", "-c", script + "\nwait\n"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("version 5 is final") == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_every_file_that_the_readme_links_to_exists() -> None:
    linked = re.findall(r"\]\(([\w./-]+)\)", README)
    missing = [path for path in linked if not (ROOT / path).exists()]
    assert linked
    assert not missing


def test_the_algorithm_of_the_readme_is_one_that_the_coordinator_takes() -> None:
    (command,) = [block for block in blocks("console") if "--aggregator" in block]
    program, *words = shlex.split(command.replace("\\\n", " "))
    assert program == "coordinator-worker"
    words[words.index("--env-file") : words.index("--env-file") + 2] = []
    words += ["--broker-url", "amqp://coordinator:x@localhost/f"]
    settings, _ = load(CoordinatorSettings, description="", argv=words)
    Learning.of(settings).policy(settings)
    Goal.of(settings)
