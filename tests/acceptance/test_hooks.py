"""Parts of one's own in the workers: listeners, hooks of a task, aggregator, server optimizer."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from coordinator_worker.storage import checkpoint
from tests.conftest import CLIENTS, Place
from tests.support.processes import ROOT, Worker, workers

PARTS = "warren_examples.hooks.parts"
OWN = """
import numpy as np
from client_worker.runtime.events import UpdateConfirmed
from tests.tasks import line

class Failing:
    def on_event(self, event):
        raise RuntimeError(f"a listener of {type(event).__name__}")

def hears(event):
    if isinstance(event, UpdateConfirmed):
        with open("confirmed.txt", "a") as file:
            print(event.version, file=file)

def fails():
    raise LookupError("not today")

def bad_step():
    from coordinator_worker import ServerOptimizer
    def step(delta, old, slots, scratch):
        raise FloatingPointError("my own step")
    return ServerOptimizer(step)

calls = []

def task(shard=0):
    made = line(shard)
    def once(update):
        assert update.num_examples == 100 and len(update.delta) == 2
        calls.append(update)
        if len(calls) == 2:
            raise ArithmeticError("my own hook")
    made.on_trained = once
    return made
"""


def start(folder: Path, command: str, url: str, *words: str) -> Worker:
    """A worker in ``folder``, where the user's own modules are."""
    (folder / "own.py").write_text(OWN)
    found = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)]).strip(os.pathsep)
    return Worker(command, url, *words, tree=folder, PYTHONPATH=found)


def coordinator(place: Place, folder: Path, *words: str) -> Worker:
    told = ("--metrics-port", "off", "--checkpoint-dir", str(folder / "run"))
    return start(folder, "coordinator-worker", place.urls["coordinator"], *told, *words)


def client(place: Place, folder: Path, number: int, *words: str) -> Worker:
    return start(folder, "client-worker", place.urls[CLIENTS[number]], *words)


def test_the_examples_parts_work_in_both_workers(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        started.append(
            coordinator(
                place, tmp_path, "--quorum", "3", "--rounds", "4", "--listen", f"{PARTS}:Log",
                "--aggregator", f"{PARTS}:without_extremes,share=0.34",
                "--server-optimizer", f"{PARTS}:signed,learning_rate=0.5",
            )
        )  # fmt: skip
        for number in range(3):
            task = ("--task", f"{PARTS}:task", "--shard", str(number))
            started.append(client(place, tmp_path, number, *task))
        assert [worker.end() for worker in started] == [0] * 4
    rounds = [
        json.loads(line) for line in (tmp_path / "hooks-out/rounds.jsonl").read_text().splitlines()
    ]
    assert [each["version"] for each in rounds] == [1, 2, 3, 4]
    state = checkpoint.load(tmp_path / "run")
    assert state is not None
    # From zeros each step of the server optimizer is half a unit, and so is every weight.
    assert state.weights[0].ravel().tolist() == [1.0, 2.0, 2.0]
    notes = (tmp_path / "hooks-out/site-1.txt").read_text().splitlines()
    assert notes[0] == "version 0 has norm 0.000"
    assert notes[-1].startswith("version 4 has norm 3.0")
    with np.load(tmp_path / "hooks-out/site-2.npz") as kept:
        np.testing.assert_array_equal(kept["0"], state.weights[0])


def test_a_listener_that_fails_harms_no_round_and_is_told_of_once(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        listening = ("--listen", "own:Failing", "--listen", "own:hears")
        main = coordinator(
            place, tmp_path, "--quorum", "1", "--rounds", "3", "--listen", "own:Failing"
        )
        site = client(place, tmp_path, 0, "--task", "tests.tasks:line", *listening)
        started.extend([main, site])
        assert [worker.end() for worker in started] == [0, 0]
        for worker in (main, site):
            failed = [json.loads(line) for line in worker.lines if "listener_failed" in line]
            assert ["RuntimeError: a listener of" in line["message"] for line in failed] == [
                True, False,
            ]  # fmt: skip
            assert "Traceback" in failed[0]["traceback"]
    assert (tmp_path / "confirmed.txt").read_text().split() == ["0", "1", "2"]


def test_a_hook_that_fails_is_a_failure_of_the_task_and_tried_again(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        main = coordinator(place, tmp_path, "--quorum", "1", "--rounds", "3")
        site = client(place, tmp_path, 0, "--task", "own:task")
        started.extend([main, site])
        heard = main.wait_for("client_failed", client="alfa", ends=False)
        assert "ArithmeticError: my own hook (own.py:" in heard["message"]
        assert [worker.end() for worker in started] == [0, 0]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--listen", "own:nothing"), 2, "--listen own:nothing: own has no nothing"),
        (("--listen", "own:fails"), 2, "making it fails: LookupError: not today"),
        (("--aggregator", "own:fails"), 2, "making it fails: LookupError: not today"),
        (("--aggregator", "nowhere:at_all"), 2, "there is no module nowhere"),
    ],
)
def test_what_is_wrong_with_a_part_is_said_at_the_start(
    words: tuple[str, ...], code: int, said: str, place: Place, tmp_path: Path
) -> None:
    worker = coordinator(place, tmp_path, "--quorum", "1", *words)
    assert worker.end() == code
    assert said in worker.lines[-1]


def test_a_step_of_ones_own_that_fails_ends_the_coordinator_in_one_line(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        own = ("--server-optimizer", "own:bad_step")
        main = coordinator(place, tmp_path, "--quorum", "1", "--rounds", "3", *own)
        started.extend([main, client(place, tmp_path, 0, "--task", "tests.tasks:line")])
        assert main.end() == 1
        assert main.lines[-1].startswith(
            "coordinator-worker: --server-optimizer own:bad_step: step fails: FloatingPointError:"
            " my own step"
        )
        assert place.queue("update")  # it is still there for the next coordinator
