"""``--exchange trainable`` at a client: what travels, what stays, and what is refused."""

import numpy as np
import pytest

from client_worker import FederatedClient, NumpyModel, Task, interpolate
from tests.tasks import Adapted, adapted, line
from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import LocalTraining
from warren_shared.tensors import frozen
from warren_shared.tensors.frozen import FROZEN_WEIGHTS
from warren_shared.tensors.layout import CONTROL, Layout, Weights

ALL = LocalTraining()
TRAINABLE = LocalTraining(exchange="trainable")


def site(**options: object) -> FederatedClient:
    return adapted(**options).client()  # type: ignore[arg-type]


def names(layout: Layout) -> list[str]:
    return [tensor.name for tensor in layout.tensors]


def with_rule(alpha: float) -> FederatedClient:
    plain = adapted()
    return Task(plain.model, plain.data, 0.02, update_rule=interpolate(alpha)).client()


def test_what_is_frozen_stays_and_the_statistics_of_what_trains_travel() -> None:
    client = site()
    assert names(client.layout_for(ALL)) == ["features", "w", "b", "seen"]
    assert names(client.layout_for(TRAINABLE)) == ["w", "b", "seen"]
    assert [t.role for t in client.layout_for(TRAINABLE).tensors] == [
        "trainable", "trainable", "statistic"
    ]  # fmt: skip
    assert client.layout_for(ALL).tensors[0].role == "statistic", "as it was before"


@pytest.mark.parametrize(
    "make",
    [
        site,
        lambda: site(ditto=0.5),
        lambda: site(own="b"),
        lambda: with_rule(0.3),
    ],
    ids=["plain", "ditto", "local", "interpolate"],
)
def test_training_is_the_same_whether_the_frozen_rest_travels_or_not(make: object) -> None:
    whole, part = make(), make()  # type: ignore[operator]
    models = whole.weights(), part.weights(TRAINABLE)
    for _ in range(3):
        updates = whole.train(models[0], ALL), part.train(models[1], TRAINABLE)
        kept = [
            names(client.layout_for(local)) for client, local in ((whole, ALL), (part, TRAINABLE))
        ]
        of_all = dict(zip(kept[0], updates[0].delta, strict=True))
        for name, delta in zip(kept[1], updates[1].delta, strict=True):
            np.testing.assert_allclose(delta, of_all[name], rtol=1e-12)  # interpolate rounds
        assert updates[0].metrics == pytest.approx(updates[1].metrics, rel=1e-12)
        moved = []
        for model, update in zip(models, updates, strict=True):
            layout = update.delta.layout  # type: ignore[attr-defined]
            moved.append(
                Weights.of(
                    [
                        d if t.role == "statistic" else w + d
                        for t, w, d in zip(layout.tensors, model, update.delta, strict=True)
                    ],
                    layout,
                )
            )
        models = moved[0], moved[1]
    for mine, other in zip(
        whole.trainable.get_weights(), part.trainable.get_weights(), strict=True
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-12)
    np.testing.assert_array_equal(part.trainable.get_weights()[0], Adapted().weights[0])


def test_an_update_rule_does_not_round_what_is_frozen() -> None:
    client = with_rule(1 / 3)
    for _ in range(3):
        client.train(client.weights(TRAINABLE), TRAINABLE)
    np.testing.assert_array_equal(client.trainable.get_weights()[0], Adapted().weights[0])


