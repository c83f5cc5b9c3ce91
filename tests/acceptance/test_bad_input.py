"""Bad input: one clear line that says what to do, exit code not 0, nothing half-written."""

import socket
from pathlib import Path

import numpy as np
import pytest

from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests.conftest import Place
from tests.support.processes import Worker, workers
from warren_shared.tensors.layout import Weights

NOBODY = "amqp://a:b@127.0.0.1:1/f"


def run(command: str, url: str, *arguments: str) -> tuple[int, str]:
    """Exit code and the one line that a worker printed."""
    with workers() as started:
        started.append(worker := Worker(command, url, *arguments))
        code = worker.end()
    complaints = [line for line in worker.lines if not line.startswith('{"time')]
    assert len(complaints) == 1, worker.said
    return code, complaints[0]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (["tests.tusks:line"], "there is no module tests.tusks: start in the folder"),
        (["tests.tasks"], "write it as package.module:attribute"),
        (["tests.tasks:lime"], "tests.tasks has no lime"),
        (["tests.tasks:not_a_task"], "neither a Task nor a function"),
        (["tests.tasks:line", "--shrad", "1"], "takes --shard, --features, --learning-rate"),
        (["tests.tasks:line", "--shard", "one"], "--shard one: "),
        (["tests.tasks:missing_data"], "needs --data"),
        (["tests.tasks:missing_data", "--data", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_a_wrong_task_is_one_line_before_any_broker_is_asked(task: list[str], words: str) -> None:
    code, line = run("client-worker", NOBODY, "--task", *task)
    assert code == 2
    assert words in line


def test_an_unreachable_broker_is_named() -> None:
    code, line = run(
        "client-worker", NOBODY, "--task", "tests.tasks:line", "--wait-broker-s", "0.2"
    )
    assert code == 1
    assert "cannot reach the broker at 127.0.0.1:1" in line
    assert "broker-config up" in line


def test_an_open_port_that_does_not_speak_amqp_is_not_waited_for_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://a:b@127.0.0.1:{silent.getsockname()[1]}/f"
        code, line = run(
            "client-worker", url, "--task", "tests.tasks:line", "--wait-broker-s", "0.5"
        )
    assert code == 1
    assert "did not answer in time" in line


def test_a_refusing_broker_is_named_and_no_password_is_printed(
    place: Place, tmp_path: Path
) -> None:
    url = place.urls["alfa"]
    password = url.split(":")[2].split("@")[0]
    wrong = url.replace(password, "not-the-password")
    code, line = run("client-worker", wrong, "--task", "tests.tasks:line")
    assert code == 1
    assert "refused the password" in line
    assert "not-the-password" not in line
    code, line = run("coordinator-worker", url, "--checkpoint-dir", str(tmp_path))
    assert code == 1, "a client's account must not do for the coordinator"
    assert "refused" in line


def test_a_client_may_not_take_the_mailbox_of_another(place: Place) -> None:
    code, line = run(
        "client-worker", place.urls["alfa"], "--task", "tests.tasks:line", "--client", "bravo"
    )
    assert code == 2
    assert "--client bravo: this bundle is that of alfa" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--quorum", "0"], "--quorum 0: the least is 1"),
        (["--target", "loss=1"], "write NAME>=VALUE or NAME<=VALUE"),
        (["--config", "seed"], "write it as NAME=VALUE"),
        (["--initial-model", "nowhere.npz"], "nowhere.npz"),
        (["--checkpoint-dir", "/proc/nowhere"], "cannot be written"),
        (["--env-file", "nowhere.env"], "nowhere.env cannot be read"),
    ],
)
def test_a_wrong_setting_of_the_coordinator_is_one_line(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    if "--checkpoint-dir" not in arguments:
        arguments += ["--checkpoint-dir", str(tmp_path)]
    code, line = run("coordinator-worker", NOBODY, *arguments)
    assert code == 2
    assert words in line
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_federation_is_left_alone(tmp_path: Path) -> None:
    weights = Weights.of([np.zeros(3, np.float32)])
    checkpoint.save(tmp_path, State("other", "ab" * 4, 3, weights, applied={}))
    before = (tmp_path / checkpoint.NAMES[0]).read_bytes()
    code, line = run("coordinator-worker", NOBODY, "--checkpoint-dir", str(tmp_path))
    assert code == 2
    assert "holds a checkpoint of federation 'other'" in line
    assert (tmp_path / checkpoint.NAMES[0]).read_bytes() == before


def test_a_damaged_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / checkpoint.NAMES[0]).write_bytes(b"warren checkpoint 1\nrubbish")
    code, line = run("coordinator-worker", NOBODY, "--checkpoint-dir", str(tmp_path))
    assert code == 2
    assert "is not a whole checkpoint" in line
    assert (tmp_path / checkpoint.NAMES[0]).read_bytes().endswith(b"rubbish")


def test_a_quorum_that_no_consumer_could_hold_is_one_line(place: Place, tmp_path: Path) -> None:
    state = State(place.name, "ab" * 4, 3, Weights.of([np.zeros(3, np.float32)]), applied={})
    checkpoint.save(tmp_path, state)
    folder = ("--checkpoint-dir", str(tmp_path))
    code, line = run("coordinator-worker", place.urls["coordinator"], *folder, "--quorum", "65536")
    assert code == 2
    assert "a consumer may hold 65535; lower the quorum" in line
