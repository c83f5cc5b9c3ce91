"""XGBoost's trees of several sites over a broker: in rounds, masked, and asynchronous."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from client_worker import FederatedClient
from client_worker.models import XGBoostBagging
from coordinator_worker import FederatedCoordinator
from tests import tasks
from tests.acceptance.test_federation import final_weights
from tests.acceptance.test_secure import Stage, ended, stage
from tests.conftest import CLIENTS, Place
from tests.support.processes import Worker, workers

__all__ = ["stage"]  # the fixture

ROUNDS = 9
SITES = 3
SHARDS = {user: str(number) for number, user in enumerate(CLIENTS)}
TASK = ("--task", "tests.tasks:bagging")


def federated(place: Place, folder: Path, *words: str, users: tuple[str, ...] = CLIENTS) -> None:
    with workers() as started:
        for user in users:
            own = ("--shard", SHARDS[user])
            started.append(Worker("client-worker", place.urls[user], *TASK, *own))
        for client in started:  # a run of a second could be over before the last of them is there
            client.wait_for("connected")
        told = ("--checkpoint-dir", str(folder), *words)
        started.append(Worker("coordinator-worker", place.urls["coordinator"], *told))
        ended(*started)


def in_one_process() -> list[np.ndarray]:
    """The weights that the same rounds give without a broker."""
    sites = [tasks.bagging(shard) for shard in range(SITES)]
    clients = [FederatedClient(site.model, site.data, site.learning_rate) for site in sites]
    coordinator = FederatedCoordinator([clients[0].model])
    for version in range(ROUNDS):
        updates = []
        for client in clients:
            known = dict(zip(("trees", "weights"), coordinator.weights, strict=True))
            client.model.on_model(version, known)
            updates.append(client.train(coordinator.weights))
        coordinator.send(coordinator.aggregate(updates))
    return list(coordinator.weights)


def read(folder: Path, rounds: int = ROUNDS) -> XGBoostBagging:
    model: XGBoostBagging = tasks.bagging(rounds=rounds).model
    model.set_weights(final_weights(folder))
    return model


def test_rounds_make_the_trees_that_they_make_in_one_process(place: Place, tmp_path: Path) -> None:
    federated(place, tmp_path, "--quorum", "3", "--rounds", str(ROUNDS), users=CLIENTS[:SITES])
    for ours, theirs in zip(final_weights(tmp_path), in_one_process(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    x, y = tasks.product(7)
    assert roc_auc_score(y, read(tmp_path).predict(x)) > 0.85


def test_under_masks_they_are_the_same_trees(stage: Stage, tmp_path: Path) -> None:
    """With a clip that no update's norm is above; weights are rounded to the ring's steps.

    Only the first trees are compared: later ones begin from scores that weights made.
    """
    stage.keeper()
    clients = stage.clients(*CLIENTS[:SITES], task="bagging")
    words = ("--quorum", "3", "--rounds", str(ROUNDS), "--secure", "clip=589824,examples=400")
    ended(stage.coordinator(tmp_path / "masked", *words), *clients)
    found = read(tmp_path / "masked")
    plain = tasks.bagging().model
    plain.set_weights(in_one_process())
    x, y = tasks.product(7)
    assert roc_auc_score(y, found.predict(x)) > 0.85
    words_of = [
        np.rint(t[:SITES] / w[:SITES, None]) for t, w in (found.get_weights(), plain.get_weights())
    ]
    np.testing.assert_array_equal(*words_of)
    np.testing.assert_allclose(found.get_weights()[1], plain.get_weights()[1], atol=1e-3)


@pytest.mark.parametrize("aggregator", ["mean", "fedbuff"])
def test_a_quorum_of_two_of_four_goes_on_without_waiting(
    place: Place, tmp_path: Path, aggregator: str
) -> None:
    words = ("--quorum", "2", "--max-staleness", "4", "--aggregator", aggregator)
    federated(place, tmp_path, *words, "--rounds", "30", "--config", "rounds=30")
    found = read(tmp_path, 30)
    weights = found.get_weights()[1].reshape(30, 4)
    # On a busy machine two sites may be ahead of the others for the whole second that this takes.
    assert weights.any(axis=0).sum() >= 2, "trees of several sites"
    assert weights.sum() == pytest.approx(30, rel=1e-4 if aggregator == "mean" else 0.5)
    x, y = tasks.product(7)
    assert roc_auc_score(y, found.predict(x)) > 0.75


def test_two_clients_with_one_place_end_and_say_so(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        for user in CLIENTS[:SITES]:
            own = ("--shard", SHARDS[user], "--place", str(min(1, int(SHARDS[user]))))
            started.append(Worker("client-worker", place.urls[user], *TASK, *own))
        told = ("--checkpoint-dir", str(tmp_path), "--quorum", "3", "--rounds", str(ROUNDS))
        coordinator = Worker("coordinator-worker", place.urls["coordinator"], *told)
        started.append(coordinator)
        for client in started[:SITES]:
            assert client.end() != 0
            assert "two clients have place 1: " in client.said
        failed = coordinator.wait_for("client_failed", ends=True)
        assert "two clients have place 1: " in str(failed)
