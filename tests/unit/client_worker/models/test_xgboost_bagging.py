"""XGBoost's own trees in a table: each as it was trained, and together the mean of their steps."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import xgboost

from client_worker import ConfigError, FederatedClient
from client_worker.models import XGBoostBagging, xgboost_bagging
from coordinator_worker import FederatedCoordinator
from experiments.flight import Flight
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors import compression
from warren_shared.tensors.layout import Weights
from warren_shared.tensors.update import Update

Data = tuple[np.ndarray, np.ndarray]
ROUNDS = 12


def records(count: int, seed: int, shift: float = 0.0) -> Data:
    """Is the product of two features above 0? Of numbers from 1e-9 to 1e9, some of them missing."""
    draw = np.random.default_rng(seed)
    x = draw.normal(shift, 1, (count, 5))
    y = (x[:, 0] * x[:, 1] + 0.3 * draw.normal(size=count) > 0).astype(np.int64)
    x[:, 0] *= 1e9
    x[:, 1] *= 1e-9
    x[:, 2] = np.round(3 * x[:, 2])
    x[draw.random(x.shape) < 0.1] = np.nan
    return x.astype(np.float32), y


SITES = [
    records(count, seed, shift) for count, seed, shift in ((700, 1, 0), (150, 2, 0.5), (40, 3, -1))
]
TEST = records(2000, 9)


def model(place: int = 0, places: int = 3, **options: Any) -> XGBoostBagging:
    known: dict[str, Any] = {"rounds": ROUNDS, "params": {"nthread": 1}}
    return xgboost_bagging(5, place=place, places=places, **known | options)


def clients_of(sites: Sequence[Data] = SITES, **options: Any) -> list[FederatedClient]:
    places = len(sites)
    return [
        FederatedClient(model(place, places, **options), site, 0.3)
        for place, site in enumerate(sites)
    ]


def told(client: FederatedClient, version: int, weights: Sequence[np.ndarray]) -> None:
    client.model.on_model(version, {"trees": weights[0], "weights": weights[1]})


def train(client: FederatedClient, version: int, weights: Sequence[np.ndarray]) -> Update:
    """As the client worker does."""
    told(client, version, weights)
    return client.train(weights)


def run(
    rounds: int, clients: Sequence[FederatedClient], coordinator: FederatedCoordinator | None = None
) -> XGBoostBagging:
    coordinator = coordinator or FederatedCoordinator([clients[0].model])
    for version in range(rounds):
        updates = [train(client, version, coordinator.weights) for client in clients]
        coordinator.send(coordinator.aggregate(updates))
    found: XGBoostBagging = clients[0].model
    found.set_weights(coordinator.weights)
    return found


def score(trees: XGBoostBagging, x: np.ndarray) -> np.ndarray:
    """F of each row, before the logistic function."""
    known = trees._examples((x, np.zeros(len(x), np.int64)))
    return trees._margin(known)


def auc(trees: XGBoostBagging) -> float:
    evaluation = trees.evaluate(TEST)
    assert not isinstance(evaluation, dict)
    return evaluation.metrics()["auc"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "squared", "base_score": 0.25},
        {"loss": "softmax", "classes": 3, "depth": 3},
        {"trees_each_round": 3},
        {"depth": 1},
        {"params": {"nthread": 1, "grow_policy": "lossguide", "max_leaves": 5, "gamma": 0.5}},
    ],
)
def test_a_site_alone_is_xgboost_itself(options: dict[str, Any]) -> None:
    """Each round's trees are those that one long call of xgboost.train makes."""
    x, y = SITES[0]
    if options.get("loss") == "softmax":
        y = y + (np.nan_to_num(x[:, 2]) > 2)
    alone = run(6, clients_of([(x, y)], **options))
    shape = alone._shape
    each = shape.per_round
    params = alone._params | shape.params() | {"learning_rate": 0.3}
    theirs = xgboost.train(params, xgboost.DMatrix(x, label=y), 6 * each)
    wanted = theirs.predict(xgboost.DMatrix(TEST[0]), output_margin=True)
    np.testing.assert_allclose(
        score(alone, TEST[0]).reshape(wanted.shape), wanted, rtol=2e-4, atol=2e-4
    )


