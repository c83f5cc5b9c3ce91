"""What TensorFlow says while it loads is held back, and nobody else's standard error is."""

import subprocess
import sys
import textwrap

from tests.support.processes import ROOT


def said(program: str) -> str:
    """On standard error."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stderr


def test_greetings_are_dropped_and_the_rest_is_passed_on() -> None:
    program = r"""
        import os
        from client_worker.models.tensorflow_log import without_greetings
        with without_greetings():
            os.write(2, b"To enable the following instructions: AVX2\nsomething else\n")
        os.write(2, b"afterwards\n")
    """
    assert said(program) == "something else\nafterwards\n"


def test_tasks_that_load_on_threads_at_the_same_time_leave_standard_error_where_it_was() -> None:
    """Each would put back what it found: the second what the first had put there."""
    program = r"""
        import os, threading
        from client_worker.models.tensorflow_log import without_greetings
        both, first_out = threading.Barrier(2), threading.Event()

        def load(is_first):
            with without_greetings():
                both.wait()
                if not is_first:
                    first_out.wait()
            if is_first:
                first_out.set()

        loading = [threading.Thread(target=load, args=(first,)) for first in (True, False)]
        for each in loading:
            each.start()
        for each in loading:
            each.join()
        os.write(2, b"still heard\n")
    """
    assert said(program) == "still heard\n"


def test_a_program_that_ends_while_a_thread_loads_has_its_last_words() -> None:
    program = r"""
        import sys, threading, time
        from client_worker.models.tensorflow_log import without_greetings
        loads = threading.Event()

        def load():
            with without_greetings():
                loads.set()
                time.sleep(60)

        threading.Thread(target=load, daemon=True).start()
        loads.wait()
        print("last words", file=sys.stderr)
    """
    assert said(program) == "last words\n"
