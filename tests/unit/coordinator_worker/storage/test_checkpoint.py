"""The checkpoint file: the old state or the new one, and never a third."""

import base64
import signal
import subprocess
import sys
import textwrap
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator_worker.state.roster import Member
from coordinator_worker.state.round_record import ALWAYS, RoundRecord
from coordinator_worker.state.training_state import Best, State
from coordinator_worker.storage import checkpoint
from coordinator_worker.storage.checkpoint import Checkpoint
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Weights

figures = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
records = st.builds(
    RoundRecord,
    st.integers(0, 2**53),
    metrics=st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False)),
    diverged=st.none() | st.text(max_size=8),
    absent=st.frozensets(st.sampled_from(ALWAYS[1:])).filter(lambda names: "metrics" not in names),
    extra=st.dictionaries(st.text(max_size=4), figures, max_size=3),
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
    return State(
        "f",
        "ab" * 4,
        version,
        weights,
        {"alfa": frozenset({1, 2})},
        (RoundRecord(version, metrics={"loss": 0.25}),),
    )


def contents(found: State | None) -> tuple[Any, ...]:
    assert found is not None
    facts = (found.federation, found.run, found.version, found.applied, found.history)
    return (*facts, found.weights.layout, found.weights.buffer.tobytes())


@per_folder
@given(
    tensors,
    st.dictionaries(st.text(max_size=8), st.frozensets(st.integers(0, 2**53)), max_size=4),
    st.lists(records, max_size=4),
    st.integers(0, 2**53),
)
def test_any_state_comes_back_as_it_was(
    tmp_path: Path,
    entries: list[tuple[tuple[int, ...], str]],
    applied: dict[str, frozenset[int]],
    history: list[RoundRecord],
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
    path = tmp_path / checkpoint.NAMES[0]
    whole = path.read_bytes()
    for place in range(content_bytes(state())):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match="not a whole checkpoint"):
            checkpoint.load(tmp_path)


def content_bytes(saved: State) -> int:
    """How long a checkpoint is without what fills up its last step."""
    head = checkpoint.PREFIX_BYTES + len(msgpack.packb(checkpoint._header(saved)))
    return head + saved.weights.buffer.nbytes


@per_folder
@given(st.binary(max_size=60), st.sampled_from([b"", checkpoint.MAGIC]))
def test_no_other_file_is_taken_for_a_checkpoint(
    tmp_path: Path, content: bytes, beginning: bytes
) -> None:
    (tmp_path / checkpoint.NAMES[0]).write_bytes(beginning + content)
    with pytest.raises(ConfigError, match=r"a\.checkpoint is not a whole checkpoint"):
        checkpoint.load(tmp_path)


def test_a_file_of_the_right_digest_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state())
    path = tmp_path / checkpoint.NAMES[0]
    for size in range(0, content_bytes(state()), 7):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ConfigError, match="not a whole checkpoint"):
            checkpoint.load(tmp_path)
        checkpoint_of = tmp_path / f"again-{size}"
        checkpoint_of.mkdir()
        checkpoint.save(checkpoint_of, state())
        path.write_bytes((checkpoint_of / checkpoint.NAMES[0]).read_bytes())


@pytest.mark.parametrize("saves", range(1, 6))
def test_the_newest_of_any_number_of_saves_comes_back(tmp_path: Path, saves: int) -> None:
    place = Checkpoint(tmp_path)
    for version in range(saves):
        place.save(state(version, size=6 + 9000 * (version % 3)))  # longer, and shorter again
    assert contents(checkpoint.load(tmp_path)) == contents(
        state(saves - 1, size=6 + 9000 * ((saves - 1) % 3))
    )
    assert len(list(tmp_path.iterdir())) == min(saves, 2)


def test_what_is_there_is_overwritten_and_no_file_is_made_or_removed(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path)
    place.save(state(1))
    place.save(state(2))
    files = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    for version in range(3, 9):
        place.save(state(version))
    assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == files


