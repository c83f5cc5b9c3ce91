"""Tensors have roles: what is trained is stepped, what is measured is averaged, the rest stays."""

from collections.abc import Sequence

import numpy as np
import pytest

from client_worker import FederatedClient
from client_worker.training.scaffold import longer
from coordinator_worker import FederatedCoordinator
from coordinator_worker.aggregation.weighted_sum import WeightedSum, sum_of_squares
from warren_shared.errors import ConfigError
from warren_shared.protocol.codec import layout_of, tensor_entries
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors.evaluation import of_scores
from warren_shared.tensors.layout import (
    STATISTIC,
    TRAINABLE,
    Array,
    Layout,
    Weights,
    bytes_of,
    canonical,
)
from warren_shared.tensors.update import Update
from warren_shared.weights_file import read, write

OPTIMIZERS = (
    "sgd",
    "momentum:learning_rate=0.2,beta=0.5",
    "adagrad:learning_rate=0.1",
    "adam:learning_rate=0.03",
    "yogi:learning_rate=0.03",
)
AGGREGATORS = (
    "mean",
    "uniform",
    "fedbuff",
    "by-participation",
    "fednova",
    "median",
    "trimmed-mean:fraction=0.2",
    "krum:f=1",
    "multi-krum:f=1",
    "geometric-median",
    "centered-clipping",
)
CLIENTS, ROUNDS = 5, 50


class Normalised:
    """Logistic regression behind a batch normalisation, as Keras trains it, in numpy.

    Weights: gain, offset (trained), moving mean, moving variance (statistics), w, b (trained), and
    an integer count of batches, which stays.
    """

    def __init__(self, features: int) -> None:
        f = features
        self.arrays: list[Array] = [
            np.ones(f), np.zeros(f), np.zeros(f), np.ones(f), np.zeros(f), np.zeros(1),
            np.array(0),
        ]  # fmt: skip

    def get_weights(self) -> list[Array]:
        return self.arrays

    def set_weights(self, weights: Sequence[Array]) -> None:
        self.arrays = [np.array(array) for array in weights]

    def weight_names(self) -> list[str]:
        return ["gain", "offset", "moving_mean", "moving_variance", "w", "b", "batches"]

    def weight_roles(self) -> list[str]:
        return ["trainable"] * 2 + ["statistic"] * 2 + ["trainable"] * 2 + ["statistic"]

    def fit(self, data: tuple[Array, Array], learning_rate: float) -> dict[str, float]:
        gain, offset, mean, variance, w, b, count = self.arrays
        for x, y in zip(np.split(data[0], 4), np.split(data[1], 4), strict=True):
            center, spread = x.mean(0), x.var(0)
            z = (x - center) / np.sqrt(spread + 1e-3)
            error = 1 / (1 + np.exp(-(z * gain + offset) @ w - b)) - y
            back = error[:, None] * w
            steps = ((back * z).mean(0), back.mean(0), (z * gain + offset).T @ error / len(y))
            for array, gradient in zip((gain, offset, w), steps, strict=True):
                array -= learning_rate * gradient
            b -= learning_rate * error.mean()
            mean += 0.1 * (center - mean)
            variance += 0.1 * (spread - variance)
            count += 1
        return {"local_steps": 4.0}

    def scores(self, x: Array) -> Array:
        gain, offset, mean, variance, w, b, _ = self.arrays
        return 1 / (1 + np.exp(-((x - mean) / np.sqrt(variance + 1e-3) * gain + offset) @ w - b))


def sites(count: int = CLIENTS) -> list[tuple[Array, Array]]:
    found = []
    for seed in range(count):
        draw = np.random.default_rng(seed)
        x = 0.05 * draw.normal(size=(80, 4)) + 0.2
        score = (x[:, 0] + x[:, 1] - 0.5 * x[:, 2] - 0.3) / 0.05
        found.append((x, (score + 0.3 * draw.normal(size=80) > 0).astype(float)))
    return found


def federation(aggregator: str, optimizer: str, *, late: bool) -> tuple[float, float]:
    """Lowest moving variance of all versions, and the last one's AUC, after ROUNDS rounds."""
    data = sites()
    clients = [FederatedClient(Normalised(4), each, 0.5) for each in data]
    coordinator = FederatedCoordinator(
        [clients[0].model], aggregator=aggregator, server_optimizer=optimizer
    )
    versions = [Weights(coordinator.weights.layout, coordinator.weights.buffer.copy())]
    lowest = np.inf
    for _ in range(ROUNDS):
        cohort = coordinator.begin()
        for number, client in enumerate(clients):
            stale = min(number, len(versions) - 1) if late else 0
            cohort.add(client.train(versions[-1 - stale]), (1.0 + stale) ** -0.5)
        coordinator.send(coordinator.aggregate([cohort]))
        versions.append(Weights(coordinator.weights.layout, coordinator.weights.buffer.copy()))
        lowest = min(lowest, float(versions[-1][3].min()))
    clients[0].update(coordinator.weights)
    x, y = (np.concatenate(part) for part in zip(*data, strict=True))
    auc = of_scores(y, clients[0].model.scores(x)).metrics()["auc"]
    return lowest, auc


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["synchronous", "late"])
@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_no_server_optimizer_makes_a_variance_negative_or_a_model_worse(
    aggregator: str, late: bool
) -> None:
    """As weights, under FedAdam, FedYogi, FedAvgM and FedNova, it fell to -7, the AUC to .5."""
    _, plain = federation("mean", "sgd", late=late)
    for optimizer in OPTIMIZERS:
        lowest, auc = federation(aggregator, optimizer, late=late)
        assert lowest > 0, optimizer
        assert auc > plain - 0.01, optimizer


