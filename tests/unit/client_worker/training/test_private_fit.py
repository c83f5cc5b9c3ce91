"""Training on records with noise: the step, what is refused, and what does not leave."""

from collections.abc import Sequence

import numpy as np
import pytest

from client_worker import FederatedClient, Task, interpolate, statistics_task
from client_worker.models import (
    k_means,
    linear_regression,
    linear_svm,
    logistic_regression,
    mlp,
    softmax_regression,
)
from client_worker.privacy import release
from client_worker.privacy.terms import RecordPrivacy, Refused
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining

TERMS = "epsilon=1,delta=1e-5,steps=6,examples=40"
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(40, 5))
LABELS = (X[:, 0] > 0).astype(int)
MODELS = {
    "linear": (lambda: linear_regression(5, l2=0.1), X @ np.ones((5, 1))),
    "logistic": (lambda: logistic_regression(5, l2=0.1), LABELS),
    "softmax": (lambda: softmax_regression(5, 3), LABELS),
    "svm": (lambda: linear_svm(5, squared=True), LABELS),
    "mlp": (lambda: mlp((5, 8, 2)), LABELS),
}


class Silence:
    """In the place of the noise, where a test is about all the rest."""

    def __init__(self, _sigma: float) -> None:
        pass

    def draw(self, _stream: object, count: int) -> np.ndarray:
        return np.zeros(count, np.int64)


def client_with(clip: float, steps: int = 6) -> FederatedClient:
    terms = RecordPrivacy(epsilon=1, delta=1e-5, steps=steps, examples=40, clip=clip)
    model = logistic_regression(5)
    return FederatedClient(model, (X, LABELS), 0.1, record_privacy=terms)


