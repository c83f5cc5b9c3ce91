"""The round in progress: what is folded, and what is said about it."""

import time
from math import isnan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator_worker.aggregation import Cohort
from coordinator_worker.aggregation.aggregators import mean
from coordinator_worker.aggregation.private_cohort import PrivateCohort, RoundNoise
from coordinator_worker.rounds.evaluation_pool import MAX_TABLES
from coordinator_worker.rounds.incoming_update import IncomingUpdate
from coordinator_worker.rounds.round import Round, weighted_means
from coordinator_worker.state.round_record import EvaluationSummary
from tests.support.bodies import bodies_of, staging
from warren_shared.config.client_privacy import privacy
from warren_shared.protocol.codec import decode, tensor_entries
from warren_shared.protocol.messages import (
    Chunk,
    EvaluationEntry,
    InitialManifest,
    ScoreTable,
    UpdateManifest,
)
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.evaluation import of_scores
from warren_shared.tensors.layout import Weights

DELTA = Weights.of([np.array([1.0, 2.0]), np.array([3.0], np.float32)])


def arrival(
    client: str, base: int, examples: int, weight: float, **metrics: float
) -> IncomingUpdate:
    manifest = UpdateManifest(
        federation="f", run="ab" * 4, client=client, base_version=base, num_examples=examples,
        layout=DELTA.layout.digest, metrics=metrics, **transfer_fields(DELTA.buffer),
    )  # fmt: skip
    made = IncomingUpdate(
        manifest,
        DELTA.layout,
        staging(),
        staleness_weight=weight / examples,
        tags=[10 * base, 10 * base + 1],
    )
    for body in bodies_of(Outgoing(manifest, DELTA.buffer)):
        header, data = decode(body)
        made.incoming.add(header.index if isinstance(header, Chunk) else 0, data)
    return made


def test_a_round_remembers_what_is_in_its_sum() -> None:
    now = Round(Cohort(DELTA.layout, mean()))
    now.fold(arrival("alfa", 4, 10, 10.0, loss=1.0))
    now.fold(arrival("bravo", 3, 30, 15.0, loss=2.0, norm=0.5))
    assert now.updates == 2
    assert now.cohort.sum.weight == 25.0
    assert now.tags == [40, 41, 30, 31]
    assert now.contributions == [("alfa", 4), ("bravo", 3)]
    found = now.cohort.sum.mean()
    np.testing.assert_allclose(found[0], [1.0, 2.0])


def test_the_record_says_who_took_part_with_what() -> None:
    now = Round(Cohort(DELTA.layout, mean()))
    now.fold(arrival("alfa", 4, 10, 10.0, loss=1.0))
    now.fold(arrival("bravo", 3, 30, 15.0, loss=2.0, norm=0.5))
    record = now.record(5, incomplete=3, rejected={"stale": 2}).to_dict()
    assert now.examples == [("alfa", 10), ("bravo", 30)]
    assert record.pop("seconds") >= 0
    assert record.pop("time") == pytest.approx(time.time(), abs=60)
    assert record.pop("norm") == pytest.approx(np.sqrt(sum(np.sum(each**2) for each in DELTA)))
    assert record == {
        "version": 5, "updates": 2, "examples": 40, "incomplete": 3, "rejected": {"stale": 2},
        "bytes_up": 2 * DELTA.buffer.nbytes,
        "clients": {
            "alfa": {"examples": 10, "metrics": {"loss": 1.0}},
            "bravo": {"examples": 30, "metrics": {"loss": 2.0, "norm": 0.5}},
        },
        "metrics": {"loss": 1.75, "norm": 0.5},
        "evaluation": None,
        "sites": {
            "loss": {
                "clients": 2, "low": 1.0, "low_client": "alfa", "high": 2.0, "high_client": "bravo",
            },
        },
    }  # fmt: skip
    assert [(phase.name, phase.about["client"]) for phase in now.phases.done] == [
        ("fold", "alfa"),
        ("fold", "bravo"),
    ]


def test_a_round_begins_at_zero_in_memory_that_was_used() -> None:
    used = Weights.of([np.array([7.0, 8.0]), np.array([9.0], np.float32)])
    now = Round(Cohort(DELTA.layout, mean(), memory=used))
    assert now.updates == 0
    assert now.cohort.sum.total is used
    assert not used.buffer.any()


def test_initial_weights_are_not_an_update() -> None:
    manifest = InitialManifest(
        federation="f", client="alfa", tensors=tensor_entries(DELTA.layout),
        **transfer_fields(DELTA.buffer),
    )  # fmt: skip
    with pytest.raises(TypeError, match="initial is not an update"):
        Round(Cohort(DELTA.layout, mean())).fold(IncomingUpdate(manifest, DELTA.layout, staging()))


