"""Pooled evaluations are those of all the data together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from shared.errors import ConfigError
from shared.evaluation import SCORE_BINS, Evaluation, of_classes, of_scores, pool
from shared.messages import EvaluationEntry


def sites(seed: int, sizes: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels and scores on a grid of the bins, of sites that differ in both."""
    draw = np.random.default_rng(seed)
    found = []
    for number, size in enumerate(sizes):
        labels = (draw.random(size) < 0.2 + 0.6 * number / len(sizes)).astype(int)
        scores = draw.beta(1 + labels + number, 2)
        found.append((labels, (np.floor(scores * SCORE_BINS) + 0.5) / SCORE_BINS))
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
    ],
)
def test_counts_that_could_not_be_added_up_are_refused_where_trust_stops(
    tables: dict[str, list[list[int]]],
) -> None:
    with pytest.raises(ValidationError):
        EvaluationEntry(num_examples=10, **tables)


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_class_is_one_line(label: int) -> None:
    with pytest.raises(ConfigError, match="not from 0 to 1"):
        of_classes([0, 1, label], [0, 1, 1], 2)
    with pytest.raises(ConfigError, match="not from 0 to 1"):
        of_classes([0, 1, 1], [0, 1, label], 2)
