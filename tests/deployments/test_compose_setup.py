"""What compose's `setup` does beside `broker-config`: a file for each worker, and no other."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.processes import ROOT

SETUP = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["setup"]


def setup(home: Path, *bundles: str, keeper: str = "") -> None:
    """Run its script where `broker-config` would have written ``bundles``."""
    (home / "bundles").mkdir(mode=0o700, exist_ok=True)
    for old in (home / "bundles").iterdir():
        old.unlink()
    for name in bundles:
        (home / "bundles" / f"{name}.env").write_text(name)
        (home / "bundles" / f"{name}.env").chmod(0o600)
    program = home / "bin" / "broker-config"
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$WARREN_HOME/told"\n')
    program.chmod(0o755)
    words = [word.replace("$$", "$") for word in SETUP["command"]]
    path = f"{program.parent}:{os.environ['PATH']}"
    told = {"PATH": path, "WARREN_HOME": str(home), "WARREN_KEEPER": keeper}
    subprocess.run(words, env=told, check=True)


def readable_by(user: int, path: Path) -> bool:
    """Whether a process of ``user`` can read ``path`` through a mount of the file alone."""
    told = path.stat()
    return told.st_uid == user and told.st_mode & 0o777 == 0o400


def test_each_bundle_belongs_to_the_user_of_its_worker(tmp_path: Path) -> None:
    setup(tmp_path, "coordinator", "client", "watcher", "admin")
    folder = tmp_path / "for"
    assert {path.name for path in folder.iterdir()} == {"coordinator.env", "client.env"}
    assert readable_by(10001, folder / "coordinator.env")
    assert readable_by(10002, folder / "client.env")


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("", ["apply", "--fleet", "client:20"]),
        ("VERIFY.ENCRYPT", ["apply", "--fleet", "client:20", "--keeper", "VERIFY.ENCRYPT"]),
        ("none", ["apply", "--fleet", "client:20", "--keeper", "none"]),
    ],
)
def test_a_keeper_is_declared_when_its_line_is_set(
    tmp_path: Path, line: str, options: list[str]
) -> None:
    setup(tmp_path, "coordinator", "client", "keeper", keeper=line)
    assert (tmp_path / "told").read_text().split("\n") == [*options, ""]
    assert readable_by(10003, tmp_path / "for" / "keeper.env")


def test_a_keeper_that_has_left_has_no_file(tmp_path: Path) -> None:
    setup(tmp_path, "coordinator", "client", "keeper", keeper="VERIFY.ENCRYPT")
    setup(tmp_path, "coordinator", "client", keeper="none")
    assert not (tmp_path / "for" / "keeper.env").exists()


def test_a_fleet_that_was_revoked_is_not_brought_back(tmp_path: Path) -> None:
    setup(tmp_path, "coordinator", "client")
    setup(tmp_path, "coordinator")
    assert {path.name for path in (tmp_path / "for").iterdir()} == {"coordinator.env"}
