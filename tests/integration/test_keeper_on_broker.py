"""A federation's keeper on a real broker: how it comes, is replaced by another, and goes."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pika
import pytest
from pika import exceptions

from broker_config.broker.management_api import Management
from broker_config.cli import main
from broker_config.declaration.federation import Federation, load
from broker_config.home.marks import revoked
from broker_config.node import lifecycle as private_node
from broker_config.node.processes import wait_for
from broker_config.node.record import Node
from broker_config.secrets.bundles import bundle_path, load_passwords
from broker_config.secrets.keys import ensure_keys
from tests.support.keeper import ENCRYPT, KEEPER, OTHER_KEEPER, VERIFY

FEDERATION: Final = Federation(clients=("alfa",), fleets=(), model_bytes=1 << 20)
QUEUES: Final = {"mask", "unmask", "unmasked"}

Run = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def no_broker_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WARREN_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def home(seen: Callable[[Node], Node]) -> Iterator[Path]:
    found = Path(tempfile.mkdtemp(prefix="warren-tests-")) / "home"
    try:
        seen(private_node.up(found, FEDERATION))
        yield found
    finally:
        private_node.down(found)
        shutil.rmtree(found.parent, ignore_errors=True)


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run ``broker-config``: exit code and what was said; afterwards there is no keeper."""

    def command(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main([words[0], "--home", str(home), *words[1:]])
        return code, "".join(capsys.readouterr())

    yield command
    main(["up", "--home", str(home), "--keeper", "none", "--no-encrypt-updates"])
    main(["revoke", "--home", str(home), "keeper"])
    revoked(home).drop(["keeper"])


def managed(home: Path) -> Management:
    node = private_node.status(home).node
    assert node is not None
    return node.manage()


def url(home: Path, user: str) -> str:
    lines = bundle_path(home, user).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)["WARREN_BROKER_URL"]


def opened(url: str) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(url))


def opens(url: str) -> bool:
    try:
        opened(url).close()
    except exceptions.ProbableAuthenticationError:
        return False
    return True


def declared(home: Path) -> dict[str, Any]:
    """All that the broker has, but for passwords."""
    with managed(home) as management:
        found: dict[str, Any] = management.get("definitions")
        found["limits"] = management.get("user-limits")
    for user in found["users"]:
        user.pop("password_hash")
    return {name: sorted(map(repr, what)) for name, what in found.items() if isinstance(what, list)}


def queues(home: Path) -> set[str]:
    with managed(home) as management:
        return {row["name"] for row in management.get("queues", "warren")}


def publish(url: str, exchange: str, key: str, body: bytes, times: int = 1) -> None:
    with opened(url) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for _ in range(times):
            channel.basic_publish(exchange, key, body, mandatory=True)


def taken(url: str, queue: str) -> bytes:
    """The next message of ``queue``, which is back in it afterwards."""
    found: list[bytes] = []
    with opened(url) as connection:
        channel = connection.channel()
        for _, _, body in channel.consume(queue, inactivity_timeout=20):
            found.append(body or b"")
            break
    return found[0]


def test_a_keeper_comes_with_queues_a_user_and_a_bundle_and_all_bundles_are_to_hand_over(
    home: Path, run: Run
) -> None:
    assert not load_passwords(home).get("keeper")
    code, said = run("apply", "--keeper", KEEPER)
    assert code == 0
    assert "with a keeper updates are encrypted (--encrypt-updates)" in said
    for user in ("coordinator", "watcher", "keeper", "alfa"):
        assert f"hand to {user}: {bundle_path(home, user)}\n" in said
    assert run("check") == (0, "")
    assert run("check", "--keeper", OTHER_KEEPER)[0] == 1  # their bundles would say something else
    assert "hand to" not in run("apply")[1]
    assert queues(home) >= QUEUES
    keys = ensure_keys(home)
    assert bundle_path(home, "keeper").read_text().splitlines() == [
        f"WARREN_BROKER_URL={url(home, 'keeper')}",
        f"WARREN_VERIFY_KEYS={','.join(keys.verify)}",
        f"WARREN_ENCRYPT_KEY={keys.encrypt}",
        f"WARREN_KEEPER_KEY={ENCRYPT}",
    ]
    assert f"WARREN_KEEPER_KEY={ENCRYPT}\n" in bundle_path(home, "alfa").read_text()
    told = bundle_path(home, "coordinator").read_text()
    assert f"WARREN_KEEPER_KEY={ENCRYPT}\nWARREN_KEEPER_VERIFY_KEY={VERIFY}\n" in told