def test_statistics_are_averaged_by_weight_and_nothing_else_is_done_to_them() -> None:
    for optimizer in OPTIMIZERS:
        coordinator = FederatedCoordinator(
            [Normalised(2)], server_optimizer=optimizer, clip_norm=1e-3
        )
        updates = [
            Update(sent(coordinator, 1.0, [2.0, 4.0]), 1),
            Update(sent(coordinator, 1.0, [6.0, 8.0]), 3),
        ]
        moved = coordinator.aggregate(updates)
        np.testing.assert_allclose(moved[3], [5.0, 7.0], rtol=1e-12)


def test_a_late_updates_statistics_are_values_and_not_differences_to_an_old_model() -> None:
    coordinator = FederatedCoordinator([Normalised(2)])
    for variance in (0.01, 0.02):  # each trained from variance 1, of version 0
        coordinator.send(coordinator.aggregate([Update(sent(coordinator, 0.0, [variance] * 2), 1)]))
    np.testing.assert_allclose(coordinator.weights[3], [0.02, 0.02])


def test_a_plain_list_of_differences_counts_as_such() -> None:
    coordinator = FederatedCoordinator([Normalised(2)])
    delta = [np.zeros_like(array) for array in coordinator.weights]
    delta[3] += [-0.5, 0.5]
    np.testing.assert_allclose(coordinator.aggregate([Update(delta, 1)])[3], [0.5, 1.5])


def test_a_frozen_kernel_stays_the_same_to_the_last_bit() -> None:
    coordinator = FederatedCoordinator([Normalised(3)])
    coordinator.weights[2][:] = [0.1, 1 / 3, np.pi]
    before = coordinator.weights[2].copy()
    for _ in range(20):
        updates = [Update(sent(coordinator, 0.1, [1.0] * 3), n) for n in (3, 7, 11)]
        coordinator.send(coordinator.aggregate(updates))
    np.testing.assert_array_equal(coordinator.weights[2], before)


def test_norms_and_clipping_look_at_what_is_trained() -> None:
    coordinator = FederatedCoordinator([Normalised(2)], clip_norm=1.0)
    delta = sent(coordinator, 0.1, [1e9, 1e9])
    norm = sum_of_squares(delta.layout, 0, bytes_of(delta.buffer))
    assert norm == pytest.approx(7 * 0.01)
    cohort = coordinator.begin()
    cohort.add(Update(delta, 1))
    assert cohort.clipped == 0


def test_control_variates_are_of_trained_tensors_only() -> None:
    class Guided(Normalised):
        def fit(self, data, learning_rate, guide=None):  # type: ignore[no-untyped-def, override]
            return super().fit(data, learning_rate)

    client = FederatedClient(Guided(2), _two_columns(), 0.1)
    update = client.train(longer(client.weights()), LocalTraining(scaffold=True))
    names = [tensor.name for tensor in update.delta.layout.tensors]
    assert names[6:] == ["control/0", "control/1", "control/4", "control/5"]
    assert np.all(update.delta[3] > 0), "a value"
    client.withdraw(update.delta)
    assert not client.control.value.buffer.any()


def test_integers_stay_and_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    client = FederatedClient(Normalised(2), _two_columns(), 0.1)
    assert [tensor.name for tensor in client.layout.tensors][-1] == "b"
    assert [r.getMessage() for r in caplog.records if "stay" in r.getMessage()] == [
        "these stay at this site, not averaged: batches (int64)"
    ]
    client.train(client.weights())
    client.update(client.weights())
    assert int(client.model.arrays[6]) == 4, "a global model leaves it alone"
    assert not client.personal.kinds, "nothing is personal about it"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_weights_travel_as_float32_and_no_rounding_is_taken_for_training(dtype: str) -> None:
    import ml_dtypes  # noqa: F401  # knows bfloat16

    class Half:
        def __init__(self) -> None:
            self.w = [np.zeros(3, np.dtype(dtype))]

        def get_weights(self) -> list[Array]:
            return self.w

        def set_weights(self, weights: Sequence[Array]) -> None:
            assert [w.dtype for w in weights] == [np.dtype(dtype)]
            self.w = list(weights)

        def fit(self, _data: object, _rate: float) -> None:
            self.w = [self.w[0] + self.w[0].dtype.type(1)]

    client = FederatedClient(Half(), (np.zeros((4, 1)), np.zeros(4)), 0.1)
    assert [str(tensor) for tensor in client.layout.tensors] == ["0 float32[3]"]
    third = Weights.of([np.full(3, 1 / 3, np.float32)])
    assert client.train(third).delta[0] == pytest.approx(1.0, abs=0.01)
    held = np.float32(np.dtype(dtype).type(1 / 3))
    trained = np.float32(np.dtype(dtype).type(held) + np.dtype(dtype).type(1))
    np.testing.assert_array_equal(client.train(third).delta[0], trained - held)


