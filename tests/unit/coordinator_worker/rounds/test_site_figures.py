"""The lowest and the highest of single sites, which a mean hides."""

from math import inf, nan

import numpy as np

from coordinator_worker.aggregation import Cohort
from coordinator_worker.aggregation.aggregators import mean
from coordinator_worker.rounds.round import Round
from coordinator_worker.rounds.site_figures import MOST, site_ranges
from coordinator_worker.state.round_record import RoundRecord, SiteRange
from tests.unit.coordinator_worker.rounds.test_round import DELTA, judged
from warren_shared.protocol.messages import EvaluationEntry, ScoreTable


def test_the_range_of_a_metric_is_over_those_that_report_it() -> None:
    said = {
        "alfa": {"loss": 0.5, "auc": 0.8},
        "bravo": {"loss": 0.25, "auc": nan},
        "charlie": {"loss": inf, "auc": 0.6, "own": 1.0},
        "delta": {},
    }
    assert site_ranges(said) == {
        "loss": SiteRange(2, 0.25, "bravo", 0.5, "alfa"),
        "auc": SiteRange(2, 0.6, "charlie", 0.8, "alfa"),
    }
    assert site_ranges({"alfa": {"loss": 1.0}}) == {}


def test_metrics_that_few_report_give_way() -> None:
    made_up = {f"own-{number}": 1.0 for number in range(3 * MOST)}
    said = {"mallory": made_up | {"loss": 9.0}, "alfa": made_up | {"loss": 1.0}}
    found = site_ranges({**said, "bravo": {"loss": 2.0}})
    assert len(found) == MOST
    assert found["loss"].high_client == "mallory"


def test_a_round_has_the_auc_of_each_site_of_the_newest_version() -> None:
    """Of a table of scores: the AUC of alfa is 1, of bravo 0; of both together neither."""
    now = Round(Cohort(DELTA.layout, mean()))
    for client, negatives, positives in (
        ("alfa", [2, 0], [0, 2]),
        ("bravo", [0, 2], [2, 0]),
    ):
        table = ScoreTable(scores=[0.2, 0.8], negatives=negatives, positives=positives)
        entry = EvaluationEntry(num_examples=4, means={"loss": 0.5}, score_table=table)
        now.fold(judged(client, entry))
    record = now.record(5)
    assert record.sites is not None
    assert record.sites["eval_auc"] == SiteRange(2, 0.0, "bravo", 1.0, "alfa")
    assert record.metrics["eval_auc"] == 0.5
    assert RoundRecord.from_dict(record.to_dict()).sites == record.sites
    np.testing.assert_equal(record.shortened().sites, record.sites)
