"""Telling our own processes from others', on real ones."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker_config.node.processes import MARK, is_ours, wait_for

_AGAIN = '[ "$1" = 0 ] && exec sleep 60; exec /bin/sh -c "$0" "$0" $(($1 - 1))'


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, env={**os.environ, MARK: "/here"}) as started:
        try:
            yield started
        finally:
            started.kill()


def test_a_process_stays_ours_while_it_becomes_other_programs() -> None:
    """As RabbitMQ's start script does; a single `no` would be a node that did not start."""
    with process("/bin/sh", "-c", _AGAIN, _AGAIN, "300") as started:
        command = Path(f"/proc/{started.pid}/cmdline")
        asked = 0
        while not command.read_bytes().startswith(b"sleep"):
            assert is_ours(started.pid, "/here")
            asked += 1
    assert asked > 100


def test_a_process_with_another_mark_or_none_is_not_ours() -> None:
    with process("sleep", "60") as started:
        assert is_ours(started.pid, "/here")
        assert not is_ours(started.pid, "/her")
    assert not is_ours(os.getpid(), "/here")


def test_a_process_that_has_ended_is_not_ours_even_before_its_parent_knows() -> None:
    with process("true") as started:
        assert wait_for(lambda: not is_ours(started.pid, "/here"), 10.0)
        assert Path(f"/proc/{started.pid}/stat").exists()
    assert not is_ours(started.pid, "/here")
