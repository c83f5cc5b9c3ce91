"""Models in plain numpy: their gradients, and what they learn beside scikit-learn."""

import numpy as np
import pytest
from sklearn.cluster import KMeans as ReferenceKMeans
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier, SGDRegressor
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC, LinearSVC

from client_worker import FederatedClient
from client_worker.models import (
    SklearnModel,
    k_means,
    linear_regression,
    linear_svm,
    logistic_regression,
    mlp,
    random_features,
    softmax_regression,
)
from client_worker.models.kmeans import PSEUDO_COUNT, assign
from client_worker.models.numpy_model import NumpyModel
from client_worker.training.plan import TrainingPlan
from coordinator_worker import FederatedCoordinator
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.evaluation import Evaluation

DRAW = np.random.default_rng(3)
X = DRAW.normal(size=(120, 4))
NOISY = X @ [1.0, -2.0, 0.5, 0.0] + 0.3 + DRAW.normal(size=120)
BINARY = (NOISY > 0).astype(int)
THREE = np.digitize(NOISY, [-1.0, 1.0])


def double(model: NumpyModel) -> NumpyModel:
    """The same model in float64, as finite differences need it."""
    model.weights = [array.astype(np.float64) for array in model.weights]
    return model


@pytest.mark.parametrize(
    ("model", "y"),
    [
        (linear_regression(4, l2=0.3), NOISY),
        (linear_regression(4, outputs=2), np.stack([NOISY, X[:, 0]], axis=1)),
        (logistic_regression(4, l2=0.3), BINARY),
        (softmax_regression(4, 3, l2=0.3), THREE),
        (linear_svm(4, l2=0.3), BINARY),
        (linear_svm(4, l2=0.3, squared=True), BINARY),
        (double(mlp((4, 5, 3))), THREE),
        (double(mlp((4, 6, 5, 3))), THREE),
    ],
    ids=["line", "lines", "logistic", "softmax", "hinge", "squared hinge", "one", "two hidden"],
)
def test_a_gradient_is_what_finite_differences_say(model: NumpyModel, y: np.ndarray) -> None:
    draw = np.random.default_rng(0)
    weights = [array + 0.1 * draw.normal(size=array.shape) for array in model.weights]
    loss, gradients = model.gradient(weights, X, y)
    model.set_weights(weights)
    step = 1e-6
    for place, gradient in enumerate(gradients):
        assert gradient.shape == weights[place].shape
        numeric = np.zeros_like(gradient)
        for index in np.ndindex(gradient.shape):
            sides = []
            for sign in (1, -1):
                moved = [array.copy() for array in weights]
                moved[place][index] += sign * step
                sides.append(model.gradient(moved, X, y)[0])
            numeric[index] = (sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-7)
    assert loss > 0


def optimum(model: NumpyModel, y: np.ndarray, rate: float, steps: int) -> list[np.ndarray]:
    model.batch_size = None
    model.fit((X, y), rate, TrainingPlan(model.weights, steps=steps))
    return [array.ravel() for array in model.weights]


def test_linear_regression_finds_the_optimum_of_scikit_learn() -> None:
    # Ours is a mean and half of l2, theirs a sum and all of alpha.
    theirs = Ridge(alpha=0.1 * 120 / 2).fit(X, NOISY)
    w, b = optimum(linear_regression(4, l2=0.1), NOISY, 0.2, 2000)
    np.testing.assert_allclose(w, theirs.coef_, atol=1e-8)
    np.testing.assert_allclose(b, theirs.intercept_, atol=1e-8)


def test_logistic_regression_finds_the_optimum_of_scikit_learn() -> None:
    theirs = LogisticRegression(C=1 / (0.1 * 120), tol=1e-10, max_iter=1000).fit(X, BINARY)
    w, b = optimum(logistic_regression(4, l2=0.1), BINARY, 1.0, 2000)
    np.testing.assert_allclose(w, theirs.coef_[0], atol=1e-4)
    np.testing.assert_allclose(b, theirs.intercept_, atol=1e-4)


