"""What an operator gets wrong: one line that says so, with the nearest valid choice."""

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests.acceptance.test_bad_input import NOBODY, run
from tests.conftest import Place
from tests.support.processes import BIN, Worker, workers
from warren_shared.tensors.layout import Weights

FLEET = NOBODY.replace("a:b", "fleet:b")
LINE = ("--task", "tests.tasks:line")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--qorum", "3"], "unknown option --qorum: did you mean --quorum?"),
        (["--quorum", "0"], "--quorum 0: the least is 1"),
        (["--quorum", "two"], "--quorum two: write a whole number"),
        (["--participation", "1.5", "--deadline-s", "9"], "--participation 1.5: the most is 1"),
        (["--log-format", "jsn"], "--log-format jsn: there are text and json; did you mean json?"),
        (["--aggregator", "medain"], "trimmed-mean, uniform; did you mean median?"),
        (["--server-optimizer", "adm"], "momentum, sgd, yogi; did you mean adam?"),
        (["--server-optimizer", "adam:learning-rate=1"], "tau; did you mean learning_rate?"),
        (["--learning-rate-schedule", "cosin"], "there are constant, cosine"),
    ],
)
def test_a_value_of_the_coordinator_that_is_not_valid_is_told_what_is(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    code, line = run("coordinator-worker", NOBODY, "--checkpoint-dir", str(tmp_path), *arguments)
    assert code == 2
    assert words in line


@pytest.mark.parametrize(
    ("url", "arguments", "words"),
    [
        (NOBODY, ["--tsk", "tests.tasks:line"], "--task (or WARREN_TASK) is needed: you wrote"),
        (NOBODY, ["--task", "tests.tasks:lime"], "has no lime; did you mean line?"),
        (NOBODY, ["--task", "tests.tusks:line"], "its package; did you mean tasks?"),
        (NOBODY, [*LINE, "--shrad", "1"], "unknown argument --shrad: did you mean --shard?"),
        (NOBODY, [*LINE, "--client", "b"], "this bundle is that of a, who may be no other client"),
        (NOBODY, [*LINE, "--client", "A"], "a client id is lower case"),
        (NOBODY, [*LINE, "--fleet", "f"], "this bundle is that of a: use the bundle of f, or"),
        (FLEET, [*LINE, "--fleet", "fleet", "--client", "b"], "name one, such as fleet.0"),
        (FLEET, [*LINE, "--fleet", "fleet", "--shard", "3"], "or ask for the place with --client"),
        (
            FLEET,
            [*LINE, "--client", "fleet.2", "--shard", "3"],
            "in a fleet the place is the shard",
        ),
    ],
)
def test_a_client_that_asks_for_what_is_not_its_is_told_what_is(
    url: str, arguments: list[str], words: str
) -> None:
    code, line = run("client-worker", url, *arguments)
    assert code == 2
    assert words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["aply"], "unknown command aply: did you mean apply?"),
        (["nonsense"], "unknown command nonsense: there are up, down"),
        (["up", "--flet", "x:1"], "unknown option --flet: did you mean --fleet?"),
        (["up", "--fleet", "x"], "'x' is no fleet like phone:20"),
        (["up", "--port", "0"], "'0' is no port: 1 to 65535"),
        ([], "COMMAND; see --help"),
    ],
)
def test_a_wrong_word_to_broker_config_is_one_line(arguments: list[str], words: str) -> None:
    told = subprocess.run(
        [BIN / "broker-config", *arguments], capture_output=True, text=True, check=False
    )
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1
    assert words in told.stderr


def test_a_misspelt_variable_is_said_and_harms_nothing(tmp_path: Path) -> None:
    told = ("--checkpoint-dir", str(tmp_path), "--wait-broker-s", "0.1")
    with workers() as started:
        started.append(Worker("coordinator-worker", NOBODY, *told, WARREN_QORUM="3"))
        stray = started[0].wait_for("stray_setting")
        assert stray["message"] == (
            "WARREN_QORUM is no setting: did you mean WARREN_QUORUM (--quorum)?"
        )
        assert started[0].end() == 1
    told_ = subprocess.run(
        [BIN / "broker-config", "status", "--home", tmp_path], capture_output=True, text=True,
        env=os.environ | {"WARREN_HOEM": "x"}, check=False,
    )  # fmt: skip
    assert "WARREN_HOEM is no setting: did you mean WARREN_HOME?" in told_.stderr


def test_two_of_one_identity_the_second_says_so_at_once_and_goes_on_when_the_first_ends(
    place: Place,
) -> None:
    """So that a process that is started again before the old one is gone does not fail."""
    with workers() as started:
        first = Worker("client-worker", place.urls["alfa"], *LINE)
        started.append(first)
        first.wait_for("connected")
        second = Worker("client-worker", place.urls["alfa"], *LINE, "--wait-broker-s", "25")
        started.append(second)
        ready = second.wait_for("started")
        waiting = second.wait_for("waiting")
        assert "model.alfa is taken: another process consumes it" in waiting["message"]
        assert float(waiting["time"]) - float(ready["time"]) < 5
        first.kill(signal.SIGTERM)
        second.wait_for("connected")
        assert second.said.count('"waiting"') == 1


def test_a_place_beyond_the_fleet_is_refused_with_the_nearest_that_there_is(place: Place) -> None:
    arguments = (*LINE, "--fleet", "fleet", "--client", "fleet.40")
    code, line = run("client-worker", place.urls["fleet"], *arguments)
    assert code == 1
    assert "no queue 'model.fleet.40'" in line
    assert "; fleet.2 is free" in line


def test_a_federation_that_is_not_there_is_named(place: Place) -> None:
    url = place.urls["alfa"].rpartition("/")[0] + "/tset"
    code, line = run("client-worker", url, *LINE)
    assert code == 1
    assert "vhost 'tset', as 'alfa' refused" in line


def test_a_checkpoint_of_another_federation_or_of_a_format_to_come_is_left_alone(
    tmp_path: Path,
) -> None:
    weights = Weights.of([np.zeros(3, np.float32)])
    checkpoint.save(tmp_path, State("other", "ab" * 4, 3, weights, applied={}))
    path = tmp_path / checkpoint.NAMES[0]
    told = ("--checkpoint-dir", str(tmp_path))
    code, line = run("coordinator-worker", NOBODY, *told)
    assert code == 2
    assert "federation 'other'" in line
    whole = path.read_bytes()
    path.write_bytes(whole.replace(checkpoint.MAGIC, b"warren checkpoint 9\n"))
    code, line = run("coordinator-worker", NOBODY, *told)
    assert code == 2
    assert str(tmp_path) in line
    assert path.read_bytes().endswith(whole[len(checkpoint.MAGIC) :])