def test_trees_come_back_to_the_last_bit() -> None:
    """After a mean of three, by which every number was multiplied, and divided again."""
    clients = clients_of()
    coordinator = FederatedCoordinator([clients[0].model])
    written = {}
    for version in range(ROUNDS):
        updates = [train(client, version, coordinator.weights) for client in clients]
        for place, update in enumerate(updates):
            slot = 3 * version + place
            assert np.flatnonzero(update.delta[1]).tolist() == [slot]
            assert not np.delete(update.delta[0], slot, axis=0).any()
            written[slot] = np.array(update.delta[0][slot])
        coordinator.send(coordinator.aggregate(updates))
    found = clients[0].model
    table, weights = found.get_weights()
    for slot, words in written.items():
        np.testing.assert_array_equal(np.rint(table[slot] / weights[slot]), words)
        assert weights[slot] == pytest.approx([700, 150, 40][slot % 3] / 890)
    assert table.max() > 3e4, "words are large, and their roundings with them"


def test_the_ensemble_moves_by_the_weighted_mean_of_the_sites_steps() -> None:
    clients = clients_of()
    coordinator = FederatedCoordinator([clients[0].model])
    x = TEST[0]
    for version in range(3):
        before = run(0, clients, coordinator)
        first = np.array(score(before, x))
        steps, updates = [], []
        for client in clients:
            updates.append(train(client, version, coordinator.weights))
            steps.append(score(client.model, x) - first)
            client.model.set_weights(coordinator.weights)
        coordinator.send(coordinator.aggregate(updates))
        wanted = first + np.average(steps, axis=0, weights=[700, 150, 40])
        np.testing.assert_allclose(score(run(0, clients, coordinator), x), wanted, atol=1e-6)


def test_the_exported_booster_predicts_the_same() -> None:
    for options in ({}, {"loss": "softmax", "classes": 2}, {"loss": "squared", "base_score": 3.0}):
        found = run(4, clients_of(**options))
        booster = found.booster()
        again = xgboost.Booster()
        again.load_model(booster.save_raw("ubj"))
        assert again.num_boosted_rounds() == 4 * len(SITES)
        wanted = again.predict(xgboost.DMatrix(TEST[0]))
        np.testing.assert_allclose(found.predict(TEST[0]), wanted, atol=1e-5)


def test_scores_that_are_remembered_are_those_of_a_new_reader() -> None:
    clients = clients_of()
    found = run(5, clients)
    seen = np.array(score(found, TEST[0]))
    evaluated = [found.evaluate(TEST).metrics()]  # type: ignore[union-attr]
    new = model()
    new.set_weights(found.get_weights())
    np.testing.assert_allclose(seen, score(new, TEST[0]), atol=1e-12)
    earlier = [np.array(each) for each in found.get_weights()]
    for array in earlier:
        array[6:] = 0  # as after a rollback
    fresh = model()
    for reader in (found, fresh):
        reader.set_weights(earlier)
        evaluated.append(reader.evaluate(TEST).metrics())  # type: ignore[union-attr]
    assert evaluated[1] == pytest.approx(evaluated[2])
    assert evaluated[0]["loss"] < evaluated[1]["loss"]


def test_they_learn_what_no_line_does() -> None:
    found = run(ROUNDS, clients_of(trees_each_round=3))
    assert auc(found) > 0.8
    assert auc(model()) == pytest.approx(0.5)


