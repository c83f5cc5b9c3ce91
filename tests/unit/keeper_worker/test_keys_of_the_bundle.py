"""A keeper that was started with other keys than its bundle names says so, and drops no seed."""

from pathlib import Path

import pytest

from keeper_worker import keys
from warren_shared.errors import ConfigError


def test_other_keys_than_the_bundles_are_refused(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        folder.mkdir()
    made, _ = keys.make(mine)
    keys.make(other)
    bundled = made.public_line.partition(".")[2]
    assert keys.own(mine, bundled).public_line == made.public_line
    assert keys.own(mine, bundled.rstrip("=")).public_line == made.public_line
    assert keys.own(mine, None).public_line == made.public_line
    with pytest.raises(ConfigError, match="has other keys than the bundle names"):
        keys.own(other, bundled)
