"""Models as scikit-learn estimators: what joblib loads predicts the same; we never load one."""

import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import Ridge, SGDClassifier

from client_worker import Task
from client_worker import cli as client
from client_worker.models import (
    SklearnModel,
    linear_regression,
    linear_svm,
    logistic_regression,
    sklearn_file,
    softmax_regression,
)
from coordinator_worker import cli as coordinator
from tests.support.runs import federation
from warren_shared import weights_file
from warren_shared.tensors.layout import Weights

X = np.random.default_rng(1).normal(size=(50, 3))
Y = (X[:, 0] > 0).astype(int)


def ridge() -> Task:
    return Task(SklearnModel(Ridge(), features=3), (X, X @ np.ones(3)), 0.1)


def sgd() -> Task:
    model = SklearnModel(SGDClassifier(loss="log_loss"), classes=["no", "yes"], features=3)
    return Task(model, (X, np.where(Y, "yes", "no")), 0.1)


def line() -> Task:
    return Task(linear_regression(3), (X, X @ np.ones(3)), 0.1)


def plane() -> Task:
    return Task(linear_regression(3, outputs=2), (X, X[:, :2]), 0.1)


def logistic() -> Task:
    return Task(logistic_regression(3), (X, Y), 0.1)


def two() -> Task:
    return Task(softmax_regression(3, 2), (X, Y), 0.1)


def three() -> Task:
    return Task(softmax_regression(3, 3), (X, Y), 0.1)


def svm() -> Task:
    return Task(linear_svm(3), (X, Y), 0.1)


def exported(make: Any, folder: Path) -> tuple[Any, list[np.ndarray]]:
    """What joblib loads, and the weights that it should have."""
    draw = np.random.default_rng(2)
    arrays = [draw.normal(size=array.shape) for array in make().model.get_weights()]
    weights_file.write(folder / "m.npz", Weights.of(arrays))
    words = ["export", "--task", f"{__name__}:{make.__name__}", "--model", str(folder / "m.npz")]
    assert client.main([*words, "--to", str(folder / "m.joblib")]) == 0
    return joblib.load(folder / "m.joblib"), arrays


def softmax(z: np.ndarray) -> np.ndarray:
    raised = np.exp(z - z.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("make", [line, plane])
def test_a_linear_regression_predicts_the_same(make: Any, tmp_path: Path) -> None:
    estimator, (w, b) = exported(make, tmp_path)
    wanted = X @ w + b
    shape = wanted if wanted.shape[1] > 1 else wanted[:, 0]
    np.testing.assert_allclose(estimator.predict(X), shape)


@pytest.mark.parametrize("make", [two, three])
def test_a_softmax_regression_has_the_same_probabilities(make: Any, tmp_path: Path) -> None:
    estimator, (w, b) = exported(make, tmp_path)
    np.testing.assert_allclose(estimator.predict_proba(X), softmax(X @ w + b))
    assert set(estimator.predict(X)) <= set(range(w.shape[1]))


def test_a_logistic_regression_has_the_same_probabilities(tmp_path: Path) -> None:
    estimator, (w, b) = exported(logistic, tmp_path)
    np.testing.assert_allclose(
        estimator.predict_proba(X)[:, 1], 1 / (1 + np.exp(-(X @ w + b)[:, 0]))
    )


def test_an_estimator_of_the_users_keeps_its_class_its_labels_and_its_parameters(
    tmp_path: Path,
) -> None:
    estimator, (w, b) = exported(sgd, tmp_path)
    assert isinstance(estimator, SGDClassifier)
    assert estimator.classes_.tolist() == ["no", "yes"]
    assert set(estimator.predict(X)) <= {"no", "yes"}
    np.testing.assert_allclose(estimator.decision_function(X), X @ w[0] + b)
    estimator, (w, b) = exported(ridge, tmp_path)
    np.testing.assert_allclose(estimator.predict(X), X @ w + b[0])


def test_a_model_that_is_no_estimator_is_told_what_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--task", f"{__name__}:svm", "--to", str(tmp_path / "m.joblib")]
    assert client.main(words) == 2
    (line_,) = capsys.readouterr().err.splitlines()
    assert "is none of SklearnModel, linear_regression" in line_
    assert "write .npz or .safetensors" in line_
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["joblib", "sklearn"])
def test_without_scikit_learn_a_line_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    words = ["export", "--task", f"{__name__}:logistic", "--to", str(tmp_path / "m.joblib")]
    assert client.main(words) == 2
    (line_,) = capsys.readouterr().err.splitlines()
    assert sklearn_file.MISSING in line_
    assert list(tmp_path.iterdir()) == []


class Payload:
    """A pickle that leaves a trace if somebody loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_joblib_file_is_never_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "ran"
    joblib.dump(Payload(trace), tmp_path / "m.joblib")
    told = [str(tmp_path / "m.joblib"), "--task", f"{__name__}:logistic"]
    new = ["--checkpoint-dir", str(tmp_path / "next"), "--broker-url", "amqp://a:b@localhost/f"]
    for main, words in (
        (client.main, ["export", "--model", *told, "--to", str(tmp_path / "m.npz")]),
        (client.main, ["evaluate", "--model", *told]),
        (coordinator.main, ["import", *told, *new]),
    ):
        assert main(words) == 2
        assert "is a pickle, which is code that would run here" in capsys.readouterr().err
    assert not trace.exists()


def test_the_coordinator_asks_for_the_task_whose_model_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    federation(folder)
    words = ["export", "--to", str(tmp_path / "m.joblib"), "--checkpoint-dir", str(folder)]
    assert coordinator.main(words) == 2
    assert ".joblib an estimator: give --task TASK" in capsys.readouterr().err
