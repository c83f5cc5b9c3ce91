"""Workers that are asked to stop before there is a broker."""

import signal
from pathlib import Path

import pytest

from tests.support.processes import Worker, workers

NOBODY = "amqp://alfa:x@127.0.0.1:1/f"


@pytest.mark.parametrize(
    "words",
    [
        ("coordinator-worker", "--quorum", "1", "--checkpoint-dir", "checkpoint"),
        ("client-worker", "--task", "tests.tasks:line", "--shard", "0"),
    ],
)
def test_a_worker_that_waits_for_its_broker_ends_when_it_is_asked_to(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    command, *arguments = words
    arguments = [str(tmp_path) if word == "checkpoint" else word for word in arguments]
    user = "coordinator" if command == "coordinator-worker" else "alfa"
    with workers() as started:
        url = NOBODY.replace("alfa", user)
        worker = Worker(command, url, *arguments, "--wait-broker-s", "100000")
        started.append(worker)
        worker.wait_for("started")
        # In its first moments a process has no handler, and the signal ends it all the same.
        assert worker.kill(signal.SIGTERM) in (128 + signal.SIGTERM, -signal.SIGTERM)
    assert "Traceback" not in worker.said
