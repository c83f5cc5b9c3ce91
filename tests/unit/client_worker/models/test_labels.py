"""Numpy's and scikit-learn's models: labels that do not fit are refused, hidden state is reset."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn import linear_model, svm

from client_worker import Task
from client_worker.models import (
    SklearnModel,
    linear_regression,
    linear_svm,
    logistic_regression,
    mlp,
    softmax_regression,
)
from warren_shared.errors import ConfigError

R = np.random.default_rng(0)
X = R.normal(size=(60, 4))
Y = (X[:, 0] > 0).astype(int)
THREE = R.integers(0, 3, 60)

MODELS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: logistic_regression(4),
    "softmax": lambda: softmax_regression(4, 3),
    "mlp": lambda: mlp((4, 5, 3)),
    "svm": lambda: linear_svm(4),
}

TAKEN = [
    ("logistic", Y), ("logistic", Y > 0), ("logistic", Y[:, None].astype(float)),
    ("softmax", THREE), ("softmax", THREE.astype(float)), ("mlp", THREE),
    ("svm", Y), ("svm", 2 * Y - 1), ("svm", np.ones(60)),
]  # fmt: skip

REFUSED = [
    ("logistic", 2 * Y - 1), ("logistic", Y + 1), ("logistic", np.where(Y, np.nan, 0)),
    ("logistic", Y / 2), ("logistic", np.eye(2)[Y]),
    ("softmax", THREE - 1), ("softmax", THREE + 1), ("softmax", THREE / 2),
    ("softmax", np.eye(3)[THREE]), ("mlp", THREE - 1), ("mlp", THREE + 1),
    ("svm", Y + 1), ("svm", THREE), ("svm", THREE - 1), ("svm", np.full(60, np.nan)),
    ("svm", np.where(Y, "yes", "no")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "labels"), TAKEN)
def test_labels_that_fit_the_loss_are_trained_on(kind: str, labels: Any) -> None:
    client = Task(MODELS[kind](), (X, labels), validation=(X, labels)).client()
    assert np.isfinite(client.train(client.weights()).metrics["loss"])


@pytest.mark.parametrize(("kind", "labels"), REFUSED)
@pytest.mark.parametrize("held_out", [False, True])
def test_labels_that_do_not_fit_the_loss_are_one_line(
    kind: str, labels: Any, held_out: bool
) -> None:
    fine = (X, np.zeros(60)), (X, labels)
    client = Task(MODELS[kind](), fine[not held_out], validation=fine[held_out]).client()
    with pytest.raises(ConfigError, match=r"map the labels|one class for each|encode"):
        client.train(client.weights())


def test_data_of_another_form_are_one_line() -> None:
    for data, said in (
        ((X, Y, np.ones(60)), "sample weights"),
        ((X, np.zeros((60, 2))), "1 numbers for each"),
    ):
        client = Task(linear_regression(4), data).client()
        with pytest.raises(ConfigError, match=said):
            client.train(client.weights())
    client = Task(linear_regression(4), {"x": X, "y": Y}).client()
    assert client.train(client.weights()).num_examples == 60


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "LogisticRegression": linear_model.LogisticRegression,
    "liblinear": lambda: linear_model.LogisticRegression(solver="liblinear"),
    "LinearSVC": svm.LinearSVC,
    "RidgeClassifier": linear_model.RidgeClassifier,
    "SGDClassifier": lambda: linear_model.SGDClassifier(loss="log_loss", random_state=0),
    "Perceptron": lambda: linear_model.Perceptron(random_state=0),
}


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize(
    ("classes", "labels"), [([0, 1], np.zeros(60, int)), (["a", "b"], np.full(60, "b"))]
)
def test_a_site_that_lacks_a_class_trains(kind: str, classes: Any, labels: Any) -> None:
    model = SklearnModel(ESTIMATORS[kind](), classes, features=4)
    client = Task(model, (X, labels), 0.1, validation=(X, labels)).client()
    update = client.train(client.weights())
    assert all(np.isfinite(array).all() for array in update.delta)
    # What is seen is what is predicted.
    model.set_weights([w + d for w, d in zip(client.weights(), update.delta, strict=True)])
    assert (model.estimator.predict(X) == labels).mean() > 0.9


@pytest.mark.parametrize("kind", [k for k in ESTIMATORS if k != "liblinear"])
def test_two_classes_of_three_give_weights_of_the_layout_of_three(kind: str) -> None:
    labels = np.where(X[:, 1] > 0, 2, 0)
    model = SklearnModel(ESTIMATORS[kind](), [0, 1, 2], features=4)
    client = Task(model, (X, labels), 0.1).client()
    update = client.train(client.weights())
    assert update.delta[0].shape == (3, 4)
    model.set_weights([w + d for w, d in zip(client.weights(), update.delta, strict=True)])
    assert (model.estimator.predict(X) == labels).mean() > 0.8


def test_a_class_that_is_absent_does_not_change_the_fit_of_those_that_are_there() -> None:
    labels = np.where(X[:, 1] > 0, 2, 0)
    model = SklearnModel(linear_model.LogisticRegression(tol=1e-10), [0, 1, 2], features=4)
    model.fit((X, labels), 0.1)
    # Softmax splits the weights between two classes, so its penalty on both is half of one's.
    alone = linear_model.LogisticRegression(C=2.0, tol=1e-10).fit(X, labels)
    shares = model.estimator.predict_proba(X)
    assert np.abs(shares[:, 2] - alone.predict_proba(X)[:, 1]).max() < 1e-3
    assert shares[:, 1].max() < 1e-3


def test_a_label_that_classes_lacks_is_one_line() -> None:
    for name in ("SGDClassifier", "LogisticRegression"):
        model = SklearnModel(ESTIMATORS[name](), [0, 1], features=4)
        client = Task(model, (X, THREE), 0.1, validation=(X, THREE)).client()
        with pytest.raises(ConfigError, match="labels 2 are none of classes"):
            client.train(client.weights())


@pytest.mark.parametrize(
    "make",
    [
        lambda: linear_model.SGDClassifier(average=True),
        lambda: linear_model.SGDRegressor(average=10),
        lambda: linear_model.SGDClassifier(early_stopping=True),
    ],
)
def test_estimators_that_go_on_from_hidden_weights_are_refused(make: Callable[[], Any]) -> None:
    classes = None if isinstance(make(), linear_model.SGDRegressor) else [0, 1]
    with pytest.raises(ConfigError, match=r"average|cannot be trained"):
        SklearnModel(make(), classes, features=4)


@pytest.mark.parametrize(
    ("make", "classes"),
    [
        (lambda: linear_model.SGDClassifier(learning_rate="optimal", random_state=0), [0, 1]),
        (
            lambda: linear_model.SGDClassifier(learning_rate="adaptive", eta0=1, random_state=0),
            [0, 1],
        ),
        (lambda: linear_model.SGDRegressor(random_state=0), None),
        (lambda: linear_model.Perceptron(random_state=0), [0, 1]),
        (lambda: linear_model.LogisticRegression(random_state=0), [0, 1]),
        (linear_model.Lasso, None),
        (lambda: linear_model.HuberRegressor(max_iter=3), None),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_training_twice_from_one_model_gives_one_delta(make: Any, classes: Any) -> None:
    client = Task(SklearnModel(make(), classes, features=4, epochs=3), (X, Y), 0.05).client()
    weights = [array + 0.1 for array in client.weights()]
    first, second = client.train(weights), client.train(weights)
    for one, other in zip(first.delta, second.delta, strict=True):
        np.testing.assert_array_equal(one, other)
