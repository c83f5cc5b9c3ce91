"""The algorithm that the command line names: what fits together, and what is refused."""

from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
import pytest

from coordinator_worker.aggregation.algorithm import Algorithm
from coordinator_worker.aggregation.schedules import schedule
from coordinator_worker.rounds.policy import Policy
from coordinator_worker.rounds.stopping import Monitor, StoppingCriteria, Target
from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.round_record import EvaluationSummary, Judgement, RoundRecord
from coordinator_worker.state.training_state import Best, State
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Weights

URL = "amqp://coordinator:x@localhost/f"


def settings(**given: Any) -> CoordinatorSettings:
    return CoordinatorSettings(broker_url=URL, **given)


def learning(**given: Any) -> Algorithm:
    found = settings(**given)
    made = Algorithm.from_settings(found)
    Policy.from_settings(found, made.aggregator)
    return made


class Sink:
    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def get_weights(self) -> Weights:
        return self.weights

    def set_weights(self, weights: Weights) -> None:
        pass


def state(weights: Weights, version: int = 0, **change: Any) -> State:
    return State("f", "ab" * 4, version, weights, applied={}, **change)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"aggregator": "krum:f=2", "quorum": 6}, "--quorum 6: --aggregator krum:f=2 needs"),
        (
            {"aggregator": "krum:f=1", "quorum": 5, "deadline_s": 9, "min_quorum": 4},
            "--min-quorum 4: --aggregator krum:f=1 needs",
        ),
        ({"local_epochs": 1, "local_steps": 1}, "give one of them"),
        ({"learning_rate_schedule": "step:every=0,factor=0.5"}, "every is 0"),
        ({"learning_rate_schedule": "linear"}, "constant, cosine, exponential, step"),
    ],
)
def test_what_contradicts_itself_is_refused_at_the_start(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        learning(**given)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quorum": 4, "clients": 3}, "needs 4 clients and the federation has 3"),
        ({"patience": 3}, "needs --monitor"),
    ],
)
def test_a_round_or_a_run_that_could_never_end_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        settings(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs --tensorboard, --mlflow or --wandb"),
        (
            {"wandb": "wards", "privacy": "gaussian:epsilon=2,delta=1e-5,clip=1"},
            "no client's own figures are told: leave it out",
        ),
    ],
)
def test_curves_of_clients_that_nobody_would_see_are_refused(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        settings(client_curves=True, **given)


def test_after_a_deadline_a_federation_may_be_smaller_than_the_quorum() -> None:
    settings(quorum=4, clients=3, deadline_s=1, min_quorum=2)


def test_with_scaffold_control_variates_of_zero_lie_behind_the_weights() -> None:
    weights = Weights.of([np.ones((2, 3), np.float32), np.ones(5)])
    plain, scaffold = learning(), learning(scaffold=True)
    assert plain.initial(weights) is weights
    longer = scaffold.initial(weights)
    assert [t.name for t in longer.layout.tensors] == ["0", "1", "control/0", "control/1"]
    for number in range(2):
        np.testing.assert_array_equal(longer[number], weights[number])
        np.testing.assert_array_equal(longer[number + 2], 0 * weights[number])
    assert scaffold.initial(longer) is longer
    assert longer.layout.controls_start == weights.layout.size_bytes


def test_a_run_goes_on_with_the_algorithm_that_it_began_with() -> None:
    weights = Weights.of([np.ones(3)])
    adam, plain = learning(server_optimizer="adam"), learning()
    slots = adam.coordinator(Sink(weights), state(weights)).slots
    slots["mean"].buffer[:] = 7
    again = adam.coordinator(Sink(weights), state(weights, 3, slots=slots))
    assert again.slots["mean"] is slots["mean"]
    for other, begun in [(plain, slots), (adam, {})]:
        with pytest.raises(ConfigError, match="begun with another"):
            other.coordinator(Sink(weights), state(weights, 3, slots=begun))
    with pytest.raises(ConfigError, match="without --scaffold"):
        learning(scaffold=True).coordinator(Sink(weights), state(weights))


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("constant:warmup=4", [0.25, 0.5, 0.75, 1, 1]),
        ("step:every=2,factor=0.1", [1, 1, 0.1, 0.1, 0.01]),
        ("exponential:decay=0.5", [1, 0.5, 0.25, 0.125, 0.0625]),
        ("cosine:rounds=4,floor=0.2", [1, 0.8828427, 0.6, 0.3171573, 0.2]),
    ],
)
def test_schedules(spec: str, wanted: list[float]) -> None:
    assert [schedule(spec)(version) for version in range(5)] == pytest.approx(wanted)


def test_a_learning_rate_never_becomes_zero() -> None:
    assert schedule("exponential:decay=0.5")(10_000) > 0


def record(version: int, value: float) -> RoundRecord:
    evaluation = EvaluationSummary(version)
    return RoundRecord(version + 1, metrics={"eval_auc": value}, evaluation=evaluation)


def test_the_best_version_is_the_one_that_was_evaluated_not_the_one_being_made() -> None:
    goal = StoppingCriteria(monitor=Monitor("eval_auc", more=True))
    assert goal.better(None, record(4, 0.7), 4) == Best(4, 0.7)
    assert goal.better(Best(2, 0.8), record(4, 0.7), 4) is None
    assert goal.better(None, record(3, 0.9), 4) is None  # its weights are gone
    assert goal.better(None, RoundRecord(5), 4) is None
    assert StoppingCriteria().better(None, record(4, 0.7), 4) is None
    less = StoppingCriteria(monitor=Monitor.parse("eval_auc:min"))
    assert less.better(Best(2, 0.8), record(4, 0.7), 4) == Best(4, 0.7)


