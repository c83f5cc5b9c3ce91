"""Bars for those who wait at a terminal, and silence for everybody else."""

import os
import pty
import subprocess
import sys

import pytest

from warren_shared.observability.progress import spinner, through

PROGRAM = """
from warren_shared.observability.progress import spinner, through
with spinner("RabbitMQ is starting"):
    pass
print(sum(through(range(1000), "reading the log", 1000)))
"""


def test_without_a_terminal_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with spinner("something"):
        assert list(through(iter("abc"), "letters")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_bar_is_drawn_beside_the_output_and_not_in_it() -> None:
    ours, theirs = pty.openpty()
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE, stderr=theirs, check=True, text=True,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(theirs)
    drawn = b""
    while True:
        try:
            drawn += os.read(ours, 65536)
        except OSError:  # how Linux says that nothing more will come
            break
    os.close(ours)
    assert told.stdout == "499500\n"
    assert b"reading the log" in drawn
    assert b"100 %" in drawn
    assert b"RabbitMQ is starting" in drawn
