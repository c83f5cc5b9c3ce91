"""What the coordinator asks of local training, as the papers' equations say, computed by hand."""

import numpy as np
import pytest

from client_worker import FederatedClient
from client_worker.models import linear_regression
from client_worker.models.numpy_model import NumpyModel
from client_worker.training.plan import TrainingPlan, takes_plan
from client_worker.training.scaffold import longer
from coordinator_worker import FederatedCoordinator
from tests.tasks import Held, Line
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.layout import Layout, Weights

DRAW = np.random.default_rng(7)
RATE = 0.05


def site(slope: float, seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(n, 2))
    return x, x @ [slope, 1.0] + slope


def client(data: tuple[np.ndarray, np.ndarray], steps: int = 4) -> FederatedClient:
    return FederatedClient(linear_regression(2, batch_size=None, epochs=steps), data, RATE)


def gradient(weights: list[np.ndarray], data: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    x, y = data
    error = x @ weights[0] + weights[1] - y[:, None]
    return [2 * x.T @ error / len(x), 2 * error.mean(axis=0)]


START = [np.array([[0.3], [-0.2]]), np.array([0.1])]


def test_fedprox_is_the_step_of_its_equation() -> None:
    data = site(2.0, 1)
    w = [array.copy() for array in START]
    for _ in range(4):
        moves = [g + 0.7 * (v - a) for g, v, a in zip(gradient(w, data), w, START, strict=True)]
        w = [v - RATE * m for v, m in zip(w, moves, strict=True)]
    update = client(data).train(START, LocalTraining(proximal=0.7))
    for delta, after, before in zip(update.delta, w, START, strict=True):
        np.testing.assert_allclose(delta, after - before, rtol=1e-12)
    assert update.local_steps == 4
    assert "local_steps" not in update.metrics


def test_epochs_steps_and_the_factor_on_the_learning_rate_come_from_the_coordinator() -> None:
    data = site(2.0, 1)
    ours = client(data, steps=9).train(START, LocalTraining(epochs=2, learning_rate_factor=0.5))
    w = [array.copy() for array in START]
    for _ in range(2):
        w = [v - RATE / 2 * g for v, g in zip(w, gradient(w, data), strict=True)]
    np.testing.assert_allclose(ours.delta[0], w[0] - START[0], rtol=1e-12)
    assert client(data).train(START, LocalTraining(steps=3)).local_steps == 3


def test_a_fit_without_a_guide_stays_valid_until_something_is_asked_of_it() -> None:
    data = (np.ones((3, 2)), np.ones((3, 1)))
    plain = FederatedClient(Line(2), data, 0.1)
    halved = plain.train(START, LocalTraining(learning_rate_factor=0.5))
    np.testing.assert_allclose(2 * halved.delta[0], plain.train(START).delta[0])
    for local, what in (
        (LocalTraining(proximal=0.1), "proximal"),
        (LocalTraining(clip_norm=1.0, steps=3), "clip_norm, steps"),
        (LocalTraining(epochs=2), "epochs"),
    ):
        with pytest.raises(ConfigError, match=f"{what} was asked for"):
            plain.train(START, local)
    with pytest.raises(ConfigError, match="correction was asked for"):
        plain.train(longer(Weights.of(START)), LocalTraining(scaffold=True))


def test_who_takes_a_guide_is_seen_in_the_parameters() -> None:
    assert takes_plan(linear_regression(2).fit)
    assert not takes_plan(Line(2).fit)
    assert not takes_plan(max)
    assert TrainingPlan(START).asked() == []
    assert TrainingPlan(START, correction=START, steps=1).asked() == ["correction", "steps"]


# --- SCAFFOLD ---------------------------------------------------------------------------------


def test_scaffold_is_option_two_of_the_paper_computed_by_hand() -> None:
    """Karimireddy et al. 2020, algorithm 1, for two clients and three rounds, written out."""
    sites = [site(2.0, 1), site(-1.0, 2)]
    clients = [client(data) for data in sites]
    local = LocalTraining(scaffold=True)
    start = Weights.of(START)
    coordinator = FederatedCoordinator([Held(longer(start))])
    coordinator.population = 2
    x, c = [array.copy() for array in START], [np.zeros_like(array) for array in START]
    own = [[np.zeros_like(array) for array in START] for _ in sites]
    for _ in range(3):
        updates = [one.train(coordinator.weights, local) for one in clients]
        coordinator.send(coordinator.aggregate(updates))
        moved, changed = [], []
        for i, data in enumerate(sites):
            y = [array.copy() for array in x]
            for _ in range(4):
                g = gradient(y, data)
                y = [y[t] - RATE * (g[t] - own[i][t] + c[t]) for t in (0, 1)]
            new = [own[i][t] - c[t] + (x[t] - y[t]) / (4 * RATE) for t in (0, 1)]
            moved.append([y[t] - x[t] for t in (0, 1)])
            changed.append([new[t] - own[i][t] for t in (0, 1)])
            own[i] = new
        x = [x[t] + (moved[0][t] + moved[1][t]) / 2 for t in (0, 1)]
        c = [c[t] + (changed[0][t] + changed[1][t]) / 2 for t in (0, 1)]
        for ours, reference in zip(coordinator.weights, [*x, *c], strict=True):
            np.testing.assert_allclose(ours, reference, rtol=1e-9, atol=1e-12)
        for one, reference in zip(clients, own, strict=True):
            for ours, theirs in zip(one.control.value, reference, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_scaffold_reaches_the_pooled_optimum_where_fedavg_ends_beside_it() -> None:
    sites = []
    for slope, seed in ((3.0, 1), (-2.0, 2)):
        x, y = site(slope, seed)
        sites.append((x * [1.0, 0.3] if seed == 2 else x, y))
    x, y = (np.concatenate([data[part] for data in sites]) for part in (0, 1))
    best = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0]
    distance = {}
    for scaffold in (False, True):
        clients = [client(data, steps=20) for data in sites]
        local = LocalTraining(scaffold=scaffold)
        coordinator = FederatedCoordinator([Held(clients[0].initial(local))])
        coordinator.population = 2
        for _ in range(300):
            updates = [one.train(coordinator.weights, local) for one in clients]
            coordinator.send(coordinator.aggregate(updates))
        w, b = coordinator.weights[:2]
        distance[scaffold] = np.abs(np.append(w, b) - best).max()
    assert distance[True] < 1e-6
    assert distance[False] > 0.01


def test_an_update_that_did_not_count_leaves_no_trace_in_the_control_variate() -> None:
    local, data = LocalTraining(scaffold=True), site(2.0, 1)
    one, other = client(data), client(data)
    start = longer(Weights.of(START))
    update = one.train(start, local)
    assert np.abs(one.control.value[0]).max() > 0.1
    other.count(update.delta)
    np.testing.assert_array_equal(other.control.value[0], one.control.value[0])
    second = one.train(start, local)
    one.withdraw(update.delta)
    other.withdraw(update.delta)
    other.count(second.delta)
    for ours, theirs in zip(one.control.value, other.control.value, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_control_variates_lie_behind_the_weights_under_their_names() -> None:
    layout = Layout.of(START).with_controls
    assert [str(tensor) for tensor in layout.tensors[2:]] == [
        "control/0 float64[2, 1]",
        "control/1 float64[1]",
    ]
    begun = client(site(1.0, 1)).initial(LocalTraining(scaffold=True))
    assert begun.layout == layout
    assert layout.controls_start == Layout.of(START).size_bytes
    assert not begun[2].any()
    assert client(site(1.0, 1)).initial().layout == Layout.of(START)


def test_a_model_that_does_not_count_its_steps_cannot_be_corrected() -> None:
    class Silent(NumpyModel):
        def fit(
            self, data: object, learning_rate: float, guide: TrainingPlan | None = None
        ) -> None:  # type: ignore[override]
            pass

    silent = Silent([np.zeros(2)], lambda *_: (0.0, [np.zeros(2)]))
    with pytest.raises(ConfigError, match="local_steps"):
        FederatedClient(silent, [1], 0.1).train(
            longer(Weights.of([np.zeros(2)])), LocalTraining(scaffold=True)
        )