def test_softmax_regression_finds_the_optimum_of_scikit_learn() -> None:
    theirs = LogisticRegression(C=1 / (0.1 * 120), tol=1e-10, max_iter=1000).fit(X, THREE)
    model = softmax_regression(4, 3, l2=0.1)
    optimum(model, THREE, 1.0, 2000)
    np.testing.assert_allclose(model.weights[0].T, theirs.coef_, atol=1e-4)
    centered = model.weights[1] - model.weights[1].mean()
    np.testing.assert_allclose(centered, theirs.intercept_ - theirs.intercept_.mean(), atol=1e-4)


def test_the_linear_svm_with_squared_hinge_finds_the_optimum_of_scikit_learn() -> None:
    # liblinear shrinks the intercept too, unless it stands for a large constant feature.
    theirs = LinearSVC(C=1 / (0.1 * 120), intercept_scaling=1e3, tol=1e-10, max_iter=1_000_000)
    theirs.fit(X, BINARY)
    w, b = optimum(linear_svm(4, l2=0.1, squared=True), BINARY, 0.2, 5000)
    np.testing.assert_allclose(w, theirs.coef_[0], atol=1e-3)
    np.testing.assert_allclose(b, theirs.intercept_, atol=1e-3)


def test_the_linear_svm_with_hinge_comes_close_to_the_optimum_of_scikit_learn() -> None:
    """A subgradient method ends near the optimum: the objective tells how near."""
    theirs = SVC(kernel="linear", C=1 / (0.1 * 120), tol=1e-6).fit(X, BINARY)
    model = linear_svm(4, l2=0.1)
    for rate in (0.1, 0.01, 0.001, 0.0001):
        optimum(model, BINARY, rate, 2000)
    best = [theirs.coef_.T, theirs.intercept_]
    ours, reference = (model.gradient(w, X, BINARY)[0] for w in (model.weights, best))
    assert ours <= reference + 1e-4


def test_labels_of_either_sign_convention_make_the_same_machine() -> None:
    model = linear_svm(4)
    one, other = (model.gradient(model.weights, X, y) for y in (BINARY, 2 * BINARY - 1))
    np.testing.assert_array_equal(one[1][0], other[1][0])


def test_random_features_are_the_kernels_inner_products() -> None:
    features = random_features(4, 20_000, gamma=0.3, seed=1)(X[:30])
    np.testing.assert_allclose(features @ features.T, rbf_kernel(X[:30], gamma=0.3), atol=0.05)
    assert np.array_equal(features, random_features(4, 20_000, gamma=0.3, seed=1)(X[:30]))


def test_a_linear_svm_on_random_features_parts_a_ring_from_its_centre() -> None:
    x = np.random.default_rng(0).normal(size=(400, 2))
    y = ((x**2).sum(axis=1) > 1.4).astype(int)
    features = random_features(2, 300, gamma=0.5, seed=0)(x)
    model = linear_svm(300, epochs=50)
    model.fit((features, y), 0.5)
    found = model.evaluate((features, y))
    assert isinstance(found, Evaluation)
    assert found.metrics()["accuracy"] > 0.95
    flat = linear_svm(2, epochs=50)
    flat.fit((x, y), 0.5)
    assert flat.evaluate((x, y)).metrics()["accuracy"] < 0.7  # type: ignore[union-attr]


