"""Two ``broker-config`` at once in one home, one that hangs, and a disk that fills up midway."""

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
from pika import exceptions

from broker_config import commands
from broker_config.cli import main
from broker_config.declaration.federation import Federation
from broker_config.home import lock
from broker_config.node import lifecycle as private_node
from broker_config.node.record import Node
from tests.support.administrator import Administrator
from tests.support.processes import BIN

FEDERATION = Federation(clients=("alfa",), fleets=(), model_bytes=1 << 20)


@pytest.fixture(autouse=True)
def no_broker_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WARREN_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def node(seen: Callable[[Node], Node]) -> Iterator[Node]:
    home = Path(tempfile.mkdtemp(prefix="warren-tests-")) / "home"
    try:
        yield seen(private_node.up(home, FEDERATION))
    finally:
        private_node.down(home)
        shutil.rmtree(home.parent, ignore_errors=True)


def command(node: Node, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BIN / "broker-config", words[0], "--home", node.home, *words[1:]],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def opens(url: str) -> bool:
    try:
        pika.BlockingConnection(pika.URLParameters(url)).close()
    except exceptions.ProbableAuthenticationError:
        return False
    return True


def test_of_two_at_once_neither_forgets_what_the_other_did(node: Node) -> None:
    """Ten pairs of `enrol`: nine clients were forgotten, who could log in and not be revoked."""
    names = [f"n{pair}-{each}" for pair in range(10) for each in range(2)]
    for first, second in zip(names[::2], names[1::2], strict=True):
        both = [command(node, "enrol", name) for name in (first, second)]
        for started in both:
            said, _ = started.communicate(timeout=60)
            assert started.returncode == 0, said
    known = json.loads((node.home / "federation.json").read_text())["clients"]
    assert set(names) <= set(known)
    assert set(names) <= set(json.loads((node.home / "credentials.json").read_text()))
    for name in names:
        bundle = (node.home / "bundles" / f"{name}.env").read_text()
        assert node.broker_url(name) in bundle
        assert opens(node.broker_url(name))
    assert main(["check", "--home", str(node.home)]) == 0
    assert f"WARREN_CLIENTS={len(known)}\n" in (node.home / "bundles/coordinator.env").read_text()


def test_different_commands_at_once_end_as_if_one_came_after_the_other(node: Node) -> None:
    assert main(["enrol", "--home", str(node.home), "going", "staying"]) == 0
    stolen = node.broker_url("going")
    words = [["revoke", "going"], ["enrol", "coming"], ["rotate", "staying"], ["up"], ["check"]]
    all_at_once = [command(node, *each) for each in words]
    for started in all_at_once:
        said, _ = started.communicate(timeout=60)
        assert (started.returncode, "Traceback" in said) == (0, False), said
    assert main(["check", "--home", str(node.home)]) == 0
    assert not opens(stolen)
    assert opens(node.broker_url("coming"))
    assert node.broker_url("staying") in (node.home / "bundles" / "staying.env").read_text()


