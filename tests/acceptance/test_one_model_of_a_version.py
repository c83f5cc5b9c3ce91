"""A coordinator that comes with another checkpoint than the one that is out, over a real broker."""

import shutil
from pathlib import Path

from coordinator_worker import checkpoint
from coordinator_worker.audit_files import read
from coordinator_worker.audited import faults
from tests.acceptance.test_rollback import command, counts, start_clients, state_in, train
from tests.conftest import Place
from tests.processes import workers


def test_a_copied_folder_is_refused_and_the_original_goes_on(place: Place, tmp_path: Path) -> None:
    """A standby with a copy once made 195 versions a second time, and 163 updates were lost."""
    folder, copy = tmp_path / "folder", tmp_path / "copy"
    with workers() as started:
        started += start_clients(place)
        coordinator = train(place, folder, started, 10_000)
        coordinator.wait_for("model_published", version=2)
        shutil.copytree(folder, copy)
        copied = state_in(copy).version
        standby = train(place, copy, started, 10_000)
        standby.wait_for("standby")
        coordinator.wait_for("model_published", version=copied + 3)
        coordinator.kill()
        assert standby.end() == 2
        assert f"and {copy} holds version {copied}: use the folder that has it" in standby.said
        assert state_in(copy).version == copied
        goal = state_in(folder).version + 4
        again = train(place, folder, started, goal)
        assert again.end() == 0
        assert [worker.end() for worker in started[:2]] == [0, 0]
    assert list(counts(folder)) == [goal, goal], "each update counts once"
    assert list(faults(read(folder))) == []


def test_a_flipped_bit_makes_no_second_model_and_the_operator_may_go_on_without(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        started += start_clients(place)
        coordinator = train(place, tmp_path, started, 10_000)
        coordinator.wait_for("model_published", version=5)
        coordinator.kill()
        for client in started[:2]:
            client.wait_for("update_confirmed", base_version=state_in(tmp_path).version)
        newest = state_in(tmp_path).version
        path = max((tmp_path / name for name in checkpoint.NAMES), key=checkpoint._sequence_in)
        whole = bytearray(path.read_bytes())
        whole[checkpoint.PREFIX_BYTES + 40] ^= 1
        path.write_bytes(whole)

        refused = train(place, tmp_path, started, 10_000)
        assert refused.end() == 2
        assert f"version {newest} of run" in refused.said
        assert "is not a whole checkpoint" in refused.said
        assert path.read_bytes() == whole, "nothing is written over what may be restored"

        done = command(place, tmp_path, "rollback", "current", "--after", str(newest))
        assert done.returncode == 0, done.stderr
        after = state_in(tmp_path)
        assert after.version == newest + 1
        assert list(counts(tmp_path)) == [newest - 1, newest - 1]
        goal = after.version + 3
        assert train(place, tmp_path, started, goal, "--max-staleness", "9").end() == 0
        assert [worker.end() for worker in started[:2]] == [0, 0]
    assert list(counts(tmp_path)) == [newest + 2, newest + 2]