def test_seeds_requests_and_answers_reach_whom_they_are_for(home: Path, run: Run) -> None:
    assert run("apply", "--keeper", KEEPER)[0] == 0
    publish(url(home, "alfa"), "update", "mask", b"seed")
    publish(url(home, "coordinator"), "", "unmask", b"request")
    publish(url(home, "keeper"), "unmasked", "", b"answer")
    assert taken(url(home, "keeper"), "mask") == b"seed"
    assert taken(url(home, "keeper"), "unmask") == b"request"
    assert taken(url(home, "coordinator"), "unmasked") == b"answer"


def test_the_broker_bounds_the_keepers_queues(home: Path, run: Run) -> None:
    assert run("apply", "--keeper", KEEPER)[0] == 0

    def limits() -> dict[str, Any]:
        with managed(home) as management:
            found = {name: management.get("queues", "warren", name) for name in QUEUES}
        return {
            name: row.get("effective_policy_definition", {}) for name, row in found.items() if row
        }

    assert wait_for(lambda: all("max-length" in row for row in limits().values()), 30.0)
    sizes = {name: row["max-length"] for name, row in limits().items()}
    assert sizes == {"mask": 8_192, "unmask": 64, "unmasked": 4 * 9}
    assert {row["delivery-limit"] for row in limits().values()} == {1_000_000_000}
    assert not [name for name, row in limits().items() if "overflow" in row]
    with pytest.raises(exceptions.NackError):
        publish(url(home, "coordinator"), "", "unmask", b"request", times=200)


@pytest.mark.parametrize("words", [("apply", "--keeper", "none"), ("revoke", "keeper")])
def test_a_keeper_that_goes_is_out_at_once_and_leaves_nothing(
    home: Path, run: Run, words: tuple[str, ...]
) -> None:
    assert run("apply", "--encrypt-updates")[0] == 0
    before = declared(home)
    # What an earlier test's keeper had left would be no difference.
    rows = [row for rows in before.values() for row in rows]
    assert not [row for row in rows if "mask" in row or "keeper" in row]
    assert run("apply", "--keeper", KEEPER)[0] == 0
    assert declared(home) != before
    publish(url(home, "alfa"), "update", "mask", b"seed")
    stolen = url(home, "keeper")
    there = opened(stolen)
    code, said = run(*words)
    assert code == 0
    assert ("hand to alfa" in said) == (words[0] == "apply")
    with pytest.raises(exceptions.ConnectionClosedByBroker):
        there.process_data_events(10)
    assert not opens(stolen)
    assert declared(home) == before
    assert run("check") == (0, "")
    assert "keeper" not in load_passwords(home)
    assert not bundle_path(home, "keeper").exists()
    assert "KEEPER" not in bundle_path(home, "alfa").read_text()
    for again in (("up",), ("apply",)):
        assert run(*again)[0] == 0
        assert declared(home) == before
    # And back: with another password.
    assert run("apply", "--keeper", KEEPER)[0] == 0
    assert run("check") == (0, "")
    assert not opens(stolen)
    assert opens(url(home, "keeper"))


