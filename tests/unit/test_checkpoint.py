"""The checkpoint file: the old state or the new one, and never a third."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator_worker import checkpoint
from coordinator_worker.state import State
from shared.errors import ConfigError
from shared.layout import Weights

figures = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
tensors = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), max_size=3).map(tuple), st.sampled_from(["float32", "float64"])
    ),
    min_size=1,
    max_size=5,
)
per_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)


def state(version: int = 3, size: int = 6) -> State:
    weights = Weights.of([np.full(size, version, np.float32), np.array(0.5)])
    return State("f", "ab" * 4, version, weights, {"alfa": frozenset({1, 2})}, ({"loss": 0.25},))


def contents(found: State | None) -> tuple[Any, ...]:
    assert found is not None
    facts = (found.federation, found.run, found.version, found.applied, found.history)
    return (*facts, found.weights.layout, found.weights.buffer.tobytes())


@per_folder
@given(
    tensors,
    st.dictionaries(st.text(max_size=8), st.frozensets(st.integers(0, 2**53)), max_size=4),
    st.lists(st.dictionaries(st.text(max_size=8), figures, max_size=3), max_size=4),
    st.integers(0, 2**53),
)
def test_any_state_comes_back_as_it_was(
    tmp_path: Path,
    entries: list[tuple[tuple[int, ...], str]],
    applied: dict[str, frozenset[int]],
    history: list[dict[str, Any]],
    version: int,
) -> None:
    draw = np.random.default_rng(version)
    weights = Weights.of([draw.normal(size=shape).astype(dtype) for shape, dtype in entries])
    saved = State("föd", "ab" * 4, version, weights, applied, tuple(history))
    checkpoint.save(tmp_path, saved)
    assert contents(checkpoint.load(tmp_path)) == contents(saved)


def test_loaded_weights_are_aligned_and_can_be_written_to(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state())
    found = checkpoint.load(tmp_path)
    assert found is not None
    for array in found.weights:
        assert array.flags.aligned
        assert array.flags.writeable


def test_any_bit_that_flips_is_noticed(tmp_path: Path) -> None:
    """A version or a ledger that is off by one bit would lose an update, or count one twice."""
    checkpoint.save(tmp_path, state())
    path = tmp_path / checkpoint.NAME
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match="not a whole checkpoint"):
            checkpoint.load(tmp_path)


@per_folder
@given(st.binary(max_size=60), st.sampled_from([b"", checkpoint.MAGIC]))
def test_no_other_file_is_taken_for_a_checkpoint(
    tmp_path: Path, content: bytes, beginning: bytes
) -> None:
    (tmp_path / checkpoint.NAME).write_bytes(beginning + content)
    with pytest.raises(ConfigError, match=r"current\.checkpoint is not a whole checkpoint"):
        checkpoint.load(tmp_path)


def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state())
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ConfigError, match="not a whole checkpoint"):
        checkpoint.load(tmp_path)


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(3))
    (tmp_path / f"{checkpoint.NAME}.tmp").mkdir()  # so the new one cannot be written, even by root
    with pytest.raises(OSError, match=r"\.tmp"):
        checkpoint.save(tmp_path, state(4))
    assert contents(checkpoint.load(tmp_path)) == contents(state(3))


@pytest.mark.parametrize(
    ("deadly", "survives"),
    [
        ("at('open')", (3,)),
        ("when_it_writes_beyond(40)", (3,)),
        ("when_it_writes_beyond(5000)", (3,)),
        ("at('os.rename')", (3,)),
        ("at('os.listdir')", (4, 2000)),
    ],
)
def test_killed_at_any_effect_it_leaves_a_whole_checkpoint(
    tmp_path: Path, deadly: str, survives: tuple[int, ...]
) -> None:
    """The process dies at Python's own audit event before an effect, or by the kernel's limit."""
    program = textwrap.dedent(
        f"""
        import os, resource, signal, sys
        from pathlib import Path
        from coordinator_worker import checkpoint
        from tests.unit.test_checkpoint import state

        def at(effect):
            def kill(event, arguments):
                if event == effect and "checkpoint" in str(arguments):
                    os.kill(os.getpid(), signal.SIGKILL)
            sys.addaudithook(kill)

        def when_it_writes_beyond(size):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)

        new, folder = state(4, size=2000), Path({str(tmp_path / "checkpoint")!r})
        {deadly}
        checkpoint.save(folder, new)
        os.listdir(folder)  # an effect after the save
        print("alive")
        """
    )
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    checkpoint.save(folder, state(3))
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert ended.returncode in (-signal.SIGKILL, -signal.SIGXFSZ), ended.stderr.decode()
    assert contents(checkpoint.load(folder)) == contents(state(*survives))
    checkpoint.save(folder, state(5))
    assert contents(checkpoint.load(folder)) == contents(state(5))
