"""``broker-config`` killed before each of its effects: run again, it is as if it never had been.

After each kill the command is run again, or ``up`` comes first, as after a power cut; then
``check`` has nothing to say, whoever was revoked is out with the bundle it had, and whoever was
enrolled is in. On one real node; of points that are alike some are left out, unless
``WARREN_TEST_CRASH_POINTS=all`` (``make admin-crashes``).
"""

import os
import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pika
import pytest
from pika import exceptions

from broker_config.declaration.federation import Federation, Fleet
from broker_config.home.changes import remembered
from broker_config.node import lifecycle as private_node
from broker_config.node.record import Node
from broker_config.secrets.certificates import Authority, Identity
from broker_config.secrets.keys import ensure_keys
from tests.support.administrator import KILLED, Administrator, Ran
from tests.support.keeper import KEEPER, OTHER_KEEPER

ALL = os.environ.get("WARREN_TEST_CRASH_POINTS") == "all"
FEDERATION = Federation(clients=("alfa",), fleets=(Fleet("phone", 2),), model_bytes=1 << 20)

_numbers = count()


@pytest.fixture(scope="module")
def node(seen: Callable[[Node], Node]) -> Iterator[Node]:
    home = Path(tempfile.mkdtemp(prefix="warren-tests-")) / "home"
    try:
        yield seen(private_node.up(home, FEDERATION))
    finally:
        private_node.down(home)
        shutil.rmtree(home.parent, ignore_errors=True)


@pytest.fixture(scope="module")
def admin(node: Node) -> Iterator[Administrator]:
    with Administrator(node.home) as administrator:
        yield administrator