def test_another_keeper_is_another_login_and_what_waits_stays(home: Path, run: Run) -> None:
    assert run("apply", "--keeper", KEEPER)[0] == 0
    publish(url(home, "alfa"), "update", "mask", b"seed")
    stolen = url(home, "keeper")
    there = opened(stolen)
    assert run("apply", "--keeper", KEEPER)[0] == 0
    assert opens(stolen), "it is the same"
    code, said = run("apply", "--keeper", OTHER_KEEPER)
    assert code == 0
    assert "hand to keeper" in said
    with pytest.raises(exceptions.ConnectionClosedByBroker):
        there.process_data_events(10)
    assert not opens(stolen)
    assert run("check") == (0, "")
    assert taken(url(home, "keeper"), "mask") == b"seed"


@pytest.mark.parametrize("keeper", ["none", OTHER_KEEPER])
def test_a_keeper_may_be_replaced_or_go_while_the_node_is_down(
    home: Path, run: Run, keeper: str
) -> None:
    assert run("apply", "--keeper", KEEPER)[0] == 0
    stolen = url(home, "keeper")
    private_node.down(home)
    assert run("up", "--keeper", keeper)[0] == 0
    assert not opens(stolen)
    assert run("check") == (0, "")
    assert (queues(home) >= QUEUES) == (keeper != "none")


def test_passwords_and_keys_are_rotated_for_the_keeper_too(home: Path, run: Run) -> None:
    assert run("apply", "--keeper", KEEPER)[0] == 0
    before, keys = url(home, "keeper"), ensure_keys(home)
    code, said = run("rotate", "keeper")
    assert (code, said) == (0, f"hand to keeper: {bundle_path(home, 'keeper')}\n")
    assert not opens(before)
    assert opens(url(home, "keeper"))
    code, said = run("rotate", "--keys")
    assert (code, "hand to keeper" in said) == (0, True)
    newer = ensure_keys(home)
    assert newer.encrypt != keys.encrypt
    assert f"WARREN_ENCRYPT_KEY={newer.encrypt}\n" in bundle_path(home, "keeper").read_text()
    assert run("check") == (0, "")


def test_a_keeper_that_the_home_does_not_know_is_named_by_check_and_not_touched(
    home: Path, run: Run
) -> None:
    assert run("apply", "--keeper", KEEPER)[0] == 0
    path = home / "federation.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {"keeper": ""}))  # as of a backup
    assert run("apply")[0] == 0
    assert queues(home) >= QUEUES, "somebody may be working with them"
    code, said = run("check")
    assert code == 1
    assert (
        "user keeper: is not enrolled, and the broker has it: `broker-config revoke keeper`" in said
    )
    assert run("revoke", "keeper")[0] == 0
    assert run("check") == (0, "")
    assert not queues(home) & QUEUES


def test_what_a_keeper_rules_out_is_one_clear_line(home: Path, run: Run) -> None:
    code, said = run("apply", "--keeper", "somebody")
    assert code == 2
    assert "'somebody' is no keeper" in said
    code, said = run("apply", "--keeper", KEEPER, "--no-encrypt-updates")
    assert (code, said.count("\n")) == (1, 1)
    assert "--no-encrypt-updates: with a keeper they are encrypted" in said
    found = load(home / "federation.json")
    assert found is not None
    assert found.keeper == ""
    assert run("revoke", "keeper")[0] == 1
    assert run("rotate", "keeper")[0] == 1
    assert run("enrol", "keeper")[0] == 1


def test_a_queue_that_is_there_with_other_arguments_stops_it(home: Path, run: Run) -> None:
    with managed(home) as management:
        management.put("queues", "warren", "mask", body={"durable": True, "arguments": {}})
    try:
        code, said = run("apply", "--keeper", KEEPER)
        assert code == 1
        assert "queue mask: " in said
        assert "delete that queue" in said
        assert queues(home) & QUEUES == {"mask"}
    finally:
        with managed(home) as management:
            management.delete("queues", "warren", "mask")
