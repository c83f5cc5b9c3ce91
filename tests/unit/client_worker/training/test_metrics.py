"""What a model returns travels, or is left out with one line for each name."""

from typing import Any

import numpy as np
import pytest

from client_worker import Task
from client_worker.runtime.participant import _entry
from client_worker.training.metrics import MAX_FIGURES, FigureFilter
from warren_shared.tensors.evaluation import Evaluation, of_scores

X, Y = np.zeros((20, 3)), np.zeros(20)

LEFT_OUT: dict[str, dict[Any, Any]] = {
    "an array": {"f1": np.array([0.5, 0.6])},
    "one number in an array": {"f1": np.array([0.5])},
    "None": {"loss": None},
    "a word": {"status": "converged"},
    "a number in a word": {"loss": "0.5"},
    "a complex number": {"loss": 1j},
    "a number beyond floats": {"loss": 10**400},
    "a long name": {"n" * 150: 1.0},
    "a name that is too long with its prefix": {"n" * 126: 1.0},
    "no name": {"": 1.0},
    "a surrogate": {"data_\udcfc.csv": 1.0},
    "a line break in a name": {"a\nb": 1.0},
    "a number as a name": {3: 1.0},
}


class Model:
    def __init__(self, metrics: Any = None, evaluation: Any = None) -> None:
        self.weights, self.metrics, self.evaluation = [np.zeros(3)], metrics, evaluation

    def get_weights(self) -> list[np.ndarray]:
        return self.weights

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.weights = [np.array(array) for array in weights]

    def fit(self, data: Any, learning_rate: float) -> Any:
        self.weights = [self.weights[0] + 1]
        return self.metrics

    def evaluate(self, data: Any) -> Any:
        return self.evaluation


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_cannot_travel_is_left_out_of_the_training_and_of_the_evaluation(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    figures = LEFT_OUT[kind] | {"fine": np.float32(2)}
    client = Task(Model(figures, figures), (X, Y), validation=(X, Y)).client()
    for _ in range(2):
        update = client.train(client.weights())
        assert all(isinstance(value, float) for value in update.metrics.values())
        entry = _entry(update.evaluation)
        assert entry is not None
        assert entry.means["fine"] == 2.0
        assert update.metrics["fine"] == update.metrics["eval_fine"] == 2.0
    said = [record for record in caplog.records if vars(record)["action"] == "figure_left_out"]
    assert 1 <= len(said) <= 2  # once for the name, and perhaps once for it behind its prefix
    assert all("\n" not in record.getMessage() for record in said)
    assert all(record.getMessage().isascii() for record in said)


def test_more_figures_than_a_message_holds_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    many = {f"m{number}": 1.0 for number in range(MAX_FIGURES + 6)}
    client = Task(Model(many, many), (X, Y), validation=(X, Y)).client()
    update = client.train(client.weights())
    assert len(update.metrics) == MAX_FIGURES
    assert _entry(update.evaluation) is not None


@pytest.mark.parametrize("what", [[1.0], "loss", 0.5])
def test_a_fit_that_returns_no_mapping_has_no_figures(what: Any) -> None:
    client = Task(Model(what), (X, Y)).client()
    assert client.train(client.weights()).metrics == {}


@pytest.mark.parametrize(
    "broken",
    [
        Evaluation(0),
        Evaluation(None),  # type: ignore[arg-type]
        Evaluation(3, {}, np.eye(2), ((1,), (2,), (3,))),  # type: ignore[arg-type]
        Evaluation(3, {}, (), ((2.0, 1.0), (1, 0), (0, 1))),
        Evaluation(3, {}, (), ((0.5, np.nan), (1, 0), (0, 1))),
        Evaluation(3, {}, (), ((0.5,), (3,), (1,))),
        Evaluation(3, {}, (), ((1, 0), (0, 1))),  # type: ignore[arg-type]
        Evaluation(np.int64(3), {}, ((1, 0),)),  # type: ignore[arg-type]
        Evaluation(3, {}, ((-1, 0), (0, 4))),
        Evaluation(3, {}, ((0.5, 0), (0, 2.5))),  # type: ignore[arg-type]
        Evaluation(3, {}, ((1, 0), (0,))),
    ],
)
def test_an_evaluation_made_by_hand_travels_without_what_is_wrong_in_it(broken: Evaluation) -> None:
    _entry(FigureFilter().evaluation(broken))


def test_a_figure_that_is_nan_travels_as_that() -> None:
    client = Task(Model({"loss": np.float32("nan")}), (X, Y)).client()
    assert client.train(client.weights()).not_finite == ["loss"]
    found = FigureFilter().evaluation(of_scores(Y, Y, loss=float("nan")))
    entry = _entry(found)
    assert entry is not None
    assert (entry.means, entry.not_finite) == ({}, ["loss"])


@pytest.mark.parametrize("steps", [float("nan"), "three", None, -4, 0])
def test_steps_that_are_no_number_are_unknown(steps: Any) -> None:
    client = Task(Model({"local_steps": steps}), (X, Y)).client()
    assert client.train(client.weights()).local_steps is None


@pytest.mark.parametrize("rate", [0, -1.0, float("inf"), "fast", None, [0.1]])
def test_a_learning_rate_that_is_none_is_one_line(rate: Any) -> None:
    with pytest.raises(Exception, match="learning_rate is"):
        Task(Model(), (X, Y), learning_rate=rate).client()