def test_complex_weights_are_refused() -> None:
    class Wave(Normalised):
        def __init__(self) -> None:
            self.arrays = [np.zeros(2, complex)]

        weight_names = weight_roles = None  # type: ignore[assignment]

    wave = Wave()
    del Wave.weight_names, Wave.weight_roles
    wave.weight_names = lambda: ["wave"]  # type: ignore[method-assign]
    wave.weight_roles = lambda: ["trainable"]  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="tensor wave is complex128; only float32"):
        FederatedClient(wave, (np.zeros((4, 1)), np.zeros(4)), 0.1)


def test_roles_travel_and_lie_in_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    weights = FederatedCoordinator([Normalised(2)]).weights
    again = layout_of(tensor_entries(weights.layout), weights.layout.size_bytes)
    assert again == weights.layout
    for ending in (".npz", ".safetensors"):
        write(tmp_path / f"m{ending}", weights)
        assert read(tmp_path / f"m{ending}").weights.layout == weights.layout


def test_a_federation_that_takes_a_variance_for_a_weight_is_said_to_differ() -> None:
    ours = FederatedCoordinator([Normalised(2)]).weights.layout
    plain = Layout.of(Weights.empty(ours))
    assert ours.difference(plain) is None
    told = ours.difference(plain, ("this site's", "the federation's"), roles=True)
    assert told == (
        "this site's tensor moving_mean is a statistic, or frozen, the federation's is trained"
    )
    assert ours.digest != plain.digest


def test_sums_that_were_folded_elsewhere_have_their_statistics_taken_for_values() -> None:
    coordinator = FederatedCoordinator([Normalised(2)])
    part = WeightedSum(coordinator.weights.layout)
    part.add(Update(sent(coordinator, 0.0, [3.0, 3.0]), 2))
    moved = coordinator.aggregate([part, Update(sent(coordinator, 0.0, [9.0, 9.0]), 1)])
    np.testing.assert_allclose(moved[3], [5.0, 5.0])


@pytest.mark.parametrize(
    ("ours", "theirs", "differ"),
    [
        (["a/kernel", "b/kernel"], ["b/kernel", "a/kernel"], True),
        (["net/dense/kernel", "net/dense_1/kernel"], ["dense_7/kernel", "dense_8/kernel"], False),
        (["net/dense/kernel", "net/dense_1/kernel"], ["dense_8/kernel", "dense_7/kernel"], True),
        (["m/age/kernel", "m/pulse/kernel"], ["m_1/pulse/kernel", "m_1/age/kernel"], True),
        (["0", "1"], ["1", "0"], False),
        (["0", "1"], ["dense/kernel", "dense/bias"], False),
        (["a/kernel", "b/kernel"], ["c/kernel", "a/kernel"], True),
    ],
)
def test_names_are_heeded_but_for_what_a_process_counted(
    ours: list[str], theirs: list[str], differ: bool
) -> None:
    arrays = [np.zeros(2), np.zeros(2)]
    told = Layout.of(arrays, ours).difference(Layout.of(arrays, theirs))
    assert (told is not None) is differ
    assert not differ or "in another order" in str(told)


def test_over_the_wire_a_model_with_other_names_is_another_model() -> None:
    arrays = [np.zeros(2), np.zeros(2)]
    ours, theirs = (Layout.of(arrays, [f"{n}/kernel", f"{n}/bias"]) for n in ("dense", "lstm"))
    told = ours.difference(theirs, ("this site's", "the federation's"), roles=True)
    assert told is not None
    assert told.startswith("the federation's model is another one: it has lstm/bias")
    assert Layout.of(arrays).difference(theirs, roles=True) is None, "numbers say nothing"
    other_process = Layout.of(arrays, ["net_4/dense_7/kernel", "net_4/dense_7/bias"])
    assert ours.difference(other_process, roles=True) is None


def test_numbers_count_by_their_rank() -> None:
    assert canonical(["s_3/dense_5/kernel", "s_3/dense_9/kernel"]) == [
        "dense/kernel",
        "dense_1/kernel",
    ]


def sent(coordinator: FederatedCoordinator, moved: float, variance: list[float]) -> Weights:
    """An update that moves each trained value by ``moved``; its moving variance is this."""
    delta = Weights.empty(coordinator.weights.layout)
    for tensor, target, known in zip(delta.layout.tensors, delta, coordinator.weights, strict=True):
        target[...] = moved if tensor.role == TRAINABLE else known
        assert tensor.role in (TRAINABLE, STATISTIC)
    delta[3][:] = variance
    return delta


def _two_columns() -> tuple[Array, Array]:
    x, y = sites(1)[0]
    return x[:, :2], y
