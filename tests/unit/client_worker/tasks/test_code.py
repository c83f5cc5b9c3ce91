"""The version of a task's code: the same for the same code, wherever and however it is stored."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from client_worker import Task
from client_worker.tasks.task import TaskSource

Site = Callable[..., str]
TASK = "from client_worker import Task\n\n\ndef site() -> Task: ...\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The version that a site says which has these files and runs ``path``."""

    def code(path: str, files: dict[str, str]) -> str:
        folder = tmp_path / f"site-{len(list(tmp_path.iterdir()))}"
        for name, text in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode())
        with monkeypatch.context() as patch:
            for module in [m for m in sys.modules if m.partition(".")[0] in ("task_of_ecg", "ecg")]:
                patch.delitem(sys.modules, module)
            patch.syspath_prepend(folder)
            return TaskSource(path, []).code

    return code


def test_a_module_is_known_by_its_text_and_not_by_its_place(site: Site) -> None:
    first = site("task_of_ecg:site", {"task_of_ecg.py": TASK})
    assert len(first) == 12
    assert int(first, 16)
    assert site("task_of_ecg:site", {"task_of_ecg.py": TASK, "other.py": "x = 1"}) == first
    assert site("task_of_ecg:site", {"task_of_ecg.py": TASK + "RATE = 0.2\n"}) != first


def test_line_ends_of_windows_make_no_other_version(site: Site) -> None:
    plain = site("task_of_ecg:site", {"task_of_ecg.py": TASK})
    assert site("task_of_ecg:site", {"task_of_ecg.py": TASK.replace("\n", "\r\n")}) == plain


def test_a_package_is_known_by_all_its_modules_and_their_names(site: Site) -> None:
    files = {"ecg/__init__.py": "", "ecg/tasks/__init__.py": "", "ecg/tasks/site.py": TASK}
    whole = files | {"ecg/model.py": "WIDTH = 8\n"}
    first = site("ecg.tasks.site:site", whole)
    assert site("ecg.tasks.site:site", whole | {"ecg/notes.txt": "ours"}) == first
    assert site("ecg.tasks.site:site", whole | {"ecg/model.py": "WIDTH = 9\n"}) != first
    assert site("ecg.tasks.site:site", files | {"ecg/net.py": "WIDTH = 8\n"}) != first
    assert site("ecg.tasks.site:site", whole | {"ecg/.git/hook.py": "x"}) == first


def test_a_package_without_init_is_a_package_too(site: Site) -> None:
    files = {"ecg/site.py": TASK, "ecg/model.py": "WIDTH = 8\n"}
    assert site("ecg.site:site", files) != site("ecg.site:site", files | {"ecg/model.py": ""})


def test_a_task_of_ours_has_the_release() -> None:
    path = "client_worker.tasks.feature_statistics:statistics_task"
    assert TaskSource(path, []).code.startswith("warren-")


def test_what_is_in_no_file_has_no_version() -> None:
    def site() -> Task: ...

    assert TaskSource.of(site, {}).code
    site.__module__ = "a_notebook"
    assert TaskSource.of(site, {}).code == ""
