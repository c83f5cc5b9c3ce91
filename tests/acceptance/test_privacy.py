"""A private run over a real broker: who takes part how often, what is told, and that it ends."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from broker_config.declaration.federation import Fleet
from broker_config.node.record import Node
from coordinator_worker.storage import checkpoint
from coordinator_worker.storage.audit_files import read
from coordinator_worker.versions.audit_report import versions
from tests.acceptance.test_bad_input import NOBODY
from tests.acceptance.test_federation import start_client, start_coordinator
from tests.conftest import Place, new_place
from tests.support.processes import BIN, Worker, workers

PROMISE = "correlated:epsilon=8,delta=1e-3,clip=1,contributions=3,distance=2,small=true"


@pytest.fixture
def fleet(node: Node) -> Iterator[Place]:
    with new_place(node, fleet=Fleet("fleet", 6)) as place:
        yield place


def clients(place: Place) -> Worker:
    return start_client(place, "fleet", "line", "--fleet", "fleet", "--virtual", "6")


def initial(folder: Path, features: int = 4) -> str:
    path = folder / "initial.npz"
    np.savez(path, np.zeros((features, 1)), np.zeros(1))
    return str(path)


def coordinator(place: Place, folder: Path, rounds: int, *more: str) -> Worker:
    told = ("--quorum", "2", "--rounds", str(rounds), "--initial-model", initial(folder))
    return start_coordinator(place, folder / "checkpoint", *told, "--privacy", PROMISE, *more)


def contributions(folder: Path) -> list[list[str]]:
    made = versions(read(folder / "checkpoint")).values()
    return [[entry["client"] for entry in one.line["contributions"]] for one in made]


@pytest.mark.parametrize("more", [(), ("--uplink", "1bit", "--downlink", "1bit")])
def test_no_client_is_in_more_rounds_or_sooner_again_than_was_promised(
    fleet: Place, tmp_path: Path, more: tuple[str, ...]
) -> None:
    with workers() as started:
        started.append(clients(fleet))
        started.append(one := coordinator(fleet, tmp_path, 6, *more))
        assert one.end() == 0, one.said
        state = checkpoint.load(tmp_path / "checkpoint")
    assert state is not None
    assert state.privacy is not None
    assert state.privacy.done == state.version == 6
    rounds = contributions(tmp_path)
    assert [len(clients) for clients in rounds] == [2] * 6
    for client in {client for clients in rounds for client in clients}:
        where = [number for number, clients in enumerate(rounds) if client in clients]
        assert len(where) <= 3
        assert all(later - earlier >= 2 for earlier, later in pairwise(where))


def test_what_is_promised_and_spent_is_said(fleet: Place, tmp_path: Path) -> None:
    with workers() as started:
        started.append(clients(fleet))
        started.append(one := coordinator(fleet, tmp_path, 5))
        assert one.end() == 0, one.said
    folder = str(tmp_path / "checkpoint")
    state = checkpoint.load(tmp_path / "checkpoint")
    assert state is not None
    assert state.privacy is not None
    (told,) = map(json.loads, said("privacy", folder, "--json").splitlines())
    assert told["epsilon"] == pytest.approx(told["epsilon_promised"]) == pytest.approx(8)
    assert (told["rounds"], told["rounds_promised"]) == (5, 5)
    assert told["most_contributions"] <= told["contributions_allowed"] == 3
    spent = [record.privacy.epsilon for record in state.history if record.privacy is not None]
    assert len(spent) == 5
    assert spent == sorted(spent)
    words = said("privacy", folder)
    assert "ε 8 at δ 0.001" in words
    assert "the coordinator, which sees each update" in words
    card = said("card", folder)
    assert "## Privacy" in card
    assert "how many examples they have is not told" in card
    for path in (tmp_path / "checkpoint").rglob("*"):
        if path.is_file() and path.suffix != ".checkpoint":
            assert state.privacy.secret.encode() not in path.read_bytes(), path
    assert state.privacy.secret not in card + words + one.said


def said(command: str, folder: str, *more: str) -> str:
    done = subprocess.run(
        [BIN / "coordinator-worker", command, "--checkpoint-dir", folder, *more],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


REFUSED = {
    "no end": ([], "--privacy needs --rounds"),
    "no start": ([], "--privacy needs --initial-model"),
    "a robust rule": (["--aggregator", "median"], "is not bounded by its clip; use mean"),
    "weights of data": (["--aggregator", "fednova"], "is not bounded by its clip; use mean"),
    "weights by rarity": (["--aggregator", "by-participation"], "is not bounded by its clip"),
    "control variates": (["--scaffold"], "control variates tell of each client's data"),
    "two clips": (["--clip-norm", "1"], "its own clip= is the bound"),
    "a target": (["--target", "eval_loss<=1"], "metrics, and they are not sent"),
    "a monitor": (["--monitor", "eval_loss:min"], "metrics, and they are not sent"),
    "a norm": (["--max-update-norm", "5"], "must not depend on its data"),
    "few": (["--privacy", PROMISE.replace(",small=true", "")], "so few clients"),
    "too many rounds": (["--rounds", "100"], "lower --rounds or --quorum"),
    "far too many rounds": (["--rounds", "1000000"], "at most 10000"),
    "too far apart": (["--max-staleness", "5"], "need 12 clients, and there are 6"),
    "a federation above": (["--parent", "x.env"], "a region is one client above"),
}


@pytest.mark.parametrize(("more", "words"), REFUSED.values(), ids=REFUSED)
def test_what_contradicts_it_is_one_line(tmp_path: Path, more: list[str], words: str) -> None:
    told = ["--quorum", "2", "--clients", "6", "--checkpoint-dir", str(tmp_path / "checkpoint")]
    told += ["--privacy", PROMISE]
    told += [] if "needs --rounds" in words or "--parent" in more else ["--rounds", "6"]
    told += [] if "needs --initial" in words else ["--initial-model", initial(tmp_path)]
    with workers() as started:
        started.append(worker := Worker("coordinator-worker", NOBODY, *told, *more))
        assert worker.end() == 2, worker.said
    complaints = [line for line in worker.lines if not line.startswith('{"time')]
    assert len(complaints) == 1, worker.said
    assert words in complaints[0]


def test_a_run_goes_on_as_it_was_promised_or_not_at_all(fleet: Place, tmp_path: Path) -> None:
    with workers() as started:
        started.append(clients(fleet))
        started.append(one := coordinator(fleet, tmp_path, 6))
        one.wait_for("model_published", version=2)
        one.kill()
        state = checkpoint.load(tmp_path / "checkpoint")
        assert state is not None
        for arguments, words in (
            (["--rounds", "6", "--quorum", "2"], "the checkpoint's run is private: add --privacy"),
            (["--rounds", "5", "--quorum", "2", "--privacy", PROMISE], "go on so"),
            (["--rounds", "6", "--quorum", "3", "--privacy", PROMISE.replace("3", "4")], "go on"),
        ):
            told = (*arguments, "--initial-model", initial(tmp_path))
            started.append(other := start_coordinator(fleet, tmp_path / "checkpoint", *told))
            assert other.end() == 2, other.said
            assert words in other.said
        after = checkpoint.load(tmp_path / "checkpoint")
        assert after is not None
        assert after.privacy == state.privacy
        assert after.version == state.version
        started.append(again := coordinator(fleet, tmp_path, 6))
        assert again.end() == 0, again.said
    rounds = contributions(tmp_path)
    assert len(rounds) == 6
    counts = Counter(client for clients_ in rounds for client in clients_)
    assert max(counts.values()) <= 3


def test_nothing_is_told_of_single_clients(fleet: Place, tmp_path: Path) -> None:
    with workers() as started:
        started.append(clients(fleet))
        started.append(one := coordinator(fleet, tmp_path, 4))
        assert one.end() == 0, one.said
        state = checkpoint.load(tmp_path / "checkpoint")
    assert state is not None
    for record in state.history:
        assert record.metrics == {}
        assert record.evaluation is None
        assert not record.knows("norm")
        assert record.examples == 0  # nobody was told
        assert record.final_evaluation is None
    assert {member.examples for member in state.roster.values()} == {0}
    lines = [json.loads(text) for _, text in read(tmp_path / "checkpoint")]
    assert all(line.get("num_examples", 0) == 0 for line in lines)
