"""Pooled evaluations are those of all the data together."""

import sys
from collections.abc import Callable
from math import isnan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from warren_shared.errors import ConfigError
from warren_shared.protocol.messages import EvaluationEntry
from warren_shared.tensors.evaluation import (
    MAX_SCORES,
    SCORE_BINS,
    Evaluation,
    for_wire,
    most_likely,
    of_classes,
    of_histograms,
    of_scores,
    pool,
)


def sites(seed: int, sizes: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels and scores of sites that differ in both."""
    draw = np.random.default_rng(seed)
    found = []
    for number, size in enumerate(sizes):
        labels = (draw.random(size) < 0.2 + 0.6 * number / len(sizes)).astype(int)
        scores = draw.beta(1 + labels + number, 2)
        found.append((labels, scores))
    return found


@given(st.integers(0, 99), st.lists(st.integers(5, 60), min_size=1, max_size=5))
def test_pooled_figures_are_scikit_learns_on_all_the_data(seed: int, sizes: list[int]) -> None:
    parts = sites(seed, sizes)
    labels, scores = (np.concatenate(list(each)) for each in zip(*parts, strict=True))
    found = pool(of_scores(*part) for part in parts).metrics()
    guess = scores > 0.5
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, guess))
    if 0 < labels.sum() < len(labels):
        assert found["auc"] == pytest.approx(roc_auc_score(labels, scores))
    if guess.any() and labels.any():
        assert found["precision"] == pytest.approx(precision_score(labels, guess))
        assert found["recall"] == pytest.approx(recall_score(labels, guess))
        if found["precision"]:
            assert found["f1"] == pytest.approx(f1_score(labels, guess))


def test_a_mean_of_aucs_would_be_another_figure() -> None:
    parts = sites(1, [200, 200])
    pooled = pool(of_scores(*part) for part in parts).metrics()["auc"]
    mean = np.mean([of_scores(*part).metrics()["auc"] for part in parts])
    assert abs(pooled - mean) > 0.01


def test_classes_pool_to_accuracy_and_macro_f1() -> None:
    draw = np.random.default_rng(0)
    true, guess = draw.integers(0, 5, 300), draw.integers(0, 5, 300)
    parts = [of_classes(true[a:b], guess[a:b], 5, loss=a + 1.0) for a, b in [(0, 100), (100, 300)]]
    found = pool(parts).metrics()
    assert found["accuracy"] == pytest.approx(accuracy_score(true, guess))
    assert found["macro_f1"] == pytest.approx(f1_score(true, guess, average="macro"))
    assert found["loss"] == pytest.approx((100 * 1.0 + 200 * 101.0) / 300)


def test_a_site_of_the_healthy_alone_counts_in_the_pool() -> None:
    healthy, ill = of_scores(np.zeros(4), np.full(4, 0.2)), of_scores(np.ones(2), [0.9, 0.1])
    assert "auc" not in healthy.metrics()
    assert pool([healthy, ill]).metrics()["auc"] == pytest.approx(0.5)


def test_counts_of_another_shape_are_left_out() -> None:
    two, three = of_classes([0, 1], [0, 1], 2), of_classes([0, 1, 2], [0, 0, 0], 3)
    assert pool([two, three]).metrics()["accuracy"] == 1.0


def test_means_alone_are_enough() -> None:
    assert pool([Evaluation(1, {"loss": 1.0}), Evaluation(3, {"loss": 2.0})]).metrics() == {
        "loss": 1.75
    }


def test_more_classes_than_an_evaluation_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match="classes"):
        of_classes([0], [0], 1000)


@pytest.mark.parametrize(
    "tables",
    [
        {"confusion": [[1, 2], [3]]},
        {"confusion": [[1, 2]]},
        {"confusion": [[1, -2], [3, 4]]},
        {"scores": [[1] * SCORE_BINS]},
        {"scores": [[1] * SCORE_BINS, [1]]},
        {"scores": [[1.5] * SCORE_BINS] * 2},
        {"score_table": {"scores": [0.1, 0.2], "negatives": [1], "positives": [1, 1]}},
        {"score_table": {"scores": [0.2, 0.1], "negatives": [1, 1], "positives": [1, 1]}},
        {"score_table": {"scores": [0.1], "negatives": [6], "positives": [5]}},
        {"score_table": {"scores": [float("nan")], "negatives": [1], "positives": [1]}},
        {"score_table": {"scores": [-1], "negatives": [-1], "positives": [1]}},
    ],
)
def test_counts_that_could_not_be_added_up_are_refused_where_trust_stops(
    tables: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError):
        EvaluationEntry(num_examples=10, **tables)


Draw = np.random.Generator
Labels = np.ndarray
SHARES = (0.5, 0.03)
N = 20_000


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(z, -700, 700)))


SPREADS: dict[str, Callable[[Draw, Labels], np.ndarray]] = {
    "balanced": lambda r, t: sigmoid(r.normal(size=N) + 1.5 * t),
    "rare event": lambda r, t: sigmoid(r.normal(size=N) + 2 * t - 7.5),
    "rarer event": lambda r, t: sigmoid(r.normal(size=N) + 2 * t - 30),
    "overconfident": lambda r, t: sigmoid(3 * r.normal(size=N) + 4 * t + 12),
    "overconfident both ways": lambda r, t: sigmoid(40 * r.normal(size=N) + 30 * t),
    "barely trained": lambda r, t: sigmoid(0.001 * (r.normal(size=N) + 1.5 * t)),
    "untrained": lambda r, t: 0.5 + 1e-9 * (r.normal(size=N) + 1.5 * t),
    "from .2000 to .2003": lambda r, t: 0.2 + 3e-4 * sigmoid(r.normal(size=N) + t),
    "at 1e-300": lambda r, t: 1e-300 * sigmoid(r.normal(size=N) + t),
    "float32": lambda r, t: sigmoid(r.normal(size=N) + t + 14).astype(np.float32),
    "ties": lambda r, t: np.round(sigmoid(r.normal(size=N) + t), 1),
    "two values": lambda r, t: np.where(r.random(N) < 0.3 + 0.4 * t, 0.9, 0.1),
    "one value": lambda _r, _t: np.full(N, 0.3),
    "right": lambda r, t: np.where(t, 0.6, 0.4) + 0.05 * r.random(N),
    "wrong": lambda r, t: np.where(t, 0.4, 0.6) + 0.05 * r.random(N),
    "two clusters": lambda r, t: (
        np.where(r.random(N) < 0.5, 0.1, 0.9) + 1e-5 * (r.normal(size=N) + t)
    ),
    "many ties beside a spread": lambda r, t: np.where(
        r.random(N) < 0.9 - 0.3 * t, 0.0, sigmoid(r.normal(size=N) + t)
    ),
    "beta": lambda r, t: r.beta(0.05 + t, 2),
    "heavy tails": lambda r, t: sigmoid(r.standard_cauchy(N) + t),
    "the reverse between sites": lambda r, t: sigmoid(
        r.normal(size=N) + t - 3 * (np.arange(N) // 5000)
    ),
}


@pytest.mark.parametrize("sites_number", [1, 3, 40])
def test_the_auc_is_scikit_learns_whatever_the_scores_spread(
    sites_number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """40 distributions; within a hundredth, as it travels."""
    errors = {}
    for number, (name, spread) in enumerate(SPREADS.items()):
        for share in SHARES:
            draw = np.random.default_rng(number)
            labels = (draw.random(N) < share).astype(int)
            scores = spread(draw, labels)
            parts = zip(
                np.array_split(labels, sites_number),
                np.array_split(scores, sites_number),
                strict=True,
            )
            pooled = pool(for_wire(of_scores(*part)) for part in parts)
            errors[f"{name}, {share}"] = abs(
                pooled.metrics()["auc"] - roc_auc_score(labels, scores)
            )
    worst = max(errors, key=errors.__getitem__)
    with capsys.disabled():
        sys.stdout.write(f"\n{sites_number} sites: {errors[worst]:.5f} at most ({worst})\n")
    assert len(errors) == 40
    assert errors[worst] <= 0.01


def test_logits_are_scored_as_they_are_and_never_taken_for_probabilities() -> None:
    labels, logits = [0, 0, 1, 1], [-800.0, 900.0, 850.0, 950.0]
    found = of_scores(labels, logits, threshold=0).metrics()
    assert (found["auc"], found["accuracy"]) == (0.75, 0.75)
    with pytest.raises(ConfigError, match="no probabilities"):
        of_scores(labels, logits)


def test_a_prediction_that_is_nan_makes_its_figures_nan_in_every_pool() -> None:
    """Or the accuracy of all would be that of those who can still count, without a word."""
    sound = of_scores([0, 1], [0.2, 0.9], loss=0.1)
    for broken in (of_scores([0, 1], [0.2, np.nan], loss=0.3), of_scores([0, 1], [0.2, np.inf])):
        found = pool([sound, broken]).metrics()
        assert isnan(found["auc"])
        assert isnan(found["accuracy"])
        assert found["loss"] in (0.2, 0.1)
    classes = of_classes([0, 1], most_likely([[0.1, 0.9], [np.nan, 0.5]]), 2)
    assert isnan(pool([of_classes([0, 1], [0, 1], 2), classes]).metrics()["accuracy"])


def test_what_an_older_client_says_in_equal_bins_is_pooled_and_its_error_is_known() -> None:
    def in_bins(labels: np.ndarray, scores: np.ndarray) -> Evaluation:
        bins = np.clip((scores * SCORE_BINS).astype(int), 0, SCORE_BINS - 1)
        rows = [np.bincount(bins[labels == k], minlength=SCORE_BINS).tolist() for k in (0, 1)]
        return Evaluation(len(labels), {}, (), of_histograms(rows), is_coarse=True)

    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 2000)
    spread, narrow = draw.random(2000), 0.2 + 1e-4 * (labels + draw.random(2000))
    assert in_bins(labels, spread).tie_error() < 0.01
    assert in_bins(labels, narrow).tie_error() > 0.4
    mixed = pool([in_bins(labels, spread), of_scores(labels, spread)])
    assert mixed.metrics()["auc"] == pytest.approx(roc_auc_score(labels, spread), abs=0.01)


def test_what_travels_is_bounded_and_counts_every_example() -> None:
    draw = np.random.default_rng(0)
    whole = pool(of_scores(draw.integers(0, 2, 5000), draw.random(5000)) for _ in range(9))
    sent = for_wire(whole)
    assert sent.scores
    assert len(sent.scores[0]) <= MAX_SCORES < len(whole.scores[0])
    assert sum(sent.scores[1]) + sum(sent.scores[2]) == 45_000


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_class_is_one_line(label: int) -> None:
    with pytest.raises(ConfigError, match="not from 0 to 1"):
        of_classes([0, 1, label], [0, 1, 1], 2)
    with pytest.raises(ConfigError, match="not from 0 to 1"):
        of_classes([0, 1, 1], [0, 1, label], 2)
