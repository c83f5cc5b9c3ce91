"""What docs/changing-a-run.md says: which settings a run takes over, and which it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator_worker.aggregation.algorithm import Algorithm
from coordinator_worker.rounds.stopping import Monitor, StoppingCriteria
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.training_state import Best, State
from coordinator_worker.storage import checkpoint
from coordinator_worker.versions.rollback import rolled_back
from tests.support.processes import ROOT
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Weights

PAGE = (ROOT / "docs" / "changing-a-run.md").read_text()
MORE = StoppingCriteria(monitor=Monitor("eval_auc", more=True))
LESS = StoppingCriteria(monitor=Monitor("eval_loss", more=False))


class Sink:
    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def get_weights(self) -> Weights:
        return self.weights

    def set_weights(self, weights: Weights) -> None: ...


def algorithm(**given: Any) -> Algorithm:
    return Algorithm.from_settings(
        CoordinatorSettings(broker_url="amqp://coordinator:x@localhost/f", **given)
    )


def begun(**given: Any) -> State:
    """A run at version 3 that these settings made."""
    weights = Weights.of([np.ones(3)])
    state = State("f", "ab" * 4, 0, weights, {})
    slots = algorithm(**given).coordinator(Sink(weights), state).slots
    return replace(state, version=3, slots=slots)


def goes_on(state: State, **given: Any) -> None:
    algorithm(**given).coordinator(Sink(state.weights), state)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"server_optimizer": "sgd:learning_rate=0.5"}),
        ({"server_optimizer": "adam"}, {"server_optimizer": "adam:learning_rate=0.01"}),
        ({"server_optimizer": "adam"}, {"server_optimizer": "yogi"}),
        ({"server_optimizer": "adagrad"}, {"server_optimizer": "adam"}),
        ({}, {"aggregator": "median"}),
        ({"aggregator": "krum:f=1"}, {"aggregator": "uniform"}),
        ({}, {"downlink": "int8"}),
        ({}, {"proximal": 0.1, "learning_rate_schedule": "cosine:rounds=10"}),
    ],
)
def test_a_run_takes_over(before: dict[str, Any], after: dict[str, Any]) -> None:
    goes_on(begun(**before), **after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"server_optimizer": "adam"}),
        ({"server_optimizer": "momentum"}, {}),
        ({}, {"average": 0.9}),
        ({}, {"aggregator": "centered-clipping"}),
        ({}, {"scaffold": True}),
        ({}, {"exchange": "trainable"}),
    ],
)
def test_a_run_refuses(before: dict[str, Any], after: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the checkpoint's run was begun with"):
        goes_on(begun(**before), **after)


def test_after_a_rollback_to_the_newest_version_the_optimizer_may_be_another() -> None:
    state = begun(server_optimizer="momentum")
    goes_on(rolled_back(state, state.weights, 3, "version 3"), server_optimizer="adam")


def test_the_best_by_one_metric_is_not_the_best_by_another(tmp_path: Path) -> None:
    state = LESS.begin(replace(begun(), best=Best(2, 0.4)))
    checkpoint.save(tmp_path, state)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert LESS.begin(found).best == Best(2, 0.4)
    assert StoppingCriteria().begin(found).best == Best(2, 0.4)
    other = MORE.begin(found)
    assert (other.best, other.monitored) == (None, "eval_auc:max")
    assert "best_forgotten" in PAGE


def test_the_best_of_a_checkpoint_that_does_not_say_by_which_metric_is_kept() -> None:
    state = replace(begun(), best=Best(2, 0.4))
    assert MORE.begin(state).best == Best(2, 0.4)


def test_fewer_rounds_than_there_are_end_the_run() -> None:
    assert StoppingCriteria(rounds=2).reached(begun())
    assert not StoppingCriteria(rounds=4).reached(begun())
