"""Initial weights are no larger than what this machine can hold of them."""

from pathlib import Path

import pytest

from coordinator_worker.trust import model_size
from coordinator_worker.trust.model_size import ModelSizeLimit
from warren_shared.errors import Rejected

GIB = 1 << 30


def refused(limit: ModelSizeLimit, size_bytes: int) -> bool:
    try:
        limit.check(size_bytes)
    except Rejected as rejected:
        return rejected.reason == "size" and "--max-model-bytes" in rejected.detail
    return False


@pytest.mark.parametrize(("disk", "memory"), [(8, 64), (64, 8)])
def test_a_quarter_of_the_disk_and_of_the_memory_is_the_most(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, disk: int, memory: int
) -> None:
    monkeypatch.setattr(model_size, "_free_bytes", lambda _folder: disk * GIB)
    monkeypatch.setattr(model_size, "_memory_bytes", lambda: memory * GIB)
    limit = ModelSizeLimit(tmp_path)
    assert not refused(limit, 2 * GIB)
    assert refused(limit, 2 * GIB + 1)


def test_a_setting_goes_before_what_there_is(tmp_path: Path) -> None:
    assert refused(ModelSizeLimit(tmp_path, 1000), 1001)
    assert not refused(ModelSizeLimit(tmp_path, 1 << 41), 1 << 40)


def test_no_machine_holds_the_largest_model_that_a_manifest_can_announce(tmp_path: Path) -> None:
    assert refused(ModelSizeLimit(tmp_path), 1 << 60)
    assert not refused(ModelSizeLimit(tmp_path), 4)