@pytest.mark.parametrize("aggregator", ["mean", "fedbuff"])
def test_late_updates_have_slots_of_their_own(aggregator: str) -> None:
    """Asynchronous: two updates make a version, and one site of four is far slower."""
    sites = [records(200, seed) for seed in range(30, 34)]
    clients = clients_of(sites, rounds=40)
    coordinator = FederatedCoordinator([clients[0].model], aggregator=aggregator)
    judge = model(0, 4, rounds=40)
    draw, flight, version, written = np.random.default_rng(4), Flight(), 0, set()

    def start(client: int) -> None:
        trip = draw.exponential() * (8 if client == 0 else 1)
        flight.start(client, trip, version, train(clients[client], version, coordinator.weights))

    for client in range(len(clients)):
        start(client)
    buffer, late = [], 0
    while version < 39:
        trip = flight.land()
        late = max(late, version - trip.version)
        buffer.append(trip)
        if len(buffer) == 2:
            written |= {trip.version * 4 + trip.client for trip in buffer}
            updates = [each.update for each in buffer if each.update is not None]
            coordinator.send(coordinator.aggregate(updates))
            version += 1
            waiting, buffer = [each.client for each in buffer], []
            for client in waiting:
                start(client)
    assert late >= 4
    judge.set_weights(coordinator.weights)
    assert set(np.flatnonzero(judge.get_weights()[1])) == written
    assert judge.get_weights()[1].sum() == pytest.approx(version)
    assert auc(judge) > 0.8


# --- what would break it ------------------------------------------------------------------------


def refused(words: str, clients: Sequence[FederatedClient], **options: Any) -> None:
    coordinator = FederatedCoordinator([model(0, len(clients))], **options)
    with pytest.raises(ConfigError, match=words):
        run(3, clients, coordinator)


def test_two_clients_with_one_place_are_told_apart_from_one() -> None:
    clients = clients_of()
    clients[2] = FederatedClient(model(1), SITES[2], 0.3)
    refused("two clients have place 1: ", clients)


@pytest.mark.parametrize(
    "optimizer", ["sgd:learning_rate=2", "momentum", "adam", "adagrad", "yogi"]
)
def test_a_server_optimizer_that_is_more_than_a_mean_is_refused(optimizer: str) -> None:
    refused("--server-optimizer sgd", clients_of(), server_optimizer=optimizer)


@pytest.mark.parametrize("aggregator", ["median", "trimmed-mean:fraction=0.34"])
def test_rules_that_drop_what_only_one_client_says_are_refused(aggregator: str) -> None:
    refused(r"count next to nothing: .*--aggregator mean", clients_of(), aggregator=aggregator)


def test_clipping_scales_trees_and_weight_alike_and_is_refused_as_it_leaves_nothing() -> None:
    clients = clients_of()
    coordinator = FederatedCoordinator([clients[0].model], clip_norm=1e5)
    found = run(1, clients, coordinator)
    assert 0.01 < found.get_weights()[1].sum() < 0.9
    assert auc(found) > 0.5
    refused(r"count next to nothing: .*--clip-norm", clients_of(), clip_norm=1.0)


def test_noise_is_refused() -> None:
    clients = clients_of()
    update = train(clients[0], 0, clients[0].weights())
    noisy = [np.array(each) for each in update.delta]
    noisy[0] += np.random.default_rng(0).normal(size=noisy[0].shape).astype(np.float32)
    with pytest.raises(ConfigError, match=r"no site wrote: .*--privacy"):
        clients[1].train(noisy)


def test_numbers_in_a_slot_that_no_site_wrote_are_refused() -> None:
    weights = [np.array(each) for each in run(1, clients_of()).get_weights()]
    weights[0][7, 3] = 0.5
    with pytest.raises(ConfigError, match="no site wrote"):
        model().set_weights(weights)


@pytest.mark.parametrize("fault", ["split", "leaf"])
def test_trees_of_a_hostile_site_are_refused(fault: str) -> None:
    found = run(1, clients_of())
    tree = json.loads(bytes(found.booster().save_raw("json")))
    trees = tree["learner"]["gradient_booster"]["model"]["trees"][:1]
    if fault == "split":
        trees[0]["split_indices"][0] = 5
    else:
        leaf = trees[0]["left_children"].index(-1)
        trees[0]["split_conditions"][leaf] = float("nan")
    weights = [np.array(each) for each in found.get_weights()]
    weights[0][5], weights[1][5] = 0.5 * found._shape.encode(trees), 0.5
    with pytest.raises(ConfigError, match="the trees of place 2 ask for features"):
        model().set_weights(weights)


