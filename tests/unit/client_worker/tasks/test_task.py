"""Tasks found by import path and made from words: one line says what is wrong."""

import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_worker import Task
from client_worker.tasks.task import TaskSource
from warren_shared.errors import ConfigError

LINE = "tests.tasks:line"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Write a module that can be imported in this test, under a name of its own."""
    monkeypatch.syspath_prepend(tmp_path)

    def written(text: str) -> str:
        name = f"task_of_{abs(hash((str(tmp_path), text)))}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        return name

    return written


@pytest.mark.parametrize(
    "path", ["", "tests", "tests.tasks", ":line", "tests.tasks:", ".tasks:line", "..:line"]
)
def test_a_path_of_the_wrong_form_is_told_the_right_one(path: str) -> None:
    with pytest.raises(ConfigError, match=r"write it as package\.module:attribute"):
        TaskSource(path, [])


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("no_such_module:task", "no module no_such_module: start in the folder that holds it"),
        ("tests.no_such:task", r"no module tests\.no_such: start in the folder"),
        ("no_such_package.tasks:task", "no module no_such_package: start in the folder"),
        ("tests.tasks:no_such", r"tests\.tasks has no no_such"),
        ("tests.tasks:not_a_task", "neither a Task nor a function"),
    ],
)
def test_a_path_that_leads_nowhere_is_told_where_it_ended(path: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        TaskSource(path, [])


def test_a_task_in_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "task_of_this_folder.py").write_text(
        "from client_worker import Task\ntask = Task(None, [1], 0.5)\n"
    )
    monkeypatch.setattr("sys.path", [])
    monkeypatch.chdir(tmp_path)
    source = TaskSource("task_of_this_folder:task", [])
    assert source.make(source.arguments({"seed": 1})).learning_rate == 0.5
    with pytest.raises(ConfigError, match="--seed: the task task_of_this_folder:task takes none"):
        TaskSource("task_of_this_folder:task", ["--seed", "1"])


def test_a_bug_in_a_task_shows_its_cause_first_and_its_traceback_in_the_log(
    write,  # type: ignore[no-untyped-def]
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(
        ConfigError, match=r"fails: ZeroDivisionError: .* \(.*\.py:\d+, in <module>"
    ):
        TaskSource(f"{write('1 / 0')}:task", [])
    assert caplog.records[-1].exc_info is not None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("def task(:\n    pass", r"\.py, line \d+: "),
        ("def task(where: 'Folder'): ...", r"task: an annotation .*'Folder' is not defined"),
        ("def task(where: 'list['): ...", r"task: an annotation"),
        ("from numpy import nothing", r"ImportError: cannot import name 'nothing'"),
        ("raise ValueError('a\\nb')", r"ValueError: a b"),
    ],
)
def test_a_module_that_cannot_be_used_is_one_line(write, text: str, what: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=what) as refusal:
        TaskSource(f"{write(text)}:task", [])
    assert "\n" not in str(refusal.value)


def test_a_type_that_no_flag_can_have_is_one_line(write) -> None:  # type: ignore[no-untyped-def]
    text = "import numpy\ndef task(rows: numpy.ndarray): ..."
    with pytest.raises(ConfigError, match=r"--rows: .* no type that a flag can have"):
        TaskSource(f"{write(text)}:task", ["--rows", "1"])


def test_open_parameters_are_not_needed(write) -> None:  # type: ignore[no-untyped-def]
    text = (
        "from tests.tasks import line\n"
        "def task(*words, shard: int = 0, **more): return line(shard)\n"
    )
    source = TaskSource(f"{write(text)}:task", ["--shard", "2"])
    assert source.make(source.arguments({})).num_examples is None


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--colour", "red"], "unknown argument --colour: .* takes --shard, --features"),
        (["stray"], "unknown argument stray"),
        (["--shard"], "--shard needs a value"),
        (["--shard", "two"], "--shard two: write a whole number"),
        (["--learning-rate=fast"], "--learning-rate fast: write a number"),
    ],
)
def test_arguments_that_the_task_does_not_take_are_one_line(words: list[str], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        TaskSource(LINE, words)
    assert "\n" not in str(caught.value)


def test_what_a_task_needs_is_named() -> None:
    source = TaskSource("tests.tasks:missing_data", [])
    with pytest.raises(ConfigError, match=r"the task tests\.tasks:missing_data needs --data"):
        source.make(source.arguments({}))


def test_what_is_missing_may_come_with_the_model() -> None:
    source = TaskSource("tests.tasks:missing_data", [])
    assert source.arguments({"data": "x.csv"}) == {"data": "x.csv"}


@given(
    st.dictionaries(st.sampled_from(["shard", "features"]), st.integers(0, 99)),
    st.dictionaries(st.sampled_from(["shard", "features", "other"]), st.integers(0, 99)),
)
def test_config_fills_exactly_what_the_command_line_left_open(
    given_: dict[str, int], config: dict[str, int]
) -> None:
    words = [word for name, value in given_.items() for word in (f"--{name}", str(value))]
    filled = TaskSource(LINE, words).arguments(config)
    known = {name: value for name, value in config.items() if name != "other"}
    assert filled == known | given_


def test_types_are_those_of_the_parameters(write) -> None:  # type: ignore[no-untyped-def]
    name = write(
        """
        from pathlib import Path
        from typing import Literal
        from client_worker import Task
        def task(folder: Path, deep: bool, size: int | None = None,
                 mode: Literal["a", "b"] = "a", plain="x"):
            return Task((folder, deep, size, mode, plain), [1])
        """
    )
    source = TaskSource(f"{name}:task", ["--folder", "/x", "--deep", "true", "--plain=7"])
    arguments = source.arguments({"mode": "b", "size": 3})
    assert source.make(arguments).model == (Path("/x"), True, 3, "b", "7")
    with pytest.raises(ConfigError, match="--mode c: there are a and b"):
        source.arguments({"mode": "c"})


def test_annotations_may_be_strings(write) -> None:  # type: ignore[no-untyped-def]
    name = write(
        """
        from __future__ import annotations
        from client_worker import Task
        def task(shard: int) -> Task:
            return Task(None, [shard])
        """
    )
    source = TaskSource(f"{name}:task", ["--shard", "3"])
    assert source.make(source.arguments({})).data == [3]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("open('/no/such/file')", "cannot be made: .*No such file"),
        ("raise ValueError('3 columns, expected 14')", "cannot be made: 3 columns, expected 14"),
        ("return 7", "returned int, not a Task"),
    ],
)
def test_a_task_that_cannot_be_made_is_one_line(write, body: str, what: str) -> None:  # type: ignore[no-untyped-def]
    source = TaskSource(f"{write(f'def task():{chr(10)}    {body}')}:task", [])
    with pytest.raises(ConfigError, match=what):
        source.make({})


def test_a_class_of_tasks_is_a_function_that_returns_one(write) -> None:  # type: ignore[no-untyped-def]
    name = write(
        """
        from client_worker import Task
        class Mine(Task):
            def __init__(self, shard: int = 0):
                super().__init__(None, [shard])
        """
    )
    source = TaskSource(f"{name}:Mine", ["--shard", "5"])
    made = source.make(source.arguments({}))
    assert isinstance(made, Task)
    assert made.data == [5]