def test_a_run_stops_when_nothing_has_got_better_for_long() -> None:
    goal = StoppingCriteria(monitor=Monitor("eval_auc", more=True), patience=3)
    weights = Weights.of([np.ones(1)])
    assert not goal.reached(state(weights, 9))
    assert not goal.reached(state(weights, 9, best=Best(6, 0.5)))
    assert goal.reached(state(weights, 10, best=Best(6, 0.5)))


@pytest.mark.parametrize("text", ["eval_auc", "eval_auc:most", ":max"])
def test_a_monitor_without_a_direction_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME:max or NAME:min"):
        Monitor.parse(text)


def said(low: float, high: float, value: float, clients: int = 3) -> RoundRecord:
    judged = {"eval_auc": Judgement(clients, value, low, high)}
    return replace(record(9, value), judged=judged)


def target_is_met(record: RoundRecord, needed: int = 3) -> bool:
    goal = StoppingCriteria(target=Target("eval_auc", True, 0.9), needed=needed)
    return goal.reached(replace(state(Weights.of([np.ones(1)]), 10), history=(record,)))


def test_a_target_is_met_by_a_quorum_and_also_without_any_one_of_them() -> None:
    assert target_is_met(said(0.9, 0.95, 0.92))
    assert not target_is_met(said(0.7, 0.95, 0.92)), "one client's word"
    assert not target_is_met(said(0.9, 0.95, 0.92, clients=2)), "no quorum"
    assert not target_is_met(said(nan, nan, 0.92))
    assert target_is_met(record(9, 0.92)), "of an earlier version"
    assert not target_is_met(replace(record(9, 0.92), judged={}))


def test_it_is_said_why_a_target_that_looks_met_is_not() -> None:
    goal = StoppingCriteria(target=Target("eval_auc", True, 0.9), needed=3)
    assert goal.doubts(said(0.9, 0.95, 0.92)) == []
    assert "only with the word of one" in goal.doubts(said(0.7, 0.95, 0.92))[0]
    assert "fewer than 3 of a round's clients" in goal.doubts(said(1, 1, 1, clients=2))[0]


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"quorum": 3}, 3),
        ({"quorum": 3, "deadline_s": 5.0}, 2),
        ({"quorum": 9, "deadline_s": 5.0, "min_quorum": 4}, 4),
        ({"quorum": 1, "deadline_s": 5.0}, 1),
        ({"quorum": 3, "max_evaluation_share": 1.0}, 1),
    ],
)
def test_so_many_clients_have_to_report_what_ends_a_run(given: dict[str, Any], needed: int) -> None:
    assert StoppingCriteria.from_settings(settings(**given)).needed == needed


def test_versions_of_which_too_few_say_anything_are_neither_best_nor_waited_for() -> None:
    goal = StoppingCriteria(monitor=Monitor("eval_auc", more=True), patience=3, needed=4)
    assert goal.better(None, said(0.9, 0.9, 0.9, clients=3), 9) == Best(9, 0.9)
    assert goal.better(None, said(0.9, 0.9, 0.9, clients=2), 9) is None
    few = tuple(replace(said(0.9, 0.9, 0.9, clients=2), version=v) for v in range(1, 11))
    many = tuple(replace(said(0.9, 0.9, 0.9, clients=3), version=v) for v in range(1, 11))
    now = state(Weights.of([np.ones(1)]), 10, best=Best(5, 0.95))
    assert goal.reached(replace(now, history=many))
    assert not goal.reached(replace(now, history=few))


def test_one_clients_word_makes_no_version_the_best_and_hides_none() -> None:
    goal = StoppingCriteria(monitor=Monitor("eval_auc", more=True))
    lie, better, same = said(0, 1, 0.6), said(0, 1, 0.7), said(0, 1, 0.601)
    lie = replace(lie, metrics={"eval_auc": 0.9})
    assert goal.better(Best(5, 0.61), lie, 9, 0.61) is None
    better = replace(better, metrics={"eval_auc": 0.5})
    assert goal.better(Best(5, 0.9), better, 9, 0.6) == Best(9, 0.5)
    assert goal.better(Best(5, 0.6), same, 9, 0.602) == Best(9, 0.601), "all together, of equals"


def test_one_client_that_cannot_compute_a_metric_hides_no_version() -> None:
    goal = StoppingCriteria(monitor=Monitor("eval_auc", more=True))
    broken = replace(said(nan, nan, 0.7), metrics={"eval_auc": nan})
    assert goal.better(Best(5, 0.6), broken, 9, 0.6) == Best(9, 0.7)
    assert goal.better(Best(5, 0.6), replace(broken, judged=None), 9, 0.6) is None


def test_what_was_typical_of_the_best_version_is_in_the_history() -> None:
    goal = StoppingCriteria(monitor=Monitor("eval_auc", more=True))
    history = tuple(replace(said(0, 1, v / 10), version=v) for v in range(1, 10))
    now = replace(state(Weights.of([np.ones(1)]), 9, best=Best(5, 0.95)), history=history)
    assert goal.typical(now) == 0.6
    assert goal.typical(replace(now, history=history[:3])) is None