def bundle(home: Path, user: str) -> dict[str, str]:
    lines = (home / "bundles" / f"{user}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def opens(url: str) -> bool:
    try:
        pika.BlockingConnection(pika.URLParameters(url)).close()
    except (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError):
        return False
    return True


def url_of(home: Path, user: str) -> str:
    return bundle(home, user)["WARREN_BROKER_URL"]


def a_name() -> str:
    return f"site-{next(_numbers)}"


def kills(run: Callable[[int], Ran], every: int = 1) -> Iterator[Ran]:
    """Run a command killed before each of its effects, from the first to the last, and once whole.

    ``run`` makes what the command needs, runs it, and is given the number of the effect. Of those
    that are alike only ``every``-th is tried, unless all are to be.
    """
    for at in count(1, 1 if ALL else every):
        ran = run(at)
        assert ran.code in (0, KILLED), ran.said
        yield ran
        if ran.code == 0:
            assert at > 3, "the command has effects, and they were seen"
            return


def is_as_declared(admin: Administrator, home: Path | None = None) -> None:
    ran = admin.run("check", home=home)
    assert (ran.code, ran.said) == (0, "")


def is_gone(admin: Administrator, name: str) -> None:
    """Take ``name`` away, so that the next command has no more bundles to write than the last."""
    if name in (remembered(admin.home) or FEDERATION).revocable:
        admin.works("revoke", name)


@pytest.mark.parametrize("then", ["enrol", "up"])
def test_enrol(admin: Administrator, then: str) -> None:
    name = ""

    def run(at: int) -> Ran:
        nonlocal name
        name = a_name()
        return admin.run("enrol", name, killed_before=at)

    for ran in kills(run, 1 if then == "enrol" else 3):
        if then == "up":
            admin.works("up")
            is_as_declared(admin)
        else:
            admin.works("enrol", name)
            is_as_declared(admin)
            assert opens(url_of(admin.home, name)), ran.effects
            assert bundle(admin.home, name)["WARREN_CLIENT"] == name
        is_gone(admin, name)


@pytest.mark.parametrize("then", ["revoke", "up", "apply", "enrol"])
def test_revoke(admin: Administrator, then: str) -> None:
    name = stolen = ""

    def run(at: int) -> Ran:
        nonlocal name, stolen
        name = a_name()
        admin.works("enrol", name)
        stolen = url_of(admin.home, name)
        assert opens(stolen)
        return admin.run("revoke", name, killed_before=at)

    for ran in kills(run, 1 if then == "revoke" else 2):
        begun = any("revoked/" in effect for effect in ran.effects)
        words = (then, name) if then in ("revoke", "enrol") else (then,)
        admin.works(*words)
        is_as_declared(admin)
        if then == "enrol" and begun:
            assert opens(url_of(admin.home, name))
        assert opens(stolen) == (then != "revoke" and not begun), ran.effects
        if then == "revoke":
            assert not (admin.home / "bundles" / f"{name}.env").exists()
            admin.works("revoke", name)
            admin.works("up")
            is_as_declared(admin)
            assert not opens(stolen)
        is_gone(admin, name)


@pytest.mark.parametrize("then", ["rotate", "up", "apply"])
def test_rotate(admin: Administrator, then: str) -> None:
    name = a_name()
    admin.works("enrol", name)
    old = ""

    def run(at: int) -> Ran:
        nonlocal old
        old = url_of(admin.home, name)
        return admin.run("rotate", name, killed_before=at)

    for ran in kills(run, 1 if then == "rotate" else 2):
        admin.works(*((then, name) if then == "rotate" else (then,)))
        is_as_declared(admin)
        new = url_of(admin.home, name)
        assert opens(new), ran.effects
        assert opens(old) == (new == old)
        assert then != "rotate" or new != old
    is_gone(admin, name)


@pytest.mark.parametrize("then", ["again", "up"])
def test_a_keeper_comes(admin: Administrator, then: str) -> None:
    words = ("apply", "--keeper", KEEPER)

    def run(at: int) -> Ran:
        is_gone(admin, "keeper")
        return admin.run(*words, killed_before=at)

    for ran in kills(run, 1 if then == "again" else 3):
        admin.works(*(words if then == "again" else ("up",)))
        is_as_declared(admin)
        if then == "again":
            assert opens(url_of(admin.home, "keeper")), ran.effects
            assert "WARREN_KEEPER_KEY" in bundle(admin.home, "alfa")
    is_gone(admin, "keeper")


@pytest.mark.parametrize("then", ["again", "up", "back"])
def test_a_keeper_goes(admin: Administrator, node: Node, then: str) -> None:
    stolen = ""

    def run(at: int) -> Ran:
        nonlocal stolen
        admin.works("apply", "--keeper", KEEPER)
        stolen = url_of(admin.home, "keeper")
        assert opens(stolen)
        return admin.run("apply", "--keeper", "none", killed_before=at)

    for ran in kills(run, 1 if then == "again" else 2):
        begun = any("revoked/" in effect for effect in ran.effects)
        keeper = {"again": ("--keeper", "none"), "back": ("--keeper", KEEPER), "up": ()}[then]
        admin.works("up", *keeper)
        is_as_declared(admin)
        assert opens(stolen) == (then != "again" and not begun), ran.effects
        if then == "again" or (then == "up" and begun):
            with node.manage() as management:
                assert management.get("queues", "warren", "mask") is None
                assert management.get("exchanges", "warren", "unmasked") is None
                assert management.get("policies", "warren", "keeper") is None
            assert "WARREN_KEEPER_KEY" not in bundle(admin.home, "alfa")
            assert not (admin.home / "bundles" / "keeper.env").exists()
        else:
            assert opens(url_of(admin.home, "keeper"))
    is_gone(admin, "keeper")


@pytest.mark.parametrize("then", ["again", "up"])
def test_a_keeper_is_replaced(admin: Administrator, then: str) -> None:
    """Who has the old one's bundle is out as soon as clients are told the new one's key."""
    stolen = ""

    def run(at: int) -> Ran:
        nonlocal stolen
        is_gone(admin, "keeper")
        admin.works("apply", "--keeper", KEEPER)
        stolen = url_of(admin.home, "keeper")
        return admin.run("apply", "--keeper", OTHER_KEEPER, killed_before=at)

    for ran in kills(run, 1 if then == "again" else 2):
        admin.works("up", *(("--keeper", OTHER_KEEPER) if then == "again" else ()))
        is_as_declared(admin)
        assert opens(url_of(admin.home, "keeper")), ran.effects
        is_new = bundle(admin.home, "alfa")["WARREN_KEEPER_KEY"] == OTHER_KEEPER.split(".")[1]
        assert is_new or then == "up"
        assert not (is_new and opens(stolen)), ran.effects
    is_gone(admin, "keeper")


@pytest.mark.parametrize("then", ["rotate", "up"])
def test_rotate_keys(admin: Administrator, then: str) -> None:
    """The keys that clients have from the last bundles are good until they were given others."""
    before = ""

    def run(at: int) -> Ran:
        nonlocal before
        before = ensure_keys(admin.home).signing[0]
        return admin.run("rotate", "--keys", killed_before=at)

    for ran in kills(run):
        if then == "rotate" and ran.code == KILLED:
            admin.works("rotate", "--keys")
        else:
            admin.works("up")
        is_as_declared(admin)
        keys = ensure_keys(admin.home)
        assert before in keys.signing, ran.effects
        assert then == "up" or keys.signing[0] != before
        assert bundle(admin.home, "coordinator")["WARREN_SIGNING_KEYS"] == ",".join(keys.signing)
        assert bundle(admin.home, "alfa")["WARREN_VERIFY_KEYS"] == ",".join(keys.verify)


def test_apply_mends_what_somebody_broke(admin: Administrator, node: Node) -> None:
    def run(at: int) -> Ran:
        with node.manage() as management:
            management.delete("policies", "warren", "mailbox")
            management.delete("queues", "warren", "model.phone.1")
            management.delete("permissions", "warren", "watcher")
            management.delete("users", "alfa")
        return admin.run("apply", killed_before=at)

    for _ in kills(run, 2):
        admin.works("apply")
        is_as_declared(admin)
        assert opens(url_of(admin.home, "alfa"))


def test_a_second_federation_on_the_broker(
    admin: Administrator, node: Node, tmp_path: Path
) -> None:
    home = Path()
    federation = ""

    def run(at: int) -> Ran:
        nonlocal home, federation
        federation = f"beside-{at}"
        home = tmp_path / federation / "home"
        home.parent.mkdir()
        return admin.run(*words(), home=home, killed_before=at)

    def words() -> tuple[str, ...]:
        fleet = f"a-{federation}:1"
        return ("apply", "--on", str(node.home), "--federation", federation, "--fleet", fleet)

    for _ in kills(run, 4):
        admin.works(*words(), home=home)
        is_as_declared(admin, home)
        assert opens(url_of(home, f"a-{federation}"))
        with node.manage() as management:
            management.delete("vhosts", federation)
            management.delete("users", f"a-{federation}")
    is_as_declared(admin)


def test_certs(admin: Administrator, node: Node, tmp_path: Path) -> None:
    """A certificate never stays with the key of another."""
    home = tmp_path / "home"
    fresh = ("certs", "--host", "b.example", "--mutual", "--client", "alfa")

    def run(at: int) -> Ran:
        if ALL or at % 3 == 0:
            shutil.rmtree(home, ignore_errors=True)
        renewed = home.exists()
        return admin.run(*fresh, *(["--renew"] if renewed else []), home=home, killed_before=at)

    for ran in kills(run):
        admin.works(*fresh, home=home)
        authority = Authority(home)
        for pair in (authority.server(["b.example"]), authority.user("alfa")):
            assert is_a_pair(pair), ran.effects


def is_a_pair(identity: Identity) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(identity.certificate, identity.key)
    except ssl.SSLError:
        return False
    return True


def test_up_that_finds_it_running(admin: Administrator) -> None:
    name = ""

    def run(at: int) -> Ran:
        nonlocal name
        name = a_name()
        return admin.run("up", "--client", name, killed_before=at)

    for _ in kills(run, 2):
        admin.works("up", "--client", name)
        is_as_declared(admin)
        assert opens(url_of(admin.home, name))
        is_gone(admin, name)


def points(effects: list[str]) -> list[int]:
    """Which effects of a command that starts or stops a node to kill it at."""
    if ALL:
        return list(range(1, len(effects) + 1))
    return [at + 1 for at, effect in enumerate(effects, 1) if "Popen" in effect]


def test_up_that_starts_a_node(tmp_path: Path) -> None:
    """Killed between a process's start and the note of its pid, too: nothing is started twice."""
    home = tmp_path / "home"
    with Administrator(home) as admin:
        try:
            effects = admin.works("up", "--client", "alfa").effects
            for at in points(effects):
                admin.works("down")
                shutil.rmtree(home)
                ran = admin.run("up", "--client", "alfa", killed_before=at)
                assert ran.code == KILLED, ran.said
                admin.works("up", "--client", "alfa")
                is_as_declared(admin)
                assert opens(url_of(home, "alfa"))
                running = processes_of(home)
                assert len(running["beam.smp"]) == 1, (ran.effects, running)
                assert len(running["epmd"]) == 1, (ran.effects, running)
            for at in points(admin.works("down").effects):
                admin.works("up")
                is_as_declared(admin)
                assert admin.run("down", killed_before=at).code in (0, KILLED)
                admin.works("down")
                assert not processes_of(home)["beam.smp"]
        finally:
            admin.run("down")
            private_node.down(home)


def processes_of(home: Path) -> dict[str, list[int]]:
    """Processes of the node in ``home`` that have not ended, by program."""
    found: dict[str, list[int]] = {"beam.smp": [], "epmd": []}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            program = (process / "comm").read_text().strip()
            mark = f"WARREN_NODE={home / 'node'}".encode()
            if mark in (process / "environ").read_bytes().split(b"\0") and program in found:
                found[program].append(int(process.name))
        except OSError:
            continue
    return found
