"""A private run over a real broker: who takes part how often, what is told, and that it ends."""

import json
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
from tests.acceptance.test_federation import start_client, start_coordinator
from tests.conftest import Place, new_place
from tests.support.processes import Worker, workers

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


def test_no_client_is_in_more_rounds_or_sooner_again_than_was_promised(
    fleet: Place, tmp_path: Path
) -> None:
    with workers() as started:
        started.append(clients(fleet))
        started.append(one := coordinator(fleet, tmp_path, 6))
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
        assert record.norm == 0.0
        assert record.examples == record.updates
        assert record.final_evaluation is None
    assert {member.examples for member in state.roster.values()} <= {0, 1}
    lines = [json.loads(text) for _, text in read(tmp_path / "checkpoint")]
    assert all(line.get("num_examples", 1) == 1 for line in lines)
