"""What users bring by import path: listeners that harm nobody, algorithms that fail in one line."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from coordinator_worker.aggregation.aggregators import AGGREGATORS, Aggregator, aggregator
from coordinator_worker.aggregation.optimizers import server_optimizer
from warren_shared.config.listeners import from_words, guarded
from warren_shared.errors import ConfigError, TaskFailed

HERE = __name__
heard: list[object] = []


class Collecting:
    def on_event(self, event: object) -> None:
        heard.append(event)


class Failing:
    def __init__(self) -> None:
        self.closed = False

    def on_event(self, event: object) -> None:
        heard.append(event)
        raise RuntimeError("the user's own")

    def close(self) -> None:
        self.closed = True
        raise RuntimeError("at the end, too")


def function(event: object) -> None:
    heard.append(event)


def broken() -> Failing:
    raise ZeroDivisionError("no listener today")


collecting = Collecting()
number = 7


@dataclass
class Pair:
    a: int = 1


def of_examples(power: float = 1.0) -> Aggregator:
    if power < 0:
        raise ValueError("power is negative")
    return Aggregator(lambda k: k.num_examples**power, lambda k: k.num_examples**power)


def failing_aggregator() -> Aggregator:
    return Aggregator(lambda k: 1 / 0, lambda k: 1.0)


made = Aggregator(lambda k: 1.0, lambda k: 1.0)


@pytest.mark.parametrize("name", ["Collecting", "collecting", "function"])
def test_a_listener_is_an_object_or_its_class_or_a_function_of_one_event(name: str) -> None:
    heard.clear()
    (listener,) = from_words([f"{HERE}:{name}"])
    listener.on_event("event")
    listener.close()
    assert heard == ["event"]


def test_what_a_listener_raises_is_logged_once_and_goes_no_further(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard.clear()
    listener = guarded(Failing(), "mine")
    with caplog.at_level(logging.INFO):
        for event in "abc":
            listener.on_event(event)
        assert len(caplog.records) == 1
        listener.close()
    assert heard == ["a", "b", "c"]
    assert [record.getMessage() for record in caplog.records] == [
        "the listener mine failed at str (RuntimeError: the user's own); the round goes on, and"
        " this is said once",
        "the listener mine failed 4 times",
    ]
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere", "write it as package.module:attribute"),
        (f"{HERE}:functoin", "did you mean function"),
        (f"{HERE}:number", "it is no listener"),
        (f"{HERE}:Pair", "made Pair, which has no method on_event"),
        (f"{HERE}:broken", "ZeroDivisionError: no listener today"),
    ],
)
def test_what_is_no_listener_is_refused_at_the_start(path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_words([path])


def test_an_aggregator_of_ones_own_takes_parameters() -> None:
    found = aggregator(f"{HERE}:of_examples,power=2")
    assert found.weigh(type("K", (), {"num_examples": 3})()) == 9  # type: ignore[arg-type]
    assert aggregator(f"{HERE}:made").weigh(None) == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (f"{HERE}:of_examples,powr=2", "of_examples takes power; did you mean power"),
        (f"{HERE}:of_examples,power=-1", "power is negative"),
        (f"{HERE}:made,power=1", "made already"),
        (f"{HERE}:Pair", "made Pair, not Aggregator"),
        (f"{HERE}:number", "no Aggregator and no function that makes one"),
        (f"{HERE}:broken", "making it fails: ZeroDivisionError"),
        ("medain", "did you mean median"),
        ("trimed-mean:fraction=0.1", "did you mean trimmed-mean"),
        ("mean:of_examples", "mean takes no parameters"),
        ("no_such_module:x", "there is no module no_such_module"),
    ],
)
def test_an_algorithm_that_is_none_is_refused_in_one_line(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        aggregator(spec)
    assert "\n" not in str(caught.value)


def test_a_known_name_is_never_taken_for_a_module() -> None:
    for name in AGGREGATORS:
        if name not in {"krum", "multi-krum"}:
            assert isinstance(aggregator(name), Aggregator)


def test_an_algorithm_that_fails_fails_as_users_code_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(TaskFailed, match=r"failing_aggregator: weigh fails: ZeroDivisionError"):
        aggregator(f"{HERE}:failing_aggregator").weigh(None)  # type: ignore[arg-type]
    assert caplog.records[0].exc_info is not None


def test_a_server_optimizer_of_ones_own_steps() -> None:
    optimizer = server_optimizer("warren_examples.hooks.parts:signed,learning_rate=0.5")
    delta, old = np.array([3.0, -2.0]), np.array([1.0, 1.0])
    empty: Any = []
    optimizer.step(delta, old, empty, np.empty(2))
    assert delta.tolist() == [1.5, 0.5]
