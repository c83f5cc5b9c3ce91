"""Yesterday's workers and today's, over one broker: they work together, or say why not."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from broker_config.node import lifecycle as private_node
from coordinator_worker.storage import checkpoint
from tests.conftest import Place
from tests.support import yesterday
from tests.support.processes import BIN, ENCRYPT, ROOT, Worker, environment_of, workers
from warren_shared.protocol.messages import PROTOCOL

UNSIGNED = {"WARREN_SIGNING_KEYS": ""}
UNVERIFIED = {"WARREN_VERIFY_KEYS": ""}
ROUNDS = 6
SIZE = 600_000  # three chunks


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of yesterday."""
    return yesterday.export(tmp_path_factory.mktemp("yesterday"))


def client(place: Place, user: str, index: int, tree: Path = ROOT, **extra: str) -> Worker:
    task = ("--task", "tests.tasks:ledger", "--index", str(index), "--size", str(SIZE))
    return Worker("client-worker", place.urls[user], *task, tree=tree, **extra)


def coordinator(
    place: Place, folder: Path, *arguments: str, tree: Path = ROOT, **extra: str
) -> Worker:
    told = ("--checkpoint-dir", str(folder), *arguments)
    return Worker("coordinator-worker", place.urls["coordinator"], *told, tree=tree, **extra)


def counts(folder: Path) -> np.ndarray:
    state = checkpoint.load(folder)
    assert state is not None
    return state.weights[0][:4]


def test_yesterdays_client_works_beside_todays_with_todays_coordinator(
    place: Place, old: Path, tmp_path: Path
) -> None:
    goal = ("--quorum", "2", "--rounds", str(ROUNDS))
    with workers() as started:
        started.append(client(place, "alfa", 0, tree=old))
        started.append(client(place, "bravo", 1, **UNVERIFIED))
        started.append(coordinator(place, tmp_path, *goal, **UNSIGNED))
        assert [worker.end() for worker in started] == [0, 0, 0]
    np.testing.assert_allclose(counts(tmp_path), [ROUNDS / 2, ROUNDS / 2, 0, 0], rtol=1e-6)


def test_todays_client_works_beside_yesterdays_with_yesterdays_coordinator(
    place: Place, old: Path, tmp_path: Path
) -> None:
    goal = ("--quorum", "2", "--rounds", str(ROUNDS))
    with workers() as started:
        started.append(client(place, "alfa", 0, **UNVERIFIED))
        started.append(client(place, "bravo", 1, tree=old))
        started.append(coordinator(place, tmp_path, *goal, tree=old))
        assert [worker.end() for worker in started] == [0, 0, 0]
    np.testing.assert_allclose(counts(tmp_path), [ROUNDS / 2, ROUNDS / 2, 0, 0], rtol=1e-6)


def test_a_client_that_is_too_old_for_signed_models_is_told_so_and_the_others_go_on(
    place: Place, old: Path, tmp_path: Path
) -> None:
    with workers() as started:
        late = client(place, "alfa", 0, tree=old)
        coordinating = coordinator(place, tmp_path, "--quorum", "1", "--rounds", str(ROUNDS))
        started += [late, coordinating]
        said = coordinating.wait_for("update_rejected", client="alfa", reason="protocol")["message"]
        told = late.wait_for("update_rejected", reason="protocol")["message"]
        for line in (said, told):
            assert "alfa reads protocols up to 1" in line
            assert "are of protocol 2: upgrade alfa, or start the coordinator without" in line
        started.append(client(place, "bravo", 1))
        assert coordinating.end() == 0
        assert started[-1].end() == 0
        late.kill()
    assert late.said.count("\n") < 10 * ROUNDS, "it asks again and again"
    assert coordinating.said.count('"reason": "protocol"') < 10
    np.testing.assert_allclose(counts(tmp_path), [0, ROUNDS, 0, 0], rtol=1e-6)