reports = st.dictionaries(
    st.text(max_size=3),
    st.tuples(
        st.integers(1, 2**40),
        st.dictionaries(st.sampled_from(["loss", "auc"]), st.floats(-1e6, 1e6)),
    ),
    max_size=6,
)


@given(reports)
def test_a_mean_is_over_those_who_report_and_lies_among_them(
    reports: dict[str, tuple[int, dict[str, float]]],
) -> None:
    means = weighted_means(reports)
    said = {name for _, metrics in reports.values() for name in metrics}
    assert set(means) == said
    for name in said:
        weights, values = zip(
            *((n, metrics[name]) for n, metrics in reports.values() if name in metrics), strict=True
        )
        assert means[name] == pytest.approx(np.average(values, weights=weights), abs=1e-6)
        slack = 1e-9 * max(map(abs, values)) + 1e-300
        assert min(values) - slack <= means[name] <= max(values) + slack


def judged(client: str, entry: EvaluationEntry | None, **told: Any) -> IncomingUpdate:
    made = arrival(client, 4, 10, 10.0)
    update = {"evaluation": entry, **told}
    made.manifest = made.manifest.model_copy(update=update)  # type: ignore[union-attr]
    return made


def test_a_figure_that_one_client_could_not_compute_is_nan_and_does_not_disappear() -> None:
    now = Round(Cohort(DELTA.layout, mean()))
    table = ScoreTable(scores=[0.2, 0.9], negatives=[1, 0], positives=[0, 1])
    now.fold(judged("alfa", EvaluationEntry(num_examples=2, score_table=table)))
    broken = EvaluationEntry(num_examples=2, means={"loss": 1.0}, not_finite=["auc"])
    now.fold(judged("bravo", broken, not_finite=["loss"]))
    record = now.record(5)
    assert isnan(record.metrics["eval_auc"])
    assert record.metrics["eval_loss"] == 1.0
    assert isnan((record.clients or {})["bravo"].metrics["loss"])
    assert isnan(record.metrics["loss"])


def test_a_thousand_evaluations_are_one_table_and_are_counted_each() -> None:
    now = Round(Cohort(DELTA.layout, mean()))
    draw = np.random.default_rng(0)
    labels, scores = draw.integers(0, 2, (1000, 4)), draw.random((1000, 4))
    for number in range(1000):
        found = of_scores(labels[number], scores[number]).scores
        assert found
        rows = map(list, found)
        table = ScoreTable(**dict(zip(("scores", "negatives", "positives"), rows, strict=True)))
        entry = EvaluationEntry(num_examples=4, score_table=table)
        now.fold(judged(f"phone.{number}", entry))
    record = now.record(5)
    assert record.evaluation == EvaluationSummary(version=4, clients=1000, examples=4000)
    whole = of_scores(labels, scores).metrics()["auc"]
    assert record.metrics["eval_auc"] == pytest.approx(whole, abs=0.003)


def test_what_an_older_client_says_of_its_scores_is_read() -> None:
    now = Round(Cohort(DELTA.layout, mean()))
    rows = [[3] + [0] * 511, [1] + [0] * 510 + [2]]
    now.fold(judged("alfa", EvaluationEntry(num_examples=6, scores=rows)))
    assert now.record(5).metrics["eval_auc"] == pytest.approx(5 / 6)


def test_one_clients_ten_million_examples_are_no_more_than_half_of_what_a_round_is_worth() -> None:
    now = Round(Cohort(DELTA.layout, mean()), share=0.5)
    for number, loss in enumerate((0.6, 0.8)):
        entry = EvaluationEntry(
            num_examples=100, means={"loss": loss}, confusion=[[50, 0], [50, 0]]
        )
        now.fold(judged(f"c{number}", entry))
    lie = EvaluationEntry(
        num_examples=10_000_000, means={"loss": 0.0}, confusion=[[5_000_000, 0], [0, 5_000_000]]
    )
    now.fold(judged("liar", lie, metrics={"loss": 0.0}, num_examples=10_000_000))
    record = now.record(5)
    assert record.metrics["eval_loss"] == pytest.approx(0.35)
    assert record.metrics["eval_accuracy"] == pytest.approx(0.75)
    found = now.judgement("eval_loss", 3)
    assert found is not None
    assert (found.clients, found.high) == (3, pytest.approx(0.7)), "without the liar"
    found = now.judgement("eval_accuracy", 3)
    assert found is not None
    assert (found.clients, found.low) == (3, pytest.approx(0.5))
    assert now.judgement("loss", 3) is not None
    assert now.judgement("nothing", 3) is None


def test_clients_several_versions_apart_are_a_quorum_together() -> None:
    now = Round(Cohort(DELTA.layout, mean()), share=0.5)
    for number in range(3):
        entry = EvaluationEntry(num_examples=10, means={"loss": float(number)})
        now.fold(judged(f"c{number}", entry, base_version=number))
    newest, all_three = now.judgement("eval_loss", 1), now.judgement("eval_loss", 3)
    assert newest is not None
    assert all_three is not None
    assert (newest.clients, all_three.clients) == (1, 3)
    assert now.record(5).metrics["eval_loss"] == 2.0, "of the newest version"


