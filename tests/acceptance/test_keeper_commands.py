"""``keeper-worker keys``, ``check`` and ``install``, and what its settings refuse."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker_config.declaration.keeper import KeeperKeys
from broker_config.node.record import Node
from keeper_worker import keys as key_file
from keeper_worker.cli import main
from keeper_worker.ledger.journal import FILE
from tests.support.keeper_stage import Stage, stage
from tests.support.processes import KEYS

CLIENTS = ("alfa", "bravo", "charlie")
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Exit code, and what was said."""
    for name, value in KEYS["keeper-worker"].items():
        monkeypatch.setenv(name, value)

    def command(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        try:
            code = main(list(words))
        except SystemExit as end:
            code = int(end.code or 0)
        return code, "".join(capsys.readouterr())

    return command


@pytest.fixture
def federation(node: Node, tmp_path: Path) -> Iterator[Stage]:
    with stage(node, tmp_path / "state", CLIENTS) as made:
        yield made


def test_keys_prints_one_line_that_broker_config_takes_and_the_same_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for _ in range(2):
        assert main(["keys", "--state-dir", str(tmp_path / "state")]) == 0
        told = capsys.readouterr()
        (line,) = told.out.splitlines()
        assert KeeperKeys.parse(line).line == line
        assert "broker-config apply --keeper" in told.err
        lines.append(line)
    assert lines[0] == lines[1]
    secret = (tmp_path / "state" / key_file.FILE).read_text()
    assert lines[0].partition(".")[2] not in secret


def test_a_check_finds_nothing_wrong_with_a_keeper_as_it_should_be(
    federation: Stage, run: Run, tmp_path: Path
) -> None:
    sites = tmp_path / "sites"
    sites.write_text("\n".join(CLIENTS))
    words = ("--state-dir", str(federation.folder), "--clients", str(sites))
    url = ("--broker-url", federation.place.urls["keeper"])
    code, said = run("check", *words, *url)
    assert (code, said.count("FAIL"), said.count("warn ")) == (0, 0, 0), said
    assert federation.keys.public_line in said
    assert "0 sums were given away" in said


def test_a_check_says_what_would_keep_a_keeper_from_its_work(
    federation: Stage, run: Run, tmp_path: Path
) -> None:
    url = ("--broker-url", federation.place.urls["keeper"])
    code, said = run("check", "--state-dir", str(tmp_path / "none"), *url)
    assert (code, "holds no keys: run `keeper-worker keys" in said) == (1, True), said
    words = ("check", "--state-dir", str(federation.folder))
    code, said = run(*words, "--broker-url", federation.place.urls["alfa"])
    assert (code, "this user may not read mask, read unmask" in said) == (1, True), said
    path = ("permissions", federation.place.name, "keeper")
    more = {"configure": "^$", "write": "^unmasked$", "read": "^(mask|unmask|update)$"}
    federation.place.management.put(*path, body=more)
    assert "this user may read update, too, and a keeper must not" in run(*words, *url)[1]
    federation.start()
    assert "a keeper that runs has the folder" in run(*words, *url)[1]
    federation.keepers[-1].kill()
    with (federation.folder / FILE).open("ab") as file:
        file.write(b"{}\n")
    code, said = run(*words, *url)
    assert (code, "line 2, is damaged" in said) == (1, True), said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rounds", "3"), "add --privacy"),
        (("--privacy", "gaussian:epsilon=1,delta=1e-5,clip=1"), "needs --rounds and --quorum"),
        (("--privacy", "none:x=1", "--rounds", "3", "--quorum", "30"), "--privacy none"),
        (
            ("--privacy", "gaussian:epsilon=1,delta=1e-5,clip=1", "--rounds=3", "--quorum=3"),
            "fewer than 20",
        ),
        (("--least", "1"), "the least is 2"),
        (("--clients", "/nowhere"), "cannot be read"),
    ],
)
def test_settings_that_make_no_keeper(
    tmp_path: Path, run: Run, words: tuple[str, ...], said: str
) -> None:
    key_file.make(tmp_path)
    url = "amqp://keeper:x@127.0.0.1:1/f"
    code, found = run("--state-dir", str(tmp_path), "--broker-url", url, *words)
    assert (code, said in found) == (2, True), found


def test_the_bundle_of_somebody_else_is_not_the_keepers(tmp_path: Path, run: Run) -> None:
    key_file.make(tmp_path)
    url = "amqp://coordinator:x@127.0.0.1:1/f"
    code, said = run("--state-dir", str(tmp_path), "--broker-url", url)
    assert (code, "the keeper needs its own" in said) == (2, True), said


def test_install_writes_the_unit(tmp_path: Path, run: Run) -> None:
    code, said = run("install", "--print")
    assert (code, "Description=Warren keeper" in said) == (0, True)
