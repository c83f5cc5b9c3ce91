"""The README, run as a reader would run it, and the classes in one process."""

from pathlib import Path

import pytest

from tests.support import documents
from tests.support.documents import blocks

README = "README.md"
OWN = "docs/bring-your-own.md"


def test_the_example_in_one_process_finds_the_line(tmp_path: Path) -> None:
    (example,) = [block for block in blocks(OWN, "python") if block.is_program]
    check = "\nassert abs(kernel.ravel() - [2, -1, 0.5]).max() < 0.1 and abs(bias - 4) < 0.1\n"
    documents.run_python(example.text + check, tmp_path)


@pytest.mark.parametrize("task", ["my_task", "my_object"])
def test_the_commands_of_the_readme_federate_tasks_of_both_documents(
    tmp_path: Path, task: str
) -> None:
    """With Keras, and with a plain object that has three methods."""
    both = [*blocks(README, "python"), *blocks(OWN, "python")]
    files = [block for block in both if block.name == f"{task}.py"]
    said = documents.run(
        [*files, *blocks(README, "sh")],
        tmp_path,
        change=lambda script: script.replace("my_task:", f"{task}:"),
    )
    assert said.count("version 5 is final") == 2, said


@pytest.mark.slow
def test_the_lines_for_python_train_the_readmes_task(tmp_path: Path) -> None:
    (task,) = [block for block in blocks(README, "python") if block.name == "my_task.py"]
    (lines,) = [block for block in blocks(README, "python") if block.is_program]
    (tmp_path / "my_task.py").write_text(task.text)
    said = documents.run_python(lines.text, tmp_path)
    assert said.startswith("20 rounds, 60 updates, "), said
    assert "<polyline" in (tmp_path / "curve.svg").read_text()