def test_a_client_with_keys_says_what_a_coordinator_without_signatures_lacks(
    place: Place, old: Path, tmp_path: Path
) -> None:
    with workers() as started:
        early = client(place, "alfa", 0)
        coordinating = coordinator(
            place, tmp_path, "--quorum", "1", "--rounds", str(ROUNDS), tree=old
        )
        started += [early, coordinating]
        said = early.wait_for("not_genuine")["message"]
        assert f"not signed (protocol 1), and this client (protocol {PROTOCOL}) has keys" in said
        assert "the coordinator is older than the keys" in said
        started.append(client(place, "bravo", 1, tree=old))
        assert coordinating.end() == 0
        assert early.process.poll() is None
        early.kill()
    assert early.said.count("\n") < 10 * ROUNDS, "it asks again and again"


def test_a_client_that_encrypts_is_told_by_a_coordinator_that_cannot_decrypt(
    place: Place, old: Path, tmp_path: Path
) -> None:
    with workers() as started:
        early = client(place, "alfa", 0, **UNVERIFIED, **ENCRYPT)
        coordinating = coordinator(
            place, tmp_path, "--quorum", "1", "--rounds", str(ROUNDS), tree=old
        )
        started += [early, coordinating]
        for worker in (coordinating, early):
            said = worker.wait_for("update_rejected", reason="protocol")["message"]
            assert "speaks protocol 2, this side 1" in said
        started.append(client(place, "bravo", 1, tree=old))
        assert coordinating.end() == 0
        early.kill()
    assert early.said.count("\n") < 10 * ROUNDS, "it asks again and again"


def broker_config(tree: Path, home: Path, command: str, *arguments: str) -> str:
    """Run a command of ``tree``'s broker-config; return what it printed."""
    told = subprocess.run(
        [BIN / "broker-config", command, "--home", home, *arguments],
        cwd=tree, env=environment_of(tree), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return told.stdout + told.stderr


@dataclass(frozen=True)
class Site:
    """A federation that somebody runs in ``folder``, with the bundles of its home."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def worker(self, command: str, user: str, *arguments: str, tree: Path, **extra: str) -> Worker:
        """A worker with a user's bundle as it lies there now, copied over to it."""
        lines = (self.home / "bundles" / f"{user}.env").read_text().splitlines()
        bundle = dict(line.split("=", 1) for line in lines)
        none = {"WARREN_SIGNING_KEYS": "", "WARREN_VERIFY_KEYS": "", "WARREN_DECRYPT_KEYS": ""}
        return Worker(command, "", *arguments, tree=tree, **(none | bundle | extra))

    def rounds(self, number: int, trees: tuple[Path, Path, Path], *, signed: bool) -> list[Worker]:
        """Train to version ``number``: a coordinator and two clients, each of a tree of its own."""
        extra = {} if signed else UNSIGNED | UNVERIFIED
        goal = ("--quorum", "2", "--rounds", str(number))
        told = ("--checkpoint-dir", str(self.folder / "checkpoint"))
        with workers() as started:
            for index, (user, tree) in enumerate(zip(("alfa", "bravo"), trees[1:], strict=True)):
                task = ("--task", "tests.tasks:ledger", "--index", str(index), "--size", str(SIZE))
                keep = ("--state-dir", str(self.folder / user))
                started.append(self.worker("client-worker", user, *task, *keep, tree=tree, **extra))
            started.append(
                self.worker(
                    "coordinator-worker", "coordinator", *told, *goal, tree=trees[0], **extra
                )
            )
            codes = [worker.end() for worker in started]
            assert codes == [0, 0, 0], started[codes.index(max(codes))].said
        return started


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A home whose broker is stopped at the end."""
    found = Site(tmp_path)
    try:
        yield found
    finally:
        private_node.down(found.home)


def test_a_federation_is_upgraded_in_place_as_the_page_says(site: Site, old: Path) -> None:
    """The upgrade in docs/maintenance.md, with the bundles, checkpoint and state that are there."""
    broker_config(old, site.home, "up", "--client", "alfa", "--client", "bravo")
    site.rounds(3, (old, old, old), signed=True)

    broker_config(ROOT, site.home, "up")
    assert "WARREN_SIGNING_KEYS" in (site.home / "bundles" / "coordinator.env").read_text()
    site.rounds(6, (ROOT, old, old), signed=False)  # the coordinator first, then the clients
    site.rounds(9, (ROOT, ROOT, ROOT), signed=False)
    site.rounds(12, (ROOT, ROOT, ROOT), signed=True)

    np.testing.assert_allclose(counts(site.folder / "checkpoint"), [6, 6, 0, 0], rtol=1e-6)
