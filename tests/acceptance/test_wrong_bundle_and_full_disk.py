"""Bundles of somebody else, and a home folder on a disk that takes nothing: one line each."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import BIN

BUNDLES = {
    "coordinator": "WARREN_BROKER_URL=amqp://coordinator:geheim@127.0.0.1:1/f\nWARREN_CLIENTS=2\n",
    "hospital-a": "WARREN_BROKER_URL=amqp://hospital-a:geheim@127.0.0.1:1/f\n"
    "WARREN_CLIENT=hospital-a\n",
    "phone": "WARREN_BROKER_URL=amqp://phone:geheim@127.0.0.1:1/f\nWARREN_FLEET=phone\n",
    "watcher": "WARREN_BROKER_URL=amqp://watcher:geheim@127.0.0.1:1/f\n"
    "WARREN_MANAGEMENT_URL=http://watcher:geheim@127.0.0.1:2\n",
}
COORDINATOR = ["coordinator-worker", "--wait-broker-s", "0.1"]
CLIENT = ["client-worker", "--task", "tests.tasks:line", "--wait-broker-s", "0.1"]
WATCH = ["coordinator-worker", "watch", "--once"]
DASHBOARD = ["coordinator-worker", "dashboard", "--port", "0"]
REJECTED = ["coordinator-worker", "rejected"]


def given(tmp_path: Path, command: list[str], bundle: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / f"{bundle}.env"
    path.write_text(BUNDLES[bundle])
    program, *words = command
    return subprocess.run(
        [BIN / program, *words, "--env-file", path],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "bundle", "words"),
    [
        (COORDINATOR, "hospital-a", "is that of the client or fleet 'hospital-a', and the coord"),
        (COORDINATOR, "phone", "is that of the client or fleet 'phone', and the coordinator needs"),
        (COORDINATOR, "watcher", "is the watcher's, and the coordinator needs its own"),
        (CLIENT, "coordinator", "is the coordinator's, and a client needs its own: name that of"),
        (CLIENT, "watcher", "is the watcher's, and a client needs its own"),
        (WATCH, "coordinator", "is the coordinator's, and who watches needs its own: name bundles"),
        (WATCH, "phone", "is that of the client or fleet 'phone', and who watches needs its own"),
        (DASHBOARD, "hospital-a", "is that of the client or fleet 'hospital-a', and who watches"),
        (REJECTED, "watcher", "is the watcher's, and this command needs its own: name bundles/coo"),
    ],
)
def test_a_bundle_of_somebody_else_is_refused_with_whose_it_is(
    tmp_path: Path, command: list[str], bundle: str, words: str
) -> None:
    told = given(tmp_path, command, bundle)
    assert told.returncode == 2
    (line,) = told.stderr.splitlines()
    assert words in line
    assert "geheim" not in told.stdout + told.stderr


def test_the_right_bundle_comes_as_far_as_the_broker(tmp_path: Path) -> None:
    for command, bundle in (
        (COORDINATOR, "coordinator"), (CLIENT, "hospital-a"), (WATCH, "watcher"),
    ):  # fmt: skip
        assert "cannot reach the broker" in given(tmp_path, command, bundle).stderr


def in_a_mount(folder: Path, options: str, script: str) -> subprocess.CompletedProcess[str]:
    """``script`` in a mount namespace of its own, where ``folder`` is a tmpfs with ``options``."""
    whole = f'mount -t tmpfs -o {options} tmpfs "$1" && {script}'
    private = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-r", "-m"]
    return subprocess.run(
        [*private, "sh", "-c", whole, "sh", folder, BIN / "broker-config"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("size=4k", "No space left on device: make room and repeat the command"),
        ("size=4k,ro", "Read-only file system: name a home folder on a disk that can be written"),
    ],
)
@pytest.mark.parametrize("command", ["up", "certs --host broker.example", "definitions --password"])
def test_a_home_folder_on_a_disk_that_takes_nothing_is_one_line(
    tmp_path: Path, options: str, words: str, command: str
) -> None:
    if "definitions" in command:
        command = "definitions --password-hashes"
        if options == "size=4k":
            options = "size=4k,nr_inodes=2"  # the folder, and no file in it
    told = in_a_mount(tmp_path, options, f'"$2" {command} --home "$1/home"')
    assert told.returncode == 1
    (line,) = told.stderr.splitlines()
    assert words in line


def test_what_was_there_is_whole_after_the_disk_was_full(tmp_path: Path) -> None:
    script = (
        '"$2" definitions --password-hashes --home "$1/h" --client a >/dev/null || exit 3; '
        'cp "$1/h/credentials.json" "$1/before"; cat /dev/zero >"$1/filler" 2>/dev/null; '
        '"$2" definitions --password-hashes --home "$1/h" --client a --client b >/dev/null; '
        'code=$?; cmp "$1/h/credentials.json" "$1/before" && ls -A "$1/h"; exit $code'
    )
    told = in_a_mount(tmp_path, "size=16k", script)
    assert told.returncode == 1
    assert "No space left" in told.stderr
    assert "Traceback" not in told.stderr
    assert told.stdout.split() == ["credentials.json"]


@pytest.mark.parametrize("inside", ["", "/home"])
def test_a_file_in_the_place_of_the_home_folder_is_one_line(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("mine")
    told = subprocess.run(
        [BIN / "broker-config", "up", "--home", f"{tmp_path}/file{inside}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 1
    (line,) = told.stderr.splitlines()
    assert "a file is in the way: move it, or name another home folder" in line
    assert (tmp_path / "file").read_text() == "mine"
