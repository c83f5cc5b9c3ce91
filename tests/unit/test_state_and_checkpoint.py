"""What survives a crash: the state, its ledger, and the file they are in."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator_worker import checkpoint
from coordinator_worker.quorum import Policy
from coordinator_worker.state import State
from shared.errors import ConfigError, Rejected
from shared.layout import Weights


def state() -> State:
    weights = Weights.of([np.arange(6, dtype=np.float32).reshape(2, 3), np.array([0.5])])
    history = ({"version": 3, "metrics": {"loss": 0.25}, "clients": {"alfa": {"examples": 7}}},)
    return State("f", "ab" * 4, 3, weights, {"alfa": frozenset({1, 2})}, history)


def assert_same(found: State | None, expected: State) -> None:
    assert found is not None
    for name in ("federation", "run", "version", "applied", "history"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.weights.layout == expected.weights.layout
    np.testing.assert_array_equal(found.weights.buffer, expected.weights.buffer)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state())
    assert_same(checkpoint.load(tmp_path), state())


def test_an_empty_folder_holds_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None


def test_a_half_written_file_beside_the_checkpoint_is_ignored(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state())
    (tmp_path / f"{checkpoint.NAME}.tmp").write_bytes(b"half")
    assert_same(checkpoint.load(tmp_path), state())
    checkpoint.save(tmp_path, state())
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]


def test_a_checkpoint_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state())
    path = tmp_path / checkpoint.NAME
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="not a whole checkpoint"):
            checkpoint.load(tmp_path)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state())
    path = tmp_path / checkpoint.NAME
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        checkpoint.load(tmp_path)


@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=40),
)
def test_the_ledger_knows_every_contribution_for_as_long_as_it_could_count_again(
    max_staleness: int, contributions: list[tuple[str, int]]
) -> None:
    policy = Policy(quorum=1, max_staleness=max_staleness)
    now = State("f", "ab" * 4, 0, state().weights, applied={})
    applied: set[tuple[str, int]] = set()
    for client, behind in contributions:
        base = max(0, now.version - min(behind, max_staleness))
        now = now.after(now.weights, [(client, base)], {}, max_staleness)
        applied.add((client, base))
        for who, version in applied:
            try:
                policy.staleness_weight(now.version, version)
            except Rejected:
                continue
            assert now.has_applied(who, version)
    kept = sum(len(bases) for bases in now.applied.values())
    assert kept <= 3 * (max_staleness + 2), "the ledger must not grow with the run"


def test_lateness_weighs_less_and_too_late_is_rejected() -> None:
    policy = Policy(quorum=2, max_staleness=3, staleness_exponent=0.5)
    weights = [policy.staleness_weight(10, base) for base in (10, 9, 7)]
    assert weights == [1.0, pytest.approx(2**-0.5), 0.5]
    with pytest.raises(Rejected, match="stale"):
        policy.staleness_weight(10, 6)
    with pytest.raises(Rejected, match="future"):
        policy.staleness_weight(10, 11)
    assert [policy.closes(count) for count in (1, 2, 3)] == [False, True, True]