def test_a_perceptron_learns_what_no_linear_model_can() -> None:
    x = np.random.default_rng(0).normal(size=(400, 2)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    model = mlp((2, 32, 2), epochs=60, batch_size=16)
    model.fit((x, y), 0.2)
    found = model.evaluate((x, y))
    assert isinstance(found, Evaluation)
    assert found.metrics()["accuracy"] > 0.95
    assert {array.dtype.name for array in model.get_weights()} == {"float32"}


def test_the_2nn_has_the_parameters_of_the_paper() -> None:
    assert sum(array.size for array in mlp().get_weights()) == 199_210


@pytest.mark.parametrize(
    ("guide", "steps"), [({}, 16), ({"epochs": 3}, 24), ({"steps": 5, "epochs": 3}, 5)]
)
def test_steps_go_before_epochs_and_both_before_the_models_own(
    guide: dict[str, int], steps: int
) -> None:
    seen: list[int] = []

    def gradient(weights: object, x: np.ndarray, y: np.ndarray) -> tuple[float, list[np.ndarray]]:
        seen.append(len(x))
        return 1.0, [np.ones(1)]

    model = NumpyModel([np.zeros(1)], gradient, epochs=2, batch_size=16)
    metrics = model.fit((X, NOISY), 0.5, TrainingPlan([np.zeros(1)], **guide))  # type: ignore[arg-type]
    assert (metrics["local_steps"], len(seen)) == (steps, steps)
    assert seen[: min(8, steps)] == [16] * min(7, steps) + [8] * (steps >= 8)
    np.testing.assert_allclose(model.weights[0], -0.5 * steps)


def test_a_step_is_clipped_then_pulled_and_corrected() -> None:
    model = NumpyModel(
        [np.array([1.0]), np.array([2.0])],
        lambda *_: (0.0, [np.array([3.0]), np.array([4.0])]),
        batch_size=None,
    )
    guide = TrainingPlan(
        [np.zeros(1), np.zeros(1)],
        proximal=0.5,
        correction=[np.array([0.25]), np.array([-0.25])],
        clip_norm=2.5,
    )
    model.fit((X, NOISY), 0.1, guide)
    np.testing.assert_allclose(model.weights[0], 1.0 - 0.1 * (1.5 + 0.5 * 1.0 + 0.25))
    np.testing.assert_allclose(model.weights[1], 2.0 - 0.1 * (2.0 + 0.5 * 2.0 - 0.25))


def test_a_gradient_within_the_norm_is_left_alone() -> None:
    model = NumpyModel([np.zeros(1)], lambda *_: (0.0, [np.array([3.0])]), batch_size=None)
    model.fit((X, NOISY), 1.0, TrainingPlan([np.zeros(1)], clip_norm=4.0))
    np.testing.assert_array_equal(model.weights[0], [-3.0])


def test_nonsense_is_refused() -> None:
    makers = [
        lambda: linear_regression(2, epochs=0),
        lambda: linear_regression(2, batch_size=0),
        lambda: mlp((3,)),
        lambda: random_features(2, 5, gamma=0, seed=0),
        lambda: linear_svm(2, l2=-1),
        lambda: k_means(np.zeros(3)),
    ]
    for make in makers:
        with pytest.raises(ConfigError):
            make()


# --- k-means -----------------------------------------------------------------------------------


def federated_lloyd(parts: list[np.ndarray], start: np.ndarray, rounds: int) -> np.ndarray:
    clients = [FederatedClient(k_means(start), part, 1.0) for part in parts]
    coordinator = FederatedCoordinator([client.model for client in clients])
    for _ in range(rounds):
        coordinator.send(coordinator.aggregate([c.train(coordinator.weights) for c in clients]))
    return clients[0].model.centroids  # type: ignore[no-any-return]


def blobs() -> tuple[np.ndarray, list[np.ndarray]]:
    draw = np.random.default_rng(5)
    x = np.concatenate([draw.normal(center, 1.0, (70, 2)) for center in (0, 5, -6)])
    return x, [x[:30], x[30:100], x[100:]]


def test_federated_k_means_is_lloyds_algorithm_on_all_data() -> None:
    x, parts = blobs()
    start = x[[0, 1, 2]]
    pooled = start.copy()
    for _ in range(7):
        nearest = assign(x, pooled)[0]
        pooled = np.stack([x[nearest == j].mean(axis=0) for j in range(3)])
    np.testing.assert_allclose(federated_lloyd(parts, start, 7), pooled, atol=1e-6)


def test_federated_k_means_ends_where_scikit_learns_does() -> None:
    x, parts = blobs()
    theirs = ReferenceKMeans(3, init=x[[0, 1, 2]], n_init=1, tol=0).fit(x).cluster_centers_
    np.testing.assert_allclose(federated_lloyd(parts, x[[0, 1, 2]], 40), theirs, atol=1e-6)


@pytest.mark.parametrize("offset", [1e6, 1.7e9, -1e11])
def test_k_means_far_from_the_origin_is_that_at_the_origin(offset: float) -> None:
    x, parts = blobs()
    near = federated_lloyd(parts, x[[0, 1, 2]], 20)
    far = federated_lloyd([part + offset for part in parts], x[[0, 1, 2]] + offset, 20)
    np.testing.assert_allclose(far - offset, near, atol=1e-13 * abs(offset) + 1e-6)
    found = k_means(far).evaluate(x + offset)["loss"]  # type: ignore[index]
    assert found == pytest.approx(k_means(near).evaluate(x)["loss"], rel=1e-3)  # type: ignore[index]


def test_clusters_that_are_close_together_are_told_apart_beside_one_that_is_far_away() -> None:
    centroids = np.array([[1e9], [1e9 + 1], [0.0], [-5e9]])
    x = 1e9 + np.array([[0.1], [0.4], [0.6], [0.9]])
    nearest, distances = assign(x, centroids)
    np.testing.assert_array_equal(nearest, [0, 0, 1, 1])
    np.testing.assert_allclose(distances, [0.01, 0.16, 0.16, 0.01], rtol=1e-5)


def test_a_cluster_that_nobody_has_stays_where_it_is() -> None:
    x, parts = blobs()
    start = np.concatenate([x[:2], [[1000.0, 1000.0]]])
    found = federated_lloyd(parts, start, 20)
    np.testing.assert_allclose(found[2], [1000.0, 1000.0], rtol=1e-3)
    assert np.abs(found[:2]).max() < 10
    assert PSEUDO_COUNT < 1e-6


# --- scikit-learn's own --------------------------------------------------------------------------


def test_an_estimator_of_scikit_learn_takes_part_and_its_delta_is_its_own_training() -> None:
    make = lambda: SGDClassifier(shuffle=False, alpha=0.01)  # noqa: E731
    client = FederatedClient(SklearnModel(make(), [0, 1], features=4), (X, BINARY), 0.05)
    update = client.train([np.zeros((1, 4)), np.zeros(1)])
    theirs = make().set_params(learning_rate="constant", eta0=0.05)
    theirs.partial_fit(X, BINARY, classes=[0, 1])
    np.testing.assert_allclose(update.delta[0], theirs.coef_)
    np.testing.assert_allclose(update.delta[1], theirs.intercept_)


def test_two_sites_learn_a_classifier_of_three_classes_one_of_which_each_lacks() -> None:
    sites = [(X[THREE != 0], THREE[THREE != 0]), (X[THREE != 2], THREE[THREE != 2])]
    clients = [
        FederatedClient(
            SklearnModel(SGDClassifier(random_state=0), [0, 1, 2], features=4),
            site,
            0.01,
            validation=(X, THREE),
        )
        for site in sites
    ]
    coordinator = FederatedCoordinator([client.model for client in clients])
    for _ in range(20):
        coordinator.send(coordinator.aggregate([c.train(coordinator.weights) for c in clients]))
    assert clients[0].evaluate()["accuracy"] > 0.55


def test_a_regressor_and_an_estimator_without_partial_fit_take_part() -> None:
    for estimator in (SGDRegressor(), Ridge()):
        client = FederatedClient(
            SklearnModel(estimator, features=4, epochs=5),
            (X, NOISY),
            0.01,
            validation=(X, NOISY),
        )
        start = client.weights()
        update = client.train([np.zeros_like(array) for array in start])
        assert client.evaluate()["loss"] < update.metrics["eval_loss"] / 2


def test_what_scikit_learn_cannot_do_is_said() -> None:
    client = FederatedClient(SklearnModel(SGDRegressor(), features=4), (X, NOISY), 0.01)
    with pytest.raises(ConfigError, match="proximal was asked for"):
        client.train(client.weights(), LocalTraining(proximal=0.1))
