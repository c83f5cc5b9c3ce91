"""``coordinator-worker alarm`` over a real broker: a program and an address hear of it."""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Place
from tests.support.pace import DEADLINE_S, allow
from tests.support.processes import BIN, Worker, workers


@pytest.fixture
def posted() -> Iterator[tuple[str, "queue.SimpleQueue[dict[str, Any]]"]]:
    found: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alarm", found
    finally:
        server.shutdown()
        server.server_close()


def test_a_coordinator_that_was_stopped_is_heard_of_and_its_return_too(
    place: Place, tmp_path: Path, posted: tuple[str, "queue.SimpleQueue[dict[str, Any]]"]
) -> None:
    url, found = posted
    heard = tmp_path / "heard.txt"
    program = tmp_path / "hear"
    program.write_text(f'#!/bin/sh\necho "$WARREN_ALARM_KIND $WARREN_ALARM" >> {heard}\n')
    program.chmod(0o755)
    told = ("--checkpoint-dir", str(tmp_path / "run"), "--quorum", "1")
    with workers() as started:
        task = ("--task", "tests.tasks:line")
        started.append(Worker("client-worker", place.urls["alfa"], *task))
        first = Worker("coordinator-worker", place.urls["coordinator"], *told)
        started.append(first)
        first.wait_for("model_published", version=2)
        alarm = subprocess.Popen(
            [BIN / "coordinator-worker", "alarm", "--broker-url", place.urls["watcher"],
             "--after-s", "0.5", "--run", str(program), "--url", url],
        )  # fmt: skip
        try:
            first.process.terminate()
            gone = found.get(timeout=DEADLINE_S)
            assert (gone["kind"], gone["is_over"]) == ("coordinator", False)
            assert gone["federation"] == place.name
            started.append(Worker("coordinator-worker", place.urls["coordinator"], *told))
            assert found.get(timeout=DEADLINE_S)["is_over"]
        finally:
            alarm.terminate()
            alarm.wait(DEADLINE_S)
    assert "coordinator " in heard.read_text()
    assert "over: " in heard.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what to do"),
        (["--url", "ftp://x"], "is no http or https address"),
        (["--run", "x", "--after-s", "-1"], "is no number of seconds"),
    ],
)
def test_bad_words_are_one_line(words: list[str], said: str) -> None:
    url = "amqp://watcher:x@127.0.0.1:1/nowhere"
    done = subprocess.run(
        [BIN / "coordinator-worker", "alarm", "--broker-url", url, *words],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", [("alarm", "--after-s", "1", "--run", "cat"), ("watch",)])
def test_who_looks_for_a_broker_that_is_away_ends_when_asked_to(command: tuple[str, ...]) -> None:
    words = [*command, "--broker-url", "amqp://a:b@127.0.0.1:1/f"]
    with subprocess.Popen(
        [BIN / "coordinator-worker", *words], stderr=subprocess.PIPE, text=True
    ) as looks:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                looks.wait(3.0)
            began = time.monotonic()
            looks.terminate()
            _, said = looks.communicate(timeout=DEADLINE_S)
            assert time.monotonic() - began < allow(3.0)
        finally:
            looks.kill()
    assert "Traceback" not in said
    assert looks.returncode == 0


def test_a_broker_that_is_away_from_the_first_is_told(tmp_path: Path) -> None:
    program, heard = tmp_path / "hear", tmp_path / "heard.txt"
    program.write_text(f'#!/bin/sh\necho "$WARREN_ALARM_KIND $WARREN_ALARM" >> {heard}\n')
    program.chmod(0o755)
    words = ["--broker-url", "amqp://a:b@127.0.0.1:1/f", "--after-s", "0", "--run", str(program)]
    with subprocess.Popen([BIN / "coordinator-worker", "alarm", *words]) as alarm:
        try:
            until = time.monotonic() + DEADLINE_S
            while not heard.exists() and time.monotonic() < until:
                assert alarm.poll() is None
                time.sleep(0.1)
        finally:
            alarm.terminate()
    assert heard.read_text().startswith("broker cannot reach the broker at 127.0.0.1:1")