def test_control_variates_are_those_of_what_trains() -> None:
    local = LocalTraining(scaffold=True, exchange="trainable")
    client, other = site(), site()
    layout = client.layout_for(local)
    assert names(layout) == ["w", "b", "seen", f"{CONTROL}0", f"{CONTROL}1"]
    update = client.train(client.initial(local), local)
    of_all = other.train(other.initial(LocalTraining(scaffold=True)), LocalTraining(scaffold=True))
    for mine, theirs in zip(update.delta, of_all.delta[1:], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert client.control.value.buffer.tobytes() == other.control.value.buffer.tobytes()
    assert client.control.value[0].any()
    client.withdraw(update.delta)
    assert not client.control.value[0].any()
    client.count(update.delta)
    assert client.control.value.buffer.tobytes() == other.control.value.buffer.tobytes()


def test_training_that_changes_what_is_frozen_is_refused() -> None:
    client = site(spoils=True)
    client.train(client.weights(), ALL)
    client = site(spoils=True)
    with pytest.raises(
        ConfigError, match=r"training changed tensor 0: features float64\[4, 6\], w"
    ):
        client.train(client.weights(TRAINABLE), TRAINABLE)


def test_another_base_is_refused_and_the_same_one_is_not() -> None:
    federation = site().fixed_state_for(TRAINABLE)
    assert site().fixed_state == {} == site().fixed_state_for(ALL)
    site(shard=2).check_fixed_state(federation)
    site(base=1).check_fixed_state({})
    with pytest.raises(ConfigError, match="load the same pre-trained file at every site"):
        site(base=1).check_fixed_state(federation)


def test_nothing_frozen_is_the_same_as_all_and_has_a_digest_of_its_own() -> None:
    client = line().client()
    assert client.layout_for(TRAINABLE) == client.layout_for(ALL)
    assert client.fixed_state_for(TRAINABLE) == {FROZEN_WEIGHTS: frozen.digest({})}
    with pytest.raises(ConfigError, match="frozen weights are not"):
        site().check_fixed_state(client.fixed_state_for(TRAINABLE))
    delta = client.train(client.weights(TRAINABLE), TRAINABLE).delta
    other = line().client()
    np.testing.assert_array_equal(delta[0], other.train(other.weights(), ALL).delta[0])


def test_a_model_of_which_nothing_trains_is_refused() -> None:
    model = Adapted()
    model.weight_roles = lambda: ["frozen"] * 4  # type: ignore[method-assign]
    client = Task(model, line().data, 0.1).client()
    client.layout_for(ALL)
    with pytest.raises(ConfigError, match="none of the model's tensors trains"):
        client.layout_for(TRAINABLE)


def test_what_a_run_with_all_has_brought_is_not_taken_for_the_tasks_base() -> None:
    client, other = site(), site(base=1)
    assert client.has_own_base
    federation = client.fixed_state_for(TRAINABLE)
    client.train(other.weights(), ALL)
    assert not client.has_own_base
    with pytest.raises(ConfigError, match="frozen weights are not the federation's"):
        client.check_fixed_state(federation)


def test_half_precision_stays_half_and_integers_stay_as_before() -> None:
    class Half(NumpyModel):
        def __init__(self) -> None:
            arrays = [np.ones(3, np.float16), np.arange(3), np.zeros(2, np.float16)]
            super().__init__(arrays, lambda w, _x, _y: (0.0, [np.ones_like(one) for one in w]))

        def weight_roles(self) -> list[str]:
            return ["frozen", "frozen", "trainable"]

        def fit(self, data: object, learning_rate: float, guide: object = None) -> dict[str, float]:
            self.weights[2] = self.weights[2] + np.float16(0.5)
            return {}

    client = Task(Half(), line().data, 0.1).client()
    (tensor,) = client.layout_for(TRAINABLE).tensors
    assert (tensor.shape, tensor.dtype) == ((2,), "float32")
    (delta,) = client.train(client.weights(TRAINABLE), TRAINABLE).delta
    np.testing.assert_array_equal(delta, [0.5, 0.5])
    assert client.trainable.get_weights()[0].dtype == np.float16


def test_the_digest_is_of_bytes_shapes_names_and_order() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.ones(3)
    known = frozen.digest(frozen.digests(["x", "y"], [a, b], [0, 1]))
    assert known == "74a5a28c98e9717d8c1e210f68f33f1d"
    for named, arrays, places in (
        (["x", "z"], [a, b], [0, 1]),
        (["x", "y"], [a.reshape(3, 2), b], [0, 1]),
        (["x", "y"], [a, b.astype(np.float32)], [0, 1]),
        (["x", "y"], [a, b + 1e-16 * 3], [0, 1]),
        (["x", "y"], [a, b], [0]),
    ):
        assert frozen.digest(frozen.digests(named, arrays, places)) != known
    assert frozen.digest(frozen.digests(["dense_7", "y"], [a, b], [0])) == frozen.digest(
        frozen.digests(["dense", "y"], [a, b], [0])
    ), "how many layers a process has made before does not count"
