"""Figures as integers: their sums say what the clients together say."""

from math import inf, isnan, nan

import numpy as np
import pytest

from warren_shared.tensors.evaluation import Evaluation, of_classes, of_scores, pool
from warren_shared.tensors.masked_figures import Figures, Told, decode, encode, figures_of

LIMB = 21


def together(told: list[Told], ring: int = 32, limb: int = LIMB) -> Told:
    parts = [encode(one, limb, ring) for one in told]
    return decode(sum(parts), figures_of(told[0]), limb)


CLIENTS = [
    Told(100, {"loss": 0.5}, of_classes([0, 1, 2, 2], [0, 1, 1, 2], 3, mae=1.5)),
    Told(300, {"loss": 0.25}, of_classes([0, 0], [0, 2], 3, mae=-2.0)),
]


@pytest.mark.parametrize(("ring", "limb"), [(32, 26), (32, 20), (16, 8)])
def test_sums_say_what_a_pool_of_all_says(ring: int, limb: int) -> None:
    found = together(CLIENTS, ring, limb)
    assert found.examples == 400
    assert found.metrics["loss"] == pytest.approx((100 * 0.5 + 300 * 0.25) / 400)
    pooled = pool([one.evaluation for one in CLIENTS if one.evaluation is not None])
    assert found.evaluation is not None
    assert found.evaluation.confusion == pooled.confusion
    assert found.evaluation.num_examples == pooled.num_examples
    for name, value in pooled.metrics().items():
        assert found.evaluation.metrics()[name] == pytest.approx(value, abs=1e-8)


def test_an_auc_of_histograms_is_near_that_of_all_scores() -> None:
    rng = np.random.default_rng(0)
    evaluations = []
    for _ in range(3):
        labels = rng.integers(0, 2, 500)
        scores = np.clip(labels * 0.2 + rng.random(500) * 0.8, 0, 1)
        evaluations.append(of_scores(labels, scores, loss=0.3))
    found = together([Told(500, {}, one) for one in evaluations])
    assert found.evaluation is not None
    near = found.evaluation.metrics()["auc"]
    assert near == pytest.approx(pool(evaluations).metrics()["auc"], abs=0.003)


@pytest.mark.parametrize("value", [nan, inf, -inf, 1e13])
def test_one_that_is_not_finite_makes_the_pool_nan(value: float) -> None:
    told = [Told(10, {"loss": 1.0}, None), Told(10, {"loss": value}, None)]
    assert isnan(together(told).metrics["loss"])


def test_scores_that_are_no_probabilities_are_left_out() -> None:
    found = of_scores([0, 1], [-3.0, 2.0], threshold=0.0)
    assert not figures_of(Told(2, {}, found)).scores
    assert figures_of(Told(2, {}, found)).classes == 2


def test_large_and_small_values_survive() -> None:
    for value in (1e-6, -123456.789, 1e11):
        told = [Told(7, {"x": value}, None)] * 2
        assert together(told).metrics["x"] == pytest.approx(value, rel=1e-3, abs=1e-9)


def test_no_evaluation_is_none() -> None:
    found = together([Told(5, {}, None)] * 3)
    assert (found.examples, found.evaluation) == (15, None)


def test_what_no_clients_say_is_refused() -> None:
    told = Told(5, {"x": 1.0}, Evaluation(5, confusion=((3, 0), (0, 2))))
    total = encode(told, LIMB, 32)
    figures = figures_of(told)
    for place in range(1, total.size):
        spoilt = total.copy()
        spoilt[place] += np.uint32(1 << 31)
        try:
            decode(spoilt, figures, LIMB)
        except ValueError:
            continue
    spoilt = total.copy()
    spoilt[-2] += np.uint32(1 << 20)
    with pytest.raises(ValueError, match="more counts"):
        decode(spoilt, figures, LIMB)


def test_the_length_is_known_from_the_names() -> None:
    for figures in (Figures(), Figures(("a",), ("b", "c"), 3, True)):
        assert figures.elements(LIMB) == sum(-(-bits // LIMB) for bits in figures.bits)


def test_more_examples_than_can_be_told_are_refused() -> None:
    with pytest.raises(ValueError, match="bits"):
        encode(Told(1 << 33, {}, None), LIMB, 32)