@pytest.mark.parametrize("name", MODELS)
def test_the_records_gradients_are_those_of_the_batch(name: str) -> None:
    make, y = MODELS[name]
    model = make()
    for array in model.weights:
        array[...] = np.random.default_rng(1).normal(size=array.shape)
    rows = np.concatenate(list(model.per_example_gradients((X, y))))
    assert rows.shape == (40, sum(array.size for array in model.weights))
    whole = np.concatenate([g.ravel() for g in model.gradient(model.weights, X, y)[1]])
    np.testing.assert_allclose(rows.mean(axis=0), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_record_changes_no_other_s_gradient_by_a_bit(name: str) -> None:
    make, y = MODELS[name]
    model = make()
    rows = np.concatenate(list(model.per_example_gradients((X, y))))
    fewer = np.concatenate(list(model.per_example_gradients((X[3:], y[3:]))))
    assert rows[3:].tobytes() == fewer.tobytes()


def test_gradients_come_in_parts_that_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client_worker.models.numpy_model.PART_SIZE", 50)
    parts = list(logistic_regression(5).per_example_gradients((X, LABELS)))
    assert [len(part) for part in parts] == [8] * 5


def test_a_step_goes_along_the_clipped_gradients_sum_over_the_public_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(release, "DiscreteGaussian", Silence)
    rows = np.concatenate(list(logistic_regression(5).per_example_gradients((X, LABELS))))
    norms = np.linalg.norm(rows, axis=1)
    clip = float(np.median(norms))
    client = client_with(clip)
    update = client.train(client.weights(), LocalTraining(steps=1))
    clipped = rows * np.minimum(1, clip / norms)[:, None]
    found = np.concatenate([np.asarray(array).ravel() for array in update.delta])
    np.testing.assert_allclose(found, -0.1 * clipped.sum(axis=0) / 40, rtol=1e-3)


def test_each_step_has_noise_of_its_own() -> None:
    """Of two rounds from one model, which would be alike without."""
    client = client_with(1.0)
    first, second = (
        np.asarray(client.train(client.initial(), LocalTraining(steps=1)).delta[0])
        for _ in range(2)
    )
    assert client.budget is not None
    deviation = 0.1 / client.budget.terms.mu_of_step / 40
    assert (first != second).all()
    assert 0.2 * deviation < (first - second).std() < 5 * deviation


def test_the_public_number_stands_for_the_number_of_records() -> None:
    client = FederatedClient(logistic_regression(5), (X[:7], LABELS[:7]), 0.1, record_privacy=TERMS)
    update = client.train(client.weights(), LocalTraining(steps=2))
    assert update.num_examples == 40
    assert update.local_steps == 2


def test_an_update_holds_no_figure_of_the_data() -> None:
    client = FederatedClient(
        logistic_regression(5),
        (X, LABELS),
        0.1,
        validation=(X, LABELS),
        record_privacy=TERMS,
    )
    update = client.train(client.weights())
    assert update.metrics == {}
    assert update.evaluation is None
    assert update.not_finite == ()


def test_when_the_steps_are_spent_the_client_trains_no_more() -> None:
    client = FederatedClient(logistic_regression(5), (X, LABELS), 0.1, record_privacy=TERMS)
    taken = [client.train(client.weights(), LocalTraining(steps=4)).local_steps for _ in range(2)]
    assert taken == [4, 2]
    with pytest.raises(Refused, match="all 6 steps of this site's budget are spent"):
        client.train(client.weights())


def test_without_a_number_of_steps_those_of_the_model_are_taken() -> None:
    model = logistic_regression(5, epochs=2)
    client = FederatedClient(model, (X, LABELS), 0.1, record_privacy=TERMS)
    assert client.train(client.weights()).local_steps == 2
    assert client.train(client.weights(), LocalTraining(epochs=3)).local_steps == 3


def test_fedprox_draws_to_the_global_model_as_without_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the second step, since the first begins at the anchor."""
    monkeypatch.setattr(release, "DiscreteGaussian", Silence)
    start = [np.full((5, 1), 1.0), np.ones(1)]
    one = client_with(1.0).train(start, LocalTraining(steps=1)).delta
    two = client_with(1.0).train(start, LocalTraining(steps=2)).delta
    drawn = client_with(1.0).train(start, LocalTraining(steps=2, proximal=2.0)).delta
    np.testing.assert_allclose(drawn[0], two[0] - 0.1 * 2.0 * one[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("local", "words"),
    [
        (LocalTraining(scaffold=True), "--scaffold"),
        (LocalTraining(clip_norm=1.0), "--local-clip-norm"),
    ],
)
def test_what_does_not_go_together_with_privacy_is_refused(
    local: LocalTraining, words: str
) -> None:
    client = FederatedClient(logistic_regression(5), (X, LABELS), 0.1, record_privacy=TERMS)
    with pytest.raises(Refused, match=words):
        client.train(client.initial(local), local)


class Own:
    """A model of a user's own."""

    epochs: object = 1

    def __init__(self) -> None:
        self.arrays = [np.zeros(5), np.full(2, 7.0)]

    def get_weights(self) -> list[np.ndarray]:
        return self.arrays

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        self.arrays = [np.array(array) for array in weights]

    def fit(self, _data: object, _rate: float) -> dict[str, float]:
        raise AssertionError("not called")


class OwnPrivate(Own):
    def weight_roles(self) -> list[str]:
        return ["trainable", "statistic"]

    def per_example_gradients(self, data: np.ndarray) -> np.ndarray:
        self.arrays[1] = data.mean(axis=0)[:2]  # which must not leave
        return data


def test_a_model_without_gradients_of_records_is_refused_in_one_line() -> None:
    with pytest.raises(Refused, match="Own has no per_example_gradients") as caught:
        FederatedClient(Own(), X, 0.1, record_privacy=TERMS)
    assert "\n" not in str(caught.value)
    for model in (k_means(X[:2]), statistics_task(X).model):
        with pytest.raises(Refused, match=r"per_example_gradients|public instead"):
            FederatedClient(model, X, 0.1, record_privacy=TERMS)


def test_a_model_of_the_users_own_gives_its_gradients_and_its_statistics_stay() -> None:
    client = FederatedClient(OwnPrivate(), X, 0.5, record_privacy=TERMS)
    start = [np.zeros(5), np.array([1.0, 2.0])]
    update = client.train(start)
    assert np.asarray(update.delta[0]).any()
    np.testing.assert_array_equal(update.delta[1], [1.0, 2.0])


def test_epochs_that_are_no_number_of_steps_are_refused() -> None:
    model = OwnPrivate()
    model.epochs = 1.5
    client = FederatedClient(model, X, 0.5, record_privacy=TERMS)
    with pytest.raises(ConfigError, match=r"epochs are 1\.5"):
        client.train(client.weights())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"local": [1]}, "local layers"),
        ({"ditto": 0.1}, "ditto"),
        ({"update_rule": interpolate(0.5)}, "update_rule"),
    ],
)
def test_what_is_personal_is_refused(options: dict[str, object], words: str) -> None:
    task = Task(logistic_regression(5), (X, LABELS), record_privacy=TERMS, **options)  # type: ignore[arg-type]
    with pytest.raises(Refused, match=f"{words}.* without noise"):
        task.client()