def test_the_file_that_was_being_written_when_it_ended_is_passed_over(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path)
    for version in (1, 2, 3):
        place.save(state(version))
    newest = tmp_path / checkpoint.NAMES[0]
    torn = bytearray(newest.read_bytes())
    torn[content_bytes(state()) - 1] ^= 1
    newest.write_bytes(torn)
    again = Checkpoint(tmp_path)
    assert contents(again.state) == contents(state(2))
    again.save(state(4))
    assert contents(checkpoint.load(tmp_path)) == contents(state(4))
    kept = (tmp_path / checkpoint.NAMES[1]).read_bytes()
    assert kept[checkpoint.PREFIX_BYTES :], "the whole one was not the one to be overwritten"
    newest.write_bytes(torn)
    assert contents(checkpoint.load(tmp_path)) == contents(state(2))


def test_damage_of_the_newer_file_is_told_from_a_write_that_was_torn(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path)
    for version in (1, 2, 3):
        place.save(state(version))
    newer, older = (tmp_path / name for name in checkpoint.NAMES)
    assert Checkpoint(tmp_path).damaged == ""
    for path, says in ((older, ""), (newer, "a.checkpoint is not a whole checkpoint")):
        whole = path.read_bytes()
        for at in range(0, content_bytes(state()), 11):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            found = Checkpoint(tmp_path)
            assert says in found.damaged
            assert bool(found.damaged) == bool(says)
        path.write_bytes(whole)


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(3))
    (tmp_path / "b.tmp").mkdir()  # so the new one cannot be written, even by root
    with pytest.raises(OSError, match=r"\.tmp"):
        checkpoint.save(tmp_path, state(4))
    assert contents(checkpoint.load(tmp_path)) == contents(state(3))


@pytest.mark.parametrize("saved", [1, 2, 3])
@pytest.mark.parametrize(
    ("deadly", "size", "survives"),
    [
        ("at('open')", 6, "old"),
        ("when_it_writes_beyond(40)", 6, "old"),
        ("when_it_writes_beyond(150)", 6, "old"),
        ("when_it_writes_beyond(5000)", 16_000, "old"),
        ("when_it_writes_beyond(5000)", 20_000, "old"),
        ("at('os.rename')", 6, "old"),
        ("at('os.truncate')", 20_000, "old"),
        ("at('os.listdir')", 6, "new"),
    ],
)
def test_killed_at_any_effect_it_leaves_a_whole_checkpoint(
    tmp_path: Path, deadly: str, size: int, survives: str, saved: int
) -> None:
    """The process dies at Python's own audit event before an effect, or by the kernel's limit."""
    program = textwrap.dedent(
        f"""
        import os, resource, signal, sys
        from pathlib import Path
        from coordinator_worker.storage.checkpoint import Checkpoint
        from tests.unit.coordinator_worker.storage.test_checkpoint import state

        def at(effect):
            def kill(event, arguments):
                if event == effect:
                    os.kill(os.getpid(), signal.SIGKILL)
            sys.addaudithook(kill)

        def when_it_writes_beyond(size):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)

        folder = Path({str(tmp_path / "checkpoint")!r})
        checkpoint, new = Checkpoint(folder), state(4, size={size})
        {deadly}
        checkpoint.save(new)
        os.listdir(folder)  # an effect after the save
        print("alive")
        """
    )
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    place = Checkpoint(folder)
    for _ in range(saved):
        place.save(state(3))
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    expected = state(4, size=size) if survives == "new" else state(3)
    if "os.rename" in deadly and saved > 1:  # then there is nothing to rename
        assert ended.stdout == b"alive\n", ended.stderr.decode()
        expected = state(4, size=size)
    else:
        assert ended.returncode in (-signal.SIGKILL, -signal.SIGXFSZ), ended.stderr.decode()
    assert contents(checkpoint.load(folder)) == contents(expected)
    assert Checkpoint(folder).damaged == "", "what a crash has torn is not damaged"
    checkpoint.save(folder, state(5))
    assert contents(checkpoint.load(folder)) == contents(state(5))


