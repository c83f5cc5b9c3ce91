"""The unit of `broker-config install`: what systemd says of it, and what the command does."""

import getpass
import shutil
import subprocess
from pathlib import Path

import pytest

from broker_config import unit
from broker_config.cli import main

MOST_EXPOSED = 25  # of 100; a node writes machine code, and may have a port below 1024


@pytest.fixture
def home(tmp_path: Path) -> Path:
    found = tmp_path / "home"
    found.mkdir()
    (found / "node.json").write_text("{}")
    return found


def systemd_analyze(*words: str) -> subprocess.CompletedProcess[str]:
    command = shutil.which("systemd-analyze")
    assert command, "systemd-analyze comes with Debian's package systemd"
    return subprocess.run([command, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("user", [False, True], ids=["system", "user"])
def test_systemd_finds_nothing_wrong_with_it(home: Path, tmp_path: Path, user: bool) -> None:
    program = shutil.which("true")
    assert program
    path = tmp_path / unit.NAME
    path.write_text(unit.text(Path(program), home, user=user))
    done = systemd_analyze("verify", "--man=no", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    if not user:
        threshold = f"--threshold={MOST_EXPOSED}"
        done = systemd_analyze("security", "--offline=yes", threshold, str(path))
        assert done.returncode == 0, done.stdout[-200:]


def test_install_writes_it_for_who_owns_the_home(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["install", "--home", str(home), "--dir", str(tmp_path)]
    assert main(words) == 0
    text = (tmp_path / unit.NAME).read_text()
    assert f"User={getpass.getuser()}\n" in text
    assert f"up --foreground --home {home}\n" in text
    assert f"ReadWritePaths={home}\n" in text
    assert "systemctl enable --now warren-broker" in capsys.readouterr().out
    (tmp_path / unit.NAME).write_text("mine")
    assert main(words) == 1
    assert "--force replaces it" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    assert main([*words, "--user", "--force"]) == 0
    assert "User=" not in (tmp_path / unit.NAME).read_text()


def test_a_home_without_a_node_has_nothing_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install", "--home", str(tmp_path / "none"), "--dir", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "`broker-config up` first" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["two words", "100%", "a'b", "a\nb", "$HOME"])
def test_a_path_that_systemd_reads_otherwise_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / name
    home.mkdir()
    (home / "node.json").write_text("{}")
    assert main(["install", "--home", str(home), "--print"]) == 1
    assert "move it" in capsys.readouterr().err