def test_more_tables_than_are_held_are_judged_by_all_of_them() -> None:
    now = Round(Cohort(DELTA.layout, mean()), share=0.5)
    for number in range(3 * MAX_TABLES):
        entry = EvaluationEntry(num_examples=10 + number, confusion=[[5, 0], [1, 4]])
        now.fold(judged(f"phone.{number}", entry))
    found = now.judgement("eval_accuracy", 3)
    assert found is not None
    assert (found.clients, found.low) == (3 * MAX_TABLES, pytest.approx(0.9))


def test_one_of_many_clients_that_claims_one_example_meets_no_target() -> None:
    """The mean of a hundred is moved as far by its value as by its weight."""
    now = Round(Cohort(DELTA.layout, mean()), share=0.5)
    for number in range(100):
        entry = EvaluationEntry(num_examples=100, means={"loss": 0.6}, confusion=[[90, 0], [10, 0]])
        now.fold(judged(f"c{number}", entry))
    now.fold(judged("liar", EvaluationEntry(num_examples=1, means={"loss": -1e100})))
    assert now.record(5).metrics["eval_loss"] < 0
    found = now.judgement("eval_loss", 3)
    assert found is not None
    assert found.high == pytest.approx(0.6)
    assert found.typical == pytest.approx(0.6)


def private() -> tuple[Round, PrivateCohort]:
    promise = privacy("gaussian:epsilon=8,delta=1e-3,clip=1,contributions=3,distance=1,small=true")
    noise = RoundNoise(promise.calibration(3, 2, 3), promise.clip, bytes(32))
    cohort = PrivateCohort(DELTA.layout, noise)
    return Round(cohort), cohort


def private_arrival(client: str, delta: Weights, squares: float | None = None) -> IncomingUpdate:
    manifest = UpdateManifest(
        federation="f", run="ab" * 4, client=client, base_version=1, num_examples=1,
        layout=DELTA.layout.digest, **transfer_fields(delta.buffer),
    )  # fmt: skip
    made = IncomingUpdate(manifest, DELTA.layout, staging(), private=True)
    for body in bodies_of(Outgoing(manifest, delta.buffer)):
        header, data = decode(body)
        made.incoming.add(header.index if isinstance(header, Chunk) else 0, data)
    made.sum_of_squares = made.sum_of_squares if squares is None else squares
    return made


@pytest.mark.parametrize("fault", ["NaN", "longer than it says"])
def test_an_update_that_must_not_move_a_private_sum_counts_all_the_same(fault: str) -> None:
    """Or its sender's data would decide how many updates a round has."""
    now, cohort = private()
    delta = Weights.of([np.array([np.nan, 2.0]), np.array([3.0], np.float32)])
    if fault == "NaN":
        late = private_arrival("alfa", delta)
        assert late.is_void
    else:
        late = private_arrival("alfa", DELTA, squares=0.01)
    now.fold(late)
    assert now.updates == 1
    assert now.clients == {"alfa"}
    assert not cohort.sum.total.buffer.any()
    now.fold(private_arrival("bravo", DELTA))
    assert now.updates == 2
    assert cohort.sum.total.buffer.any()
    record = now.record(2)
    assert not record.knows("norm")
    assert "norm" not in record.to_dict()
    assert (record.examples, record.metrics) == (2, {})


def test_a_round_knows_which_code_made_each_clients_newest_update() -> None:
    now = Round(Cohort(DELTA.layout, mean()))
    for base, code in ((3, "0123456789ab"), (4, "fedcba987654")):
        one = arrival("alfa", base, 10, 10.0)
        one.manifest = one.manifest.model_copy(update={"code": code})
        now.fold(one)
    now.fold(arrival("bravo", 4, 10, 10.0))
    assert now.codes == {"alfa": "fedcba987654", "bravo": ""}


def test_a_round_knows_what_each_client_said_with_its_update() -> None:
    now = Round(Cohort(DELTA.layout, mean()))
    one = arrival("alfa", 4, 10, 10.0, loss=1.0)
    evaluation = EvaluationEntry(num_examples=4, means={"loss": 2.0}, confusion=[[1, 1], [0, 2]])
    one.manifest = one.manifest.model_copy(update={"evaluation": evaluation})
    now.fold(one)
    (figures,) = now.figures
    assert (figures.client, figures.base_version, figures.examples) == ("alfa", 4, 10)
    assert figures.norm == pytest.approx(np.sqrt(14))
    assert figures.metrics["loss"] == 1.0
    assert figures.metrics["eval_loss"] == 2.0
    assert figures.metrics["eval_accuracy"] == 0.75
