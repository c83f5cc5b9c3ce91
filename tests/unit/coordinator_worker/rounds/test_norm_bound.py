"""The norm bound refuses what is absurd, never what training does, and decides alike again."""

import numpy as np
import pytest

from coordinator_worker.rounds.norm_bound import FACTOR, UpdateNormLimit
from coordinator_worker.state.round_record import RoundRecord
from coordinator_worker.state.training_state import State
from warren_shared.errors import ConfigError, Rejected
from warren_shared.tensors.layout import Weights


def state(*norms: float, weights: float = 0.0, version: int = 3) -> State:
    history = tuple(RoundRecord(number, norm=norm) for number, norm in enumerate(norms))
    model = Weights.of([np.full(100, weights, np.float32)])
    return State("f", "ab" * 4, version, model, applied={}, history=history)


def refuses(norm: float, at: State, setting: str = "auto") -> bool:
    try:
        UpdateNormLimit(setting).check(norm, at)
    except Rejected as rejected:
        return rejected.reason == "norm"
    return False


def test_of_a_first_round_only_the_absurd_is_refused() -> None:
    assert not refuses(1e6, state()), "prices in dollars, from a model of zeros"
    assert not refuses(5 * 1.7e18, state()), "times in nanoseconds, k-means' first centres"
    assert refuses(1e30, state())


def test_later_the_last_rounds_are_the_measure() -> None:
    assert not refuses(FACTOR * 2.0, state(1.0, 2.0, 1.5))
    assert refuses(FACTOR * 2.0 * 1.01, state(1.0, 2.0, 1.5))


def test_a_newcomer_to_a_federation_that_has_converged_is_measured_by_the_model() -> None:
    converged = state(1e-12, weights=1.0)
    assert not refuses(10.0, converged), "as large as the model"
    assert refuses(FACTOR * 10.0 * 1.01, converged)


def test_rounds_long_ago_are_forgotten() -> None:
    assert refuses(1e5, state(1e4, *[1.0] * 10))
    assert not refuses(1e5, state(*[1.0] * 5, 1e4, *[1.0] * 5))


def test_an_update_of_nothing_is_fine() -> None:
    assert not refuses(0.0, state())
    assert not refuses(0.0, state(0.0, 0.0))


def test_the_models_norm_is_taken_anew_for_each_version() -> None:
    bound = UpdateNormLimit("auto")
    bound.check(10.0, state(1e-12, weights=1.0, version=3))
    with pytest.raises(Rejected):
        bound.check(10.0, state(1e-12, weights=1e-6, version=4))


def test_a_number_or_off() -> None:
    assert refuses(2.1, state(), "2")
    assert not refuses(1.9, state(), "2")
    assert not refuses(1e30, state(), "off")
    for wrong in ("0", "-1", "nan", "much"):
        with pytest.raises(ConfigError, match="--max-update-norm"):
            UpdateNormLimit(wrong)