def test_who_waits_for_another_command_says_for_whom_and_not_for_ever(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hung = subprocess.Popen(["flock", "--no-fork", node.home, "sleep", "60"])
    try:
        lines = Path("/proc/locks")
        inode = f":{node.home.stat().st_ino} "
        assert private_node.processes.wait_for(lambda: inode in lines.read_text(), 10.0)
        monkeypatch.setattr(lock, "_SILENT_S", 0.0)
        monkeypatch.setattr(lock, "WAIT_S", 0.5)
        monkeypatch.setattr(commands, "alone", lambda home: lock.alone(home, 0.5))
        capsys.readouterr()
        assert main(["enrol", "--home", str(node.home), "late"]) == 1
        waiting, gave_up = capsys.readouterr().err.splitlines()
        holder = f"`sleep 60` (pid {hung.pid})"
        assert f"waiting for {holder}, which works in {node.home}" in waiting
        assert f"{holder} works in {node.home} and was not done after" in gave_up
        assert "repeat the command when it is" in gave_up
    finally:
        hung.send_signal(signal.SIGKILL)
        hung.wait(30)


@pytest.mark.parametrize("then", ["revoke", "up"])
def test_a_disk_that_fills_up_keeps_nobody_from_being_revoked(node: Node, then: str) -> None:
    """At whichever step: access ends, one line says what is left to do, and nobody comes back."""
    with Administrator(node.home) as admin:
        at = 0
        while True:
            at += 1
            name = f"full-{then}-{at}"
            admin.works("enrol", name)
            stolen = node.broker_url(name)
            ran = admin.run("revoke", name, killed_before=at, full=True)
            assert not opens(stolen), (at, ran)
            assert "Traceback" not in ran.said
            if ran.code:
                assert ran.said.count("\n") == 1
                assert f"{name} has no access any more, but {node.home}" in ran.said
                assert "No space left on device: make room and repeat" in ran.said
            admin.works(*(("revoke", name) if then == "revoke" else ("up",)))
            assert (admin.run("check").code, opens(stolen)) == (0, False)
            if ran.code == 0:
                break
            admin.works("revoke", name)
    assert at > 2


def test_a_revoked_client_stays_out_of_up_and_apply_whatever_they_name(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", str(node.home))
    assert main(["enrol", *home, "thief"]) == 0
    stolen = node.broker_url("thief")
    assert main(["revoke", *home, "thief"]) == 0
    for words in (["up"], ["apply"]):
        capsys.readouterr()
        assert main([*words, *home, "--client", "thief"]) == 0
        assert "thief was revoked and stays out: `broker-config enrol thief` lets it in again" in (
            capsys.readouterr().err
        )
        assert "thief" not in (node.home / "federation.json").read_text()
    assert main(["enrol", *home, "thief"]) == 0
    assert opens(node.broker_url("thief"))
    assert not opens(stolen)
    assert main(["check", *home]) == 0


def test_check_names_whom_the_broker_lets_in_and_the_home_does_not_know(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", str(node.home))
    assert main(["enrol", *home, "ghost"]) == 0
    url = node.broker_url("ghost")
    path = node.home / "federation.json"
    told = json.loads(path.read_text())
    told["clients"].remove("ghost")
    path.write_text(json.dumps(told))  # as two commands at once left it, before there was a lock
    capsys.readouterr()
    assert main(["check", *home]) == 1
    said = capsys.readouterr().out
    assert (
        "user ghost: is not enrolled, and the broker has it: `broker-config revoke ghost`" in said
    )
    assert main(["revoke", *home, "ghost"]) == 0
    assert not opens(url)
    assert main(["apply", *home]) == 0
    assert main(["check", *home]) == 0


def test_check_names_bundles_and_passwords_that_are_out_of_date(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", str(node.home))
    bundle = node.home / "bundles" / "alfa.env"
    bundle.write_text(bundle.read_text().replace("WARREN_BROKER_URL=amqp://alfa:", "X=x:"))
    with node.manage() as management:
        management.put("users", "coordinator", body={"password": "another", "tags": ""})
    capsys.readouterr()
    assert main(["check", *home]) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "user coordinator: has another password than credentials.json" in said[0]
    assert "bundle alfa.env: is out of date" in said[1]
    assert main(["apply", *home, "--reset-passwords"]) == 0
    assert main(["check", *home]) == 0


def test_the_address_that_workers_use_is_remembered_with_the_broker(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`revoke` without it wrote bundles that lead nowhere for all who stayed."""
    monkeypatch.setenv("WARREN_MANAGEMENT_URL", node.management_url())
    home = tmp_path / "home"
    home.mkdir()
    passwords = json.loads((node.home / "credentials.json").read_text())
    kept = {name: passwords[name] for name in ("coordinator", "watcher")}
    (home / "credentials.json").write_text(json.dumps(kept))
    words = ["--home", str(home), "--federation", "own", "--client", "stays", "--client", "goes"]
    try:
        assert main(["apply", *words, "--amqp-address", "amqps://broker.example:5671"]) == 0
        assert main(["revoke", "--home", str(home), "goes"]) == 0
        assert main(["check", "--home", str(home)]) == 0
        for user in ("stays", "coordinator"):
            text = (home / "bundles" / f"{user}.env").read_text()
            assert "@broker.example:5671/own\n" in text
    finally:
        with node.manage() as management:
            management.delete("vhosts", "own")


@pytest.mark.parametrize(
    "addresses",
    [
        ["amqps://a.example:5671,b.example"],
        ["amqps://a.example:5671, amqps://b.example"],
        ["amqps://a.example:5671", "--amqp-address", "amqps://b.example"],
    ],
)
def test_the_nodes_of_a_cluster_are_in_every_bundle(
    node: Node, tmp_path: Path, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARREN_MANAGEMENT_URL", node.management_url())
    home = tmp_path / "home"
    home.mkdir()
    passwords = json.loads((node.home / "credentials.json").read_text())
    kept = {name: passwords[name] for name in ("coordinator", "watcher")}
    (home / "credentials.json").write_text(json.dumps(kept))
    words = ["--home", str(home), "--federation", "many-hosts", "--client", "many"]
    try:
        assert main(["apply", *words, "--amqp-address", *addresses]) == 0
        bundle = (home / "bundles" / "many.env").read_text()
        assert "@a.example:5671,b.example/many-hosts" in bundle
        # The other management API of a cluster is asked while the first is away.
        url = node.management_url().replace("@", "@127.0.0.1:9,")
        monkeypatch.setenv("WARREN_MANAGEMENT_URL", url)
        assert main(["apply", *words, "--amqp-address", *addresses]) == 0
        assert main(["check", *words]) == 0
    finally:
        with node.manage() as management:
            management.delete("vhosts", "many-hosts")
            management.delete("users", "many")


@pytest.mark.parametrize(
    "address",
    ["amqps://a.example/vhost", "amqps://a.example?x=1", "amqps://a|b", "http://a", "a", "a,b",
     "amqps://a;b", "amqps://a b", "amqps://a,", "amqps://a,amqp://b", "amqps://a,b/vhost"],
)  # fmt: skip
def test_what_would_be_left_out_of_an_address_is_refused(
    node: Node, tmp_path: Path, address: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("WARREN_MANAGEMENT_URL", node.management_url())
    assert main(["apply", "--home", str(tmp_path / "home"), "--amqp-address", address]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no address like amqps://broker.example:5671" in line


def test_a_home_is_private_whatever_the_umask_and_whatever_it_was(
    node: Node, tmp_path: Path
) -> None:
    loose = tmp_path / "loose"
    loose.mkdir(mode=0o755)
    loose.chmod(0o755)
    before = os.umask(0)
    try:
        for home in (loose, tmp_path / "new" / "home"):
            words = ["--home", str(home), "--on", str(node.home), "--federation", home.name]
            assert main(["apply", *words, "--client", f"a-{home.name}"]) == 0
            folders = [home, *(path for path in home.rglob("*") if path.is_dir())]
            files = [path for path in home.rglob("*") if path.is_file()]
            assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
            assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    finally:
        os.umask(before)
    with node.manage() as management:
        for vhost in ("loose", "home"):
            management.delete("vhosts", vhost)
