"""Signals that ask a worker to stop."""

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.pace import DEADLINE_S
from tests.support.processes import ROOT
from warren_shared.service.lifecycle import TWICE_S

# The main thread takes no signal, so that the kernel gives it to another one: what happens to every
# process now and then is what happens to this one always.
DEAF = """
    import signal, sys, threading, time
    from warren_shared.service.lifecycle import on_stop_signal
    stopped = threading.Event()
    asked = on_stop_signal({stop})
    signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGINT, signal.SIGTERM}})
    print("waits", flush=True)
    stopped.wait()
    print("stopped", flush=True)
    sys.exit(asked.exit_code)
"""


@contextmanager
def started(stop: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DEAF.format(stop=stop))],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "waits\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heeded_while_the_main_thread_waits_for_a_lock(number: signal.Signals) -> None:
    with started("stopped.set") as process:
        process.send_signal(number)
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert said == "stopped\n"
    assert process.returncode == 128 + number


@pytest.mark.parametrize("then", ["None", "time.sleep(60)"])
def test_the_second_signal_ends_a_process_that_does_not_stop(then: str) -> None:
    """Also one that is still busy with the first."""
    with started(f"lambda: (print('asked', flush=True), {then})") as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        time.sleep(2 * TWICE_S)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert said == ""
    assert process.returncode == 128 + signal.SIGTERM


def test_a_signal_that_comes_twice_at_once_is_one() -> None:
    """As of `timeout`, which tells a process and then its group."""
    with started("lambda: (print('asked', flush=True), time.sleep(0.5), stopped.set())") as process:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert said == "asked\nstopped\n"
    assert process.returncode in {128 + signal.SIGTERM, 128 + signal.SIGINT}