@pytest.mark.parametrize("encoding", ["1bit", "2bit", "int8"])
def test_updates_in_few_bits_are_refused(encoding: str) -> None:
    clients = clients_of()
    coordinator = FederatedCoordinator([clients[0].model])
    updates = []
    for client in clients:
        update = train(client, 0, coordinator.weights)
        delta = Weights.of(update.delta, client.layout)
        sent = compression.encode(delta, encoding, "0" * 32)
        decoded = compression.decode(client.layout, encoding, "0" * 32, sent)
        updates.append(Update(decoded, update.num_examples, {}))
    with pytest.raises(ConfigError, match=r"no site wrote: .*--uplink"):
        coordinator.send(coordinator.aggregate(updates))


def test_a_run_that_is_longer_than_the_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="--rounds 2, or make the model with rounds=3 or more"):
        run(3, clients_of(rounds=2))


def test_without_the_hook_only_the_first_version_is_known() -> None:
    client = clients_of()[0]
    update = client.train(client.weights())
    with pytest.raises(ConfigError, match=r"on_model=model\.on_model"):
        client.train(update.delta)


def test_trees_of_one_version_are_not_written_twice() -> None:
    clients = clients_of()
    found = run(1, clients)
    found.on_model(1, {"weights": found.get_weights()[1]})
    found.fit(SITES[0], 0.3)
    found.on_model(1, {"weights": np.zeros(ROUNDS * 3)})
    with pytest.raises(ConfigError, match="version 1 and place 0 are there already"):
        found.fit(SITES[0], 0.3)


def test_a_table_with_trees_is_not_a_new_run_s_first_version() -> None:
    found = run(2, clients_of())
    with pytest.raises(ConfigError, match="empty table, or resume"):
        told(clients_of()[0], 0, found.get_weights())


def test_a_version_after_a_rollback_is_trained_from() -> None:
    clients = clients_of()
    early = [np.array(each) for each in run(1, clients).get_weights()]
    for client in clients:
        told(client, 4, [early[0], 4 * early[1]])  # what is rolled back
    coordinator = FederatedCoordinator([clients[0].model])
    coordinator.send(Weights.of(early, coordinator.weights.layout))
    updates = [train(client, 5, coordinator.weights) for client in clients]
    coordinator.send(coordinator.aggregate(updates))
    filled = np.flatnonzero(clients[0].model.get_weights()[1])
    assert filled.tolist() == [0, 1, 2, 15, 16, 17]


@pytest.mark.parametrize(
    "asked", [{"proximal": 0.1}, {"clip_norm": 1.0}, {"scaffold": True}, {"epochs": 2}]
)
def test_what_changes_local_steps_is_refused(asked: dict[str, Any]) -> None:
    client, local = clients_of()[0], LocalTraining(**asked)
    with pytest.raises(ConfigError, match="takes no guide"):
        client.train(client.initial(local), local)


def test_a_site_whose_numbers_mean_something_else_is_told_apart() -> None:
    known = model().fixed_state()
    assert model(2, params={"lambda": 3}).fixed_state() == known
    for other in ({"depth": 5}, {"places": 6, "rounds": 6}, {"base_score": 0.5}):
        assert model(**other).fixed_state() != known
    client = FederatedClient(model(depth=5), SITES[0], 0.3)
    with pytest.raises(ConfigError, match="table of trees is not the federation's"):
        client.check_fixed_state(known)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"place": 3}, "from 0 to places - 1"),
        ({"loss": "hinge"}, "one of logistic"),
        ({"depth": 11}, "depth up to 10"),
        ({"rounds": 0}, "rounds=0"),
        ({"base_score": float("inf")}, "finite"),
        ({"params": {"eta": 0.1}}, "eta, which this model sets itself"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        model(**options)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((SITES[0][0], SITES[0][1] * 2 - 1), "labels such as -1"),
        ((SITES[0][0][:, :2], SITES[0][1]), "the model has 5 features"),
        (SITES[0][0], "two arrays"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        model().fit(data, 0.3)
