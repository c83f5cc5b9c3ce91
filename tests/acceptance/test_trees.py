"""Boosted trees of random structure over a broker: in rounds, masked, and asynchronous."""

from pathlib import Path

import numpy as np

from client_worker.models import RandomTrees
from tests import tasks
from tests.acceptance.test_federation import final_weights
from tests.acceptance.test_secure import SHARDS, THREE, Stage, ended, stage
from tests.conftest import CLIENTS, Place
from tests.support.processes import Worker, workers

__all__ = ["stage"]  # the fixture

ROUNDS = 9


def federated(place: Place, folder: Path, *words: str, users: tuple[str, ...] = THREE) -> None:
    task = ("--task", "tests.tasks:trees")
    with workers() as started:
        for user in users:
            own = ("--shard", SHARDS[user])
            started.append(Worker("client-worker", place.urls[user], *task, *own))
        told = ("--checkpoint-dir", str(folder), *words)
        started.append(Worker("coordinator-worker", place.urls["coordinator"], *told))
        ended(*started)


def pooled() -> RandomTrees:
    """What all three sites' data would make in one place."""
    sites = [tasks.trees(shard) for shard in range(3)]
    x, y = (np.concatenate([site.data[part] for site in sites]) for part in (0, 1))
    model: RandomTrees = sites[0].model
    data = (x, y)
    for _ in range(ROUNDS):
        model.fit(data, 1.0)
    return model


def read(folder: Path) -> RandomTrees:
    model: RandomTrees = tasks.trees().model
    model.set_weights(final_weights(folder))
    return model


def test_rounds_make_the_trees_of_the_pooled_data(place: Place, tmp_path: Path) -> None:
    federated(place, tmp_path, "--quorum", "3", "--rounds", str(ROUNDS))
    found = read(tmp_path)
    assert found.trained == ROUNDS
    np.testing.assert_allclose(found.leaf_values(), pooled().leaf_values(), atol=2e-5)


def test_sums_of_leaves_are_masked_like_any_update(stage: Stage, tmp_path: Path) -> None:
    """An update's norm is at most the root of 1 + 1/16 + 1, so the clip cuts nothing."""
    stage.keeper()
    clients = stage.clients(*THREE, task="trees")
    told = ("--quorum", "3", "--rounds", str(ROUNDS), "--secure", "clip=1.5,examples=400")
    ended(stage.coordinator(tmp_path / "masked", *told), *clients)
    np.testing.assert_allclose(
        read(tmp_path / "masked").leaf_values(), pooled().leaf_values(), atol=1e-3
    )


def test_a_quorum_of_two_of_four_goes_on_without_waiting(place: Place, tmp_path: Path) -> None:
    told = ("--quorum", "2", "--max-staleness", "4", "--rounds", "40", "--aggregator", "fedbuff")
    federated(place, tmp_path, *told, users=CLIENTS)
    found = read(tmp_path)
    assert found.trained >= 5, "a tree takes as many versions as updates are late"
    assert found.get_weights()[2].max() > 1.2, "late updates have come to trees that were done"
    x, y = tasks.trees(7).data
    assert np.mean((found.predict(x) > 0.5) == y) > 0.55