def test_a_checkpoint_of_the_older_format_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "current.checkpoint").write_bytes(b"warren checkpoint 1\n")
    with pytest.raises(ConfigError, match="older format"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_that_cannot_be_read_is_not_passed_over_for_the_other(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path)
    place.save(state(1))
    place.save(state(2))
    newest = tmp_path / checkpoint.NAMES[1]
    newest.unlink()
    newest.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        checkpoint.load(tmp_path)


# Made by the code of format 4: version 7, with a ledger, a roster, moments and a best version.
FORMAT_4 = (
    "eNrtzr1uE0EQAGBTYEt5ivRp+IloLx0dHQ9wsdf4xHFn3Z6N0iWio4odiRoLk4tS0dLRUVhReIQIUUGTR+DEWUBJ"
    "i/R9q9ld7Yxm52VaVaHYHU7C8Pm0zIp6d3+n17mzPX98e/L148717PPry3EYhSqts7JYjd9Vs+IiPexWMw9VbJ8H"
    "TR2KWFZxeba6t+g347xM64cPzlb3T7v7o/0mnU7zLIxO1mk+Tpd3+80ki3VZHS1e/enyItRVNown67yMcZN86Sa5"
    "DPM0n/36/9N5VcY6VF2XN5vktivZHGynHgxGvfNR9izE+nrv8ffTD1dPJ+9jXtZxsbyYh7wcZvXR78z6sK1b9jfJ"
    "Te8vx0m7tQ0P2jhu4+22+U3yb3kAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAID/yE97xXUc"
)


def test_a_checkpoint_of_format_4_is_read_and_goes_on_as_format_6(tmp_path: Path) -> None:
    (tmp_path / "a.checkpoint").write_bytes(zlib.decompress(base64.b64decode(FORMAT_4)))
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert (found.federation, found.run, found.version) == ("f", "ab" * 4, 7)
    assert found.applied == {"alfa": frozenset({5, 6})}
    assert found.history[0].metrics == {"loss": 0.25}
    assert found.roster["alfa"].examples == 100
    assert found.best == Best(6, 0.5)
    np.testing.assert_array_equal(found.weights[0], np.arange(6))
    np.testing.assert_array_equal(found.slots["velocity"][0], np.arange(6))
    assert (found.oldest_base, found.setup) == (0, ())
    place = Checkpoint(tmp_path)
    place.save(replace(found, version=8, oldest_base=8, setup=({"version": 8},)))
    assert (tmp_path / "a.checkpoint").read_bytes().startswith(b"warren checkpoint 4")
    assert (tmp_path / "b.checkpoint").read_bytes().startswith(b"warren checkpoint 6")
    again = checkpoint.load(tmp_path)
    assert again is not None
    assert (again.version, again.oldest_base, again.setup) == (8, 8, ({"version": 8},))


@pytest.mark.parametrize("name", checkpoint.NAMES)
@pytest.mark.parametrize("number", [7, 10, 123456789])
def test_a_checkpoint_of_a_newer_warren_is_refused_and_not_passed_over_for_the_other(
    tmp_path: Path, name: str, number: int
) -> None:
    place = Checkpoint(tmp_path)
    place.save(state(1))
    place.save(state(2))
    path = tmp_path / name
    path.write_bytes(b"warren checkpoint %d\n" % number + path.read_bytes()[20:])
    with pytest.raises(ConfigError, match=f"a newer Warren .checkpoint format {number}.*upgrade"):
        checkpoint.load(tmp_path)


def test_versions_of_code_come_back_and_an_older_warren_reads_the_rest(tmp_path: Path) -> None:
    """It makes a Member of six facts, and knows nothing of a seventh."""
    members = {"alfa": Member(1.0, 2.0, 3, 4, 5, 6, "0123456789ab"), "bravo": Member(1.0)}
    checkpoint.save(tmp_path, replace(state(), roster=members))
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.roster == members
    header = checkpoint._header(found)
    assert header["roster"]["alfa"] == (1.0, 2.0, 3, 4, 5, 6)
    assert header["codes"] == {"alfa": "0123456789ab"}
    assert "codes" not in checkpoint._header(state())
