"""The systemd units: what systemd itself says of them, and what `install` does."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from client_worker import cli as client
from coordinator_worker import cli as coordinator
from tests.support.processes import ROOT
from warren_shared.service import systemd
from warren_shared.service.systemd import CLIENT, COORDINATOR, KEEPER, Unit

DEPLOYED = Path("/opt/warren/.venv/bin")
MAX_EXPOSED = 20  # of 100; a service that asks for nothing has 96

ALL = pytest.mark.parametrize(
    "unit", [COORDINATOR, CLIENT, KEEPER], ids=["coordinator", "client", "keeper"]
)


def systemd_analyze(*words: str) -> subprocess.CompletedProcess[str]:
    command = shutil.which("systemd-analyze")
    assert command, "systemd-analyze comes with Debian's package systemd"
    return subprocess.run([command, *words], capture_output=True, text=True, check=False)


def written(folder: Path, unit: Unit, *, user: bool = False) -> Path:
    """The unit for a program that is there, which `verify` looks for."""
    program = shutil.which("true")
    assert program
    path = folder / unit.name
    path.write_text(unit.text(Path(program), systemd.SETTINGS, "/etc/warren", user=user))
    return path


@ALL
@pytest.mark.parametrize("user", [False, True], ids=["system", "user"])
def test_systemd_finds_nothing_wrong_with_the_unit(unit: Unit, user: bool, tmp_path: Path) -> None:
    done = systemd_analyze("verify", "--man=no", str(written(tmp_path, unit, user=user)))
    assert (done.returncode, done.stderr) == (0, "")


@ALL
def test_the_unit_is_confined(unit: Unit, tmp_path: Path) -> None:
    path = written(tmp_path, unit)
    done = systemd_analyze("security", "--offline=yes", f"--threshold={MAX_EXPOSED}", str(path))
    assert done.returncode == 0, done.stdout[-200:]
    open_to_all = path.read_text().replace("NoNewPrivileges", "#").replace("Protect", "#")
    path.write_text(open_to_all)
    done = systemd_analyze("security", "--offline=yes", f"--threshold={MAX_EXPOSED}", str(path))
    assert done.returncode == 1


@ALL
def test_the_unit_in_the_repository_is_what_install_writes(unit: Unit) -> None:
    text = unit.text(DEPLOYED / unit.program, systemd.SETTINGS, "/etc/warren")
    assert (ROOT / "deploy" / "systemd" / unit.name).read_text() == text


def test_the_coordinator_may_do_what_its_imports_and_its_evaluating_program_do() -> None:
    """numpy calls mbind when it is imported; TensorFlow writes machine code. See test_systemd."""
    lines = COORDINATOR.text(Path("x"), "/s", "/etc/warren").splitlines()
    filters = [line for line in lines if line.startswith("SystemCallFilter=")]
    assert filters.index("SystemCallFilter=mbind") > filters.index(
        "SystemCallFilter=~@privileged @resources"
    )
    assert "SystemCallErrorNumber=EPERM" in lines
    assert "WorkingDirectory=/etc/warren" in lines
    assert not [line for line in lines if line.startswith(("MemoryDenyWrite", "ProcSubset"))]


@ALL
def test_its_command_is_one_that_the_worker_takes(unit: Unit) -> None:
    (command,) = re.findall(r"^ExecStart=(.*)$", unit.text(Path("x"), "/s", "/"), re.MULTILINE)
    flags = [word for word in command.split() if word.startswith("--")]
    program = Path(os.environ.get("VIRTUAL_ENV", Path(os.sys.executable).parents[1])) / "bin"
    told = subprocess.check_output([program / unit.program, "--help-all"], text=True)
    assert flags
    assert all(f"{flag} " in told for flag in flags)


@pytest.mark.parametrize(
    ("main", "unit", "start"),
    [(coordinator.main, COORDINATOR, "coordinator-worker\n"), (client.main, CLIENT, "@{1..4}\n")],
)
def test_install_writes_it_and_says_what_to_do(
    main: object, unit: Unit, start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(main)
    assert main(["install", "--dir", str(tmp_path), "--settings", "/srv/w/warren.toml"]) == 0
    text = (tmp_path / unit.name).read_text()
    assert "--settings /srv/w/warren.toml" in text
    assert "/srv/w/c" in text  # bundles lie beside it
    said = capsys.readouterr().out
    assert "systemctl daemon-reload" in said
    assert start in said
    assert main(["install", "--dir", str(tmp_path), "--settings", "/srv/w/warren.toml"]) == 0


def test_a_unit_that_somebody_changed_is_kept_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["install", "--dir", str(tmp_path)]
    assert coordinator.main(words) == 0
    path = tmp_path / COORDINATOR.name
    path.write_text("mine")
    assert coordinator.main(words) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert coordinator.main([*words, "--force"]) == 0
    assert path.read_text() != "mine"


def test_without_the_right_to_write_install_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert client.main(["install", "--dir", str(tmp_path / "file" / "folder")]) == 2
    assert "be root, or --user" in capsys.readouterr().err


def test_printing_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert client.main(["install", "--print", "--dir", str(tmp_path)]) == 0
    assert "Type=notify" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_program_in_somebodys_home_is_said_to_be_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(systemd, "HOMES", (tmp_path / "home",))
    asked = systemd.flags(COORDINATOR).parse_args(["--dir", str(tmp_path), "--force"])
    systemd.install(COORDINATOR, asked, tmp_path / "home" / "ann" / ".venv" / "bin" / "x")
    assert "ann/.venv/bin/x is below" in capsys.readouterr().err
    systemd.install(COORDINATOR, asked, Path("/opt/warren/.venv/bin/x"))
    assert capsys.readouterr().err == ""


def test_ones_own_systemd_gets_what_it_can_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert client.main(["install", "--user"]) == 0
    text = (tmp_path / "systemd" / "user" / CLIENT.name).read_text()
    assert "DynamicUser" not in text
    assert f"--settings {tmp_path}/warren/warren.toml" in text
    assert f"EnvironmentFile=-{tmp_path}/warren/client.env" in text
    assert "WantedBy=default.target" in text
