"""The examples' report: figures, table, JSON, page."""

import json
from math import nan
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from warren_examples.breast_cancer.__main__ import STUDY
from warren_examples.stage.html import write_html
from warren_examples.stage.report import Figures, summary, table, write_json
from warren_examples.stage.svg import ticks

FACTS = {
    "rounds": 3,
    "clients": 4,
    "seeds": 2,
    "updates_folded": 24,
    "seconds": 12.5,
    "traffic": "up 1.0 kB, down 1.0 kB",
    "broker": {"version": "3.10.8"},
}


def evaluation(auc: float, at_last: float) -> dict[str, dict[str, float]]:
    last = STUDY.names[-1]
    places = {place: {"auc": auc, "accuracy": auc / 2} for place in ("all", *STUDY.names)}
    return {**places, last: {"auc": at_last, "accuracy": 1.0}}


@pytest.fixture
def figures() -> Figures:
    """Two seeds; site n alone reaches 0.8 + n/100, federated 0.9 and 0.92, pooled 0.95."""
    own = {name: evaluation(0.8 + n / 100, nan) for n, name in enumerate(STUDY.names)}
    alone = {seed: {**own, "pooled": evaluation(0.95, nan)} for seed in (0, 1)}
    return Figures(STUDY, {0: evaluation(0.90, nan), 1: evaluation(0.92, nan)}, alone)


def test_the_json_report_has_means_and_deviations_over_the_seeds(
    figures: Figures, tmp_path: Path
) -> None:
    write_json(tmp_path / "report.json", figures, FACTS)
    report: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    assert report["federated"]["auc"] == pytest.approx(0.91)
    assert report["federated"]["auc_sd"] == pytest.approx(0.01 * 2**0.5)
    assert report["pooled"]["accuracy"] == pytest.approx(0.475)
    assert report["local"]["auc"] == pytest.approx(
        {name: 0.8 + n / 100 for n, name in enumerate(STUDY.names)}
    )
    assert report["broker"] == {"version": "3.10.8"}
    assert {"rounds", "clients", "updates_folded", "seconds", "seeds"} <= report.keys()


def test_the_table_fits_80_columns_with_nothing_cut_short(figures: Figures) -> None:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table(figures))
    (federated,) = [line for line in captured.get().splitlines() if "federated" in line]
    assert "0.910 ± 0.014" in federated
    assert all(name in captured.get() for name in STUDY.names)


def test_the_page_shows_every_model_and_needs_nothing_but_itself(
    figures: Figures, tmp_path: Path
) -> None:
    history = [[{"eval_auc": 0.5 + n / 10, "loss": 1 - n / 10} for n in range(3)]] * 2
    write_html(tmp_path / "report.html", figures, FACTS, history)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 3
    for axis, how_often in (
        ("round", 2),
        ("Global model&#x27;s AUC", 1),
        ("Loss", 1),
        ("AUC of each model", 1),
    ):
        assert page.count(f">{axis}</text>") == how_often
    for _, heading in figures.models:
        assert heading in page
    assert summary(figures, FACTS) in page
    assert ">nan" not in page
    for outside in ("http:", "https:", "src=", "<script", "url("):
        assert outside not in page


def test_a_page_without_any_round_seen_still_has_its_table(
    figures: Figures, tmp_path: Path
) -> None:
    write_html(tmp_path / "report.html", figures, FACTS, [[], []])
    assert (tmp_path / "report.html").read_text().count("<svg") == 1


@pytest.mark.parametrize(
    ("low", "high", "written"),
    [
        (0.977, 1.0, ["0.980", "0.985", "0.990", "0.995", "1.000"]),
        (0.08, 0.41, ["0.1", "0.2", "0.3", "0.4"]),
        (0.0, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (3.0, 12.0, ["4", "6", "8", "10", "12"]),
    ],
)
def test_the_axis_has_round_numbers(low: float, high: float, written: list[str]) -> None:
    assert [text for _, text in ticks(low, high)] == written
    assert all(low - 1e-9 <= value <= high + 1e-9 for value, _ in ticks(low, high))
