"""A round where the system lacks what Linux has, as macOS does, with what takes its place."""

import sys
from pathlib import Path

import pytest

from tests.acceptance.test_federation import final_weights
from tests.conftest import Place
from tests.support.processes import Worker, workers

WITHOUT = """#!{python}
import ctypes, os, socket, termios
from importlib import import_module
class Gone:
    def __get__(self, *_):
        raise AttributeError("not on this system")
for name in ("fdatasync", "posix_fadvise", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
socket.socket.recvmsg_into = socket.socket.sendmsg = Gone()
del termios.TIOCOUTQ
class Library:
    def __init__(self, *_):
        pass
ctypes.CDLL = Library
raise SystemExit(import_module("{package}.cli").main())
"""


@pytest.fixture
def on_another_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("coordinator-worker", "client-worker"):
        program = tmp_path / command
        program.write_text(WITHOUT.format(python=sys.executable, package=command.replace("-", "_")))
        program.chmod(0o755)
        monkeypatch.setenv(f"TEST_{command.upper().replace('-', '_')}", str(program))


@pytest.mark.usefixtures("on_another_system")
def test_a_round_without_what_only_linux_has(place: Place, tmp_path: Path) -> None:
    task = ("--task", "tests.tasks:ledger", "--size", "600000")  # three messages
    with workers() as started:
        for index, user in enumerate(("alfa", "bravo")):
            kept = ("--state-dir", str(tmp_path / user))
            told = (*task, "--index", str(index), *kept)
            started.append(Worker("client-worker", place.urls[user], *told))
        goal = ("--quorum", "2", "--rounds", "3", "--checkpoint-dir", str(tmp_path / "run"))
        started.append(Worker("coordinator-worker", place.urls["coordinator"], *goal))
        assert [worker.end() for worker in started] == [0, 0, 0], started[-1].said
    (weights,) = final_weights(tmp_path / "run")
    assert weights.ravel()[:2].sum() == 3.0
