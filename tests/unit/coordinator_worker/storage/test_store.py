"""Whose a checkpoint folder is: a federation's, told from another one of the same name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker_config.secrets.keys import Keys, ensure_keys, rotate_keys
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.storage.store import Store
from coordinator_worker.versions.rollback import rollback
from tests.support.runs import weights
from warren_shared.errors import ConfigError
from warren_shared.folder_lock import FolderLock

UpdateDecryptor = Callable[[Keys | None], Store]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[UpdateDecryptor]:
    """Stores of coordinators with the keys of some home, all in one folder."""
    made = []

    def open_(keys: Keys | None) -> Store:
        settings = CoordinatorSettings(
            broker_url="amqp://a:b@localhost/warren",
            checkpoint_dir=tmp_path / "checkpoint",
            signing_keys=",".join(keys.signing) if keys else None,
        )
        made.append(Store(settings, lambda _seconds: False))
        return made[-1]

    yield open_
    for store in made:
        store.close()


def homes(folder: Path) -> tuple[Keys, Keys]:
    for name in ("first", "second"):
        (folder / name).mkdir()
    return ensure_keys(folder / "first"), ensure_keys(folder / "second")


@contextmanager
def written(store: Store) -> Iterator[None]:
    """A version of ``store`` is in the folder, which is its own for the block."""
    store.take_over()
    state = store.state or store.version_zero(weights(1))
    store.save(state)
    yield
    store.give_back()


def test_a_federation_of_the_same_name_and_another_home_is_refused(
    opened: UpdateDecryptor, tmp_path: Path
) -> None:
    mine, theirs = homes(tmp_path)
    with written(opened(mine)), pytest.raises(ConfigError, match="give another --checkpoint-dir"):
        opened(theirs)  # while the first one runs: it would wait for ever
    with pytest.raises(ConfigError, match="give another --checkpoint-dir") as refused:
        opened(theirs)
    assert "\n" not in str(refused.value)
    with written(opened(mine)):
        pass


def test_keys_that_are_rotated_one_at_a_time_stay_the_same_federations(
    opened: UpdateDecryptor, tmp_path: Path
) -> None:
    keys, _ = homes(tmp_path)
    for _ in range(4):
        with written(opened(keys)):
            pass
        keys = rotate_keys(tmp_path / "first", keys)
    opened(keys)


def test_a_federation_with_a_new_home_goes_on_when_a_person_says_so(
    opened: UpdateDecryptor, tmp_path: Path
) -> None:
    mine, theirs = homes(tmp_path)
    with written(opened(mine)):
        pass
    rollback(tmp_path / "checkpoint", "current", after=0)
    with written(opened(theirs)):
        pass
    with pytest.raises(ConfigError, match="signs with other keys"):
        opened(mine)


def test_without_keys_a_folder_is_anybodys(opened: UpdateDecryptor, tmp_path: Path) -> None:
    mine, _ = homes(tmp_path)
    with written(opened(None)):
        pass
    with written(opened(mine)):
        pass
    opened(None)


def test_a_standby_starts_while_the_folder_is_half_written(
    opened: UpdateDecryptor, tmp_path: Path
) -> None:
    mine, _ = homes(tmp_path)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    lease = FolderLock(folder)
    assert lease.take()
    (folder / "a.checkpoint").write_bytes(b"half")
    opened(mine)
    lease.give_back()
