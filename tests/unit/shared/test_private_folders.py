"""What workers keep is for their user alone, whatever the umask and the folder's mode so far."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client_worker.runtime.update_store import UpdateStore
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint, version_archive
from coordinator_worker.storage.audit_log import Audit
from coordinator_worker.storage.store import Store
from warren_shared.errors import ConfigError
from warren_shared.files import private_folder, replacing, writable
from warren_shared.tensors.layout import Weights

WEIGHTS = Weights.of([np.zeros(4, np.float32)])
STATE = State("f", "ab" * 4, 1, WEIGHTS, applied={})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    try:
        yield request.param
    finally:
        os.umask(before)


@pytest.mark.parametrize("was", [None, 0o755, 0o777, 0o750, 0o2775])
def test_a_folder(tmp_path: Path, umask: int, was: int | None) -> None:
    folder = tmp_path / "above" / "kept"
    if was is not None:
        folder.parent.mkdir()
        folder.parent.chmod(0o700)
        folder.mkdir()
        folder.chmod(was)
    for flag in ("--state-dir", "--checkpoint-dir"):
        assert writable(folder, flag) == folder
        assert mode(folder) & 0o777 == 0o700
    if was is None:
        assert mode(folder.parent) == 0o700


def test_all_that_is_kept(tmp_path: Path, umask: int) -> None:
    settings = CoordinatorSettings(
        broker_url="amqp://u:p@h/f", quorum=1, checkpoint_dir=tmp_path / "checkpoint"
    )
    store = Store(settings, lambda _seconds: True)
    store.save_best(WEIGHTS)
    store.close()
    checkpoint.save(store.folder, STATE)
    version_archive.write(store.folder, STATE, 7)
    audit = Audit(store.folder)
    audit.take_over(STATE)
    audit.give_back()
    keep = UpdateStore(tmp_path / "state")
    keep.confirmed("alfa", "ab" * 4, 1)
    kept = [path for name in ("checkpoint", "state") for path in (tmp_path / name).rglob("*")]
    files = {path.name: mode(path) for path in kept if path.is_file()}
    assert set(files.values()) == {0o600}, files
    assert {mode(path) for path in kept if path.is_dir()} == {0o700}
    assert len(files) >= 5


def test_a_file_that_a_crash_left_lends_its_mode_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    left = tmp_path / "secret.tmp"
    left.write_text("half")
    left.chmod(0o666)
    with replacing(path, mode=0o600) as temporary:
        assert mode(temporary) == 0o600
        assert temporary.read_text() == ""
    assert mode(path) == 0o600


def test_a_folder_that_everybody_shares_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(ConfigError, match=r"--state-dir .*everybody shares it") as refused:
        writable(shared, "--state-dir")
    assert "\n" not in str(refused.value)
    assert "name a folder of your own" in str(refused.value)
    assert mode(shared) == 0o1777
    assert mode(private_folder(shared / "mine")) == 0o700


def test_a_volume_of_ours_that_began_as_everybodys_is_tightened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a tmpfs has at its root, unless it was mounted with a mode; /tmp may be one, too."""
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o1777)
    monkeypatch.setattr(os.path, "ismount", lambda path: path in (volume, Path("/tmp")))  # noqa: S108
    assert mode(writable(volume, "--checkpoint-dir")) & 0o777 == 0o700
    before = mode(Path("/tmp"))  # noqa: S108
    with pytest.raises(ConfigError, match="everybody shares it"):
        writable(Path("/tmp"), "--checkpoint-dir")  # noqa: S108
    assert mode(Path("/tmp")) == before  # noqa: S108


def test_a_folder_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(theirs, 65_534, 65_534)
    else:
        theirs = Path("/usr/share")  # whoever we are, not ours
    with pytest.raises(ConfigError, match="belongs to another user"):
        writable(theirs, "--checkpoint-dir")
    assert mode(theirs) == 0o755


def test_a_folder_of_the_system_is_refused_and_left_as_it_is() -> None:
    before = mode(Path("/var/lib"))
    with pytest.raises(ConfigError, match="others may look into it"):
        writable(Path("/var/lib"), "--checkpoint-dir")
    assert mode(Path("/var/lib")) == before


def test_a_private_folder_of_somebody_else_that_we_may_write_is_taken(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(theirs, 65_534, 65_534)
    assert writable(theirs, "--state-dir") == theirs


def test_figures_for_others_to_look_at_stay_as_the_umask_says(tmp_path: Path) -> None:
    folder = tmp_path / "curves"
    folder.mkdir()
    folder.chmod(0o755)
    writable(folder, "--tensorboard", private=False)
    assert mode(folder) == 0o755
