"""The exact accountant, against figures of others and against itself.

``tests/golden/accountant.json`` holds what dp-accounting 0.6.0 finds for 200 random mechanisms.
``python tests/golden/accountant.py > tests/golden/accountant.json`` makes it, in an environment
that the head of that file describes.
"""

import json
from math import inf, sqrt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_shared.privacy.accountant import delta_of, epsilon_of, mu_of


@pytest.mark.parametrize(
    ("noise", "rounds", "epsilon"),
    # dp-accounting 0.6.0's privacy loss distributions, delta 1e-5.
    [(1.0, 1, 4.37718), (4.0, 4, 1.99309)],
)
def test_known_figures(noise: float, rounds: int, epsilon: float) -> None:
    assert epsilon_of(sqrt(rounds) / noise, 1e-5) == pytest.approx(epsilon, abs=5e-6)


def test_random_mechanisms_are_as_private_as_their_privacy_loss_distributions_say() -> None:
    golden = Path(__file__).parents[3] / "golden" / "accountant.json"
    mechanisms = json.loads(golden.read_text())
    assert len(mechanisms) == 200
    for noise, times, delta, epsilon in mechanisms:
        found = epsilon_of(sqrt(times) / noise, delta)
        assert found == pytest.approx(epsilon, abs=1e-4), (noise, times, delta)


@given(st.floats(0.01, 60), st.floats(1e-12, 0.2))
def test_there_and_back(epsilon: float, delta: float) -> None:
    mu = mu_of(epsilon, delta)
    assert delta_of(epsilon, mu) == pytest.approx(delta, rel=1e-6)
    assert epsilon_of(mu, delta) == pytest.approx(epsilon, rel=1e-6, abs=1e-9)


@given(st.floats(0.0, 30), st.floats(0.01, 8), st.floats(0.001, 1))
def test_less_noise_is_less_private(epsilon: float, mu: float, more: float) -> None:
    assert delta_of(epsilon, mu + more) >= delta_of(epsilon, mu)
    assert delta_of(epsilon + more, mu) <= delta_of(epsilon, mu)


def test_the_definition_holds_for_the_events_that_tell_most() -> None:
    """P(x > t) <= e^eps P'(x > t) + delta, for every threshold, and with equality for one."""
    from statistics import NormalDist

    epsilon, mu = 1.5, 0.7
    delta, normal = delta_of(epsilon, mu), NormalDist()
    found = []
    for step in range(-400, 800):
        threshold = step / 100
        here, there = 1 - normal.cdf(threshold - mu), 1 - normal.cdf(threshold)
        found.append(here - 2.718281828459045**epsilon * there)
    assert max(found) <= delta + 1e-12
    assert max(found) == pytest.approx(delta, rel=1e-3)


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-5), (-1, 1e-5), (1, 0), (1, 1), (501, 0.1)])
def test_what_is_no_promise(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="epsilon in"):
        mu_of(epsilon, delta)


def test_the_ends() -> None:
    assert delta_of(1.0, 0.0) == 0.0
    assert epsilon_of(1e-9, 1e-5) == 0.0
    assert epsilon_of(1e3, 1e-5) == inf
    assert epsilon_of(inf, 1e-5) == inf
