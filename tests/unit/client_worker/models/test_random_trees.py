"""Boosted trees of random structure: sums of sites are those of the pooled data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from client_worker import ConfigError, FederatedClient
from client_worker.models import RandomTrees, random_trees
from client_worker.models.boosting import derivatives
from coordinator_worker import FederatedCoordinator
from experiments.flight import Flight
from warren_shared.protocol.messages import LocalTraining

Data = tuple[np.ndarray, np.ndarray]
QUANTILES = np.tile(np.linspace(-2, 2, 9), (4, 1))


def records(count: int, seed: int, shift: float = 0.0) -> Data:
    """A question that no line answers: is the product of two features above 0?"""
    draw = np.random.default_rng(seed)
    x = draw.normal(shift, 1, (count, 4))
    return x, (x[:, 0] * x[:, 1] + 0.3 * draw.normal(size=count) > 0).astype(np.int64)


SITES = [
    records(count, seed, shift) for count, seed, shift in ((700, 1, 0), (150, 2, 0.5), (40, 3, -1))
]
POOLED: Data = (np.concatenate([x for x, _ in SITES]), np.concatenate([y for _, y in SITES]))
TEST = records(2000, 9)


def model(**options: Any) -> RandomTrees:
    return random_trees(QUANTILES, **{"seed": 5, "trees": 40, "depth": 5} | options)


def federated(
    rounds: int, sites: Sequence[Data] = SITES, *, aggregator: str = "mean", **options: Any
) -> RandomTrees:
    clients = [FederatedClient(model(**options), site, 1.0) for site in sites]
    coordinator = FederatedCoordinator([client.model for client in clients], aggregator=aggregator)
    for _ in range(rounds):
        updates = [client.train(coordinator.weights) for client in clients]
        coordinator.send(coordinator.aggregate(updates))
    found: RandomTrees = clients[0].model
    return found


def auc(trees: RandomTrees) -> float:
    evaluation = trees.evaluate(TEST)
    assert not isinstance(evaluation, dict)
    return evaluation.metrics()["auc"]


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("logistic", {}),
        ("squared", {}),
        ("softmax", {"classes": 3}),
        ("logistic", {"per_round": 5}),
    ],
)
def test_rounds_of_unequal_sites_make_the_trees_of_the_pooled_data(
    loss: str, options: dict[str, int]
) -> None:
    sites, pooled = SITES, POOLED
    if loss == "softmax":
        sites = [(x, y + (x[:, 2] > 1)) for x, y in SITES]
        pooled = POOLED[0], np.concatenate([y for _, y in sites])
    together = federated(7, sites, loss=loss, **options)
    alone = federated(7, [pooled], loss=loss, **options)
    assert together.trained == alone.trained == 1 + 6 * options.get("per_round", 1)
    np.testing.assert_allclose(together.leaf_values(), alone.leaf_values(), atol=2e-5)


@pytest.mark.parametrize("per_round", [1, 2])
def test_a_leaf_is_the_newton_step_of_its_examples(per_round: int) -> None:
    """By hand, of the pooled data: -rate * sum g / (sum h + lambda n)."""
    trees = federated(3, rate=0.3, l2=0.01, per_round=per_round)
    x, y = POOLED
    score = np.zeros(len(y))
    for tree, values in enumerate(trees.leaf_values()):
        leaf = trees._leaves_of(x)[:, tree]
        if tree == 0 or (tree - 1) % per_round == 0:
            p = 1 / (1 + np.exp(-score))
        rate = 1.0 if tree == 0 else 0.3 / per_round
        for one in np.unique(leaf):
            there = leaf == one
            below = (p * (1 - p))[there].sum() + 0.01 * len(y)
            wanted = -rate * (p - y)[there].sum() / below
            assert values[0, one] == pytest.approx(wanted, abs=1e-5)
        score += values[0, leaf]
    assert trees.predict(x) == pytest.approx(1 / (1 + np.exp(-score)), abs=1e-6)


@pytest.mark.parametrize("loss", ["logistic", "squared", "softmax"])
def test_derivatives_are_those_of_the_loss(loss: str) -> None:
    y = np.array([0.0, 1.0, 1.0 if loss == "logistic" else 2.0])
    score = np.random.default_rng(0).normal(size=(3, 3 if loss == "softmax" else 1))
    _, g, h = derivatives(loss, score, y)
    step = 1e-4
    scale = 2.0 if loss == "squared" else 1.0  # of half the square
    for place in np.ndindex(score.shape):
        moved = [score.copy(), score, score.copy()]
        moved[0][place] -= step
        moved[2][place] += step
        low, here, high = (3 * derivatives(loss, each, y)[0] / scale for each in moved)
        assert g[place] == pytest.approx((high - low) / (2 * step), abs=1e-6)
        assert h[place] == pytest.approx((high - 2 * here + low) / step**2, abs=1e-5)


def test_a_tree_of_which_little_has_come_is_tried_again_and_counts_by_its_weight() -> None:
    trees, client = federated(3), FederatedClient(model(), SITES[1], 1.0)
    values, weights = trees.leaf_values(), [np.array(each) for each in trees.get_weights()]
    for array in weights:
        array[1:3] *= 0.6
    trees.set_weights(weights)
    np.testing.assert_allclose(trees.leaf_values(), values, rtol=1e-5)
    weights[2][2] = 0.1
    trees.set_weights(weights)
    assert trees.trained == 2
    update = client.train(weights)
    assert update.delta[2][2] == pytest.approx(1.0)
    assert [bool(each[3:].any()) for each in update.delta] == [False] * 3


def test_the_first_tree_is_the_constant() -> None:
    numbers = [(x, 1e4 + 3 * x[:, 0]) for x, _ in SITES]
    trees = federated(1, numbers, loss="squared", l2=1e-9)
    mean = np.concatenate([y for _, y in numbers]).mean()
    np.testing.assert_allclose(trees.predict(TEST[0]), mean, rtol=1e-6)


def test_they_learn_what_no_line_does() -> None:
    assert auc(federated(41)) > 0.88
    assert auc(federated(1)) == pytest.approx(0.5)


@pytest.mark.parametrize("aggregator", ["uniform", "median", "trimmed-mean:fraction=0.34"])
def test_robust_rules_and_others_act_on_the_sums(aggregator: str) -> None:
    """With four honest sites and one that turns its sums round."""

    class Hostile(RandomTrees):
        def fit(self, data: Any, learning_rate: float) -> Any:
            before = [array.copy() for array in self.get_weights()]
            found = super().fit(data, learning_rate)
            for array, old in zip(self.get_weights()[:2], before, strict=False):
                array[:] = old - 20 * (array - old)
            return found

    sites = [records(200, seed) for seed in range(20, 25)]
    clients = [FederatedClient(model(), site, 1.0) for site in sites]
    clients[0].model.__class__ = Hostile
    coordinator = FederatedCoordinator([c.model for c in clients[1:]], aggregator=aggregator)
    for _ in range(41):
        updates = [client.train(coordinator.weights) for client in clients]
        coordinator.send(coordinator.aggregate(updates))
    found = auc(clients[1].model)
    assert found < 0.6 if aggregator == "uniform" else found > 0.85, found


@pytest.mark.parametrize("aggregator", ["mean", "fedbuff"])
def test_late_updates_go_to_the_tree_that_they_were_made_for(aggregator: str) -> None:
    """Asynchronous: two updates make a version, and one site of six is far slower."""
    sites = [records(200, seed) for seed in range(30, 36)]
    clients = [FederatedClient(model(), site, 1.0) for site in sites]
    coordinator = FederatedCoordinator([clients[0].model], aggregator=aggregator)
    draw, flight, version = np.random.default_rng(4), Flight(), 0

    def start(client: int) -> None:
        trip = draw.exponential() * (8 if client == 0 else 1)
        flight.start(client, trip, version, clients[client].train(coordinator.weights))

    for client in range(len(clients)):
        start(client)
    buffer, late = [], 0
    while version < 60:
        trip = flight.land()
        late = max(late, version - trip.version)
        buffer.append(trip)
        if len(buffer) == 2:
            updates = [each.update for each in buffer if each.update is not None]
            coordinator.send(coordinator.aggregate(updates))
            version += 1
            waiting = [each.client for each in buffer]
            buffer = []
            for client in waiting:
                start(client)
    assert late >= 4
    weights = clients[0].model.get_weights()[2]
    assert weights.max() > 1.2, "a late update came to a tree that was done"
    assert auc(clients[0].model) > 0.88


def test_a_site_with_another_structure_is_told_apart() -> None:
    structure = model().fixed_state()
    assert model().fixed_state() == structure
    for other in ({"seed": 6}, {"depth": 4}, {"rate": 0.2}, {"l2": 0.1}):
        assert model(**other).fixed_state() != structure
    client = FederatedClient(model(seed=6), SITES[0], 1.0)
    with pytest.raises(ConfigError, match="structure of trees is not the federation's"):
        client.check_fixed_state(structure)


def test_no_node_asks_what_the_nodes_above_have_answered() -> None:
    trees = model(trees=20, depth=6)
    x = np.random.default_rng(0).uniform(-2, 2, (50_000, 4))
    leaves = trees._leaves_of(x)
    filled = [len(np.unique(leaves[:, tree])) for tree in range(1, 21)]
    assert np.mean(filled) > 0.8 * 64


def test_a_value_that_is_missing_goes_to_the_left() -> None:
    x = TEST[0][:50].copy()
    x[:, 1] = np.nan
    low = x.copy()
    low[:, 1] = -1e9
    trees = model()
    np.testing.assert_array_equal(trees._leaves_of(x), trees._leaves_of(low))


def test_when_all_trees_are_there_an_update_changes_nothing(caplog: Any) -> None:
    trees = model(trees=2)
    client = FederatedClient(trees, SITES[0], 1.0)
    coordinator = FederatedCoordinator([trees])
    for _ in range(5):
        update = client.train(coordinator.weights)
        coordinator.send(coordinator.aggregate([update]))
    assert trees.trained == 3
    assert not any(array.any() for array in update.delta)
    assert caplog.text.count("--rounds") == 1


def test_a_negative_sum_of_second_derivatives_is_none() -> None:
    trees = federated(3)
    trees.get_weights()[1][1] = -1e-3 + 1e-9
    assert not trees.leaf_values()[1].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "hinge"}, "one of logistic"),
        ({"depth": 0}, "depth=0"),
        ({"rate": 0.0}, "above 0"),
        ({"l2": 0.0}, "above 0"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        model(**options)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((SITES[0][0], SITES[0][1] * 2 - 1), "labels such as -1"),
        ((SITES[0][0][:, :2], SITES[0][1]), "ask for columns 0 to 3"),
        ((SITES[0][0], SITES[0][1][:5]), "differ in length"),
        (SITES[0][0], "two arrays"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        model().fit(data, 1.0)


def test_what_changes_gradients_is_refused() -> None:
    client = FederatedClient(model(), SITES[0], 1.0)
    weights = client.weights()
    with pytest.raises(ConfigError, match="takes no guide"):
        client.train(weights, LocalTraining(proximal=0.1))


def test_quantiles_are_in_order() -> None:
    with pytest.raises(ConfigError, match="ascending"):
        random_trees([[1, 0], [0, 1]], seed=0)
    with pytest.raises(ConfigError, match="2 or more"):
        random_trees([[1], [0]], seed=0)
