"""The last version has figures of its own, and the run says why it ended."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from coordinator_worker.rounds.final_evaluation import FinalEvaluation
from coordinator_worker.state.round_record import EvaluationSummary, RoundRecord
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from coordinator_worker.versions.history import aligned
from coordinator_worker.versions.registry import ModelRegistry
from tests.acceptance.test_federation import start_client, start_coordinator
from tests.conftest import Place
from tests.support.processes import BIN, workers
from warren_shared.protocol.messages import Evaluated, EvaluationEntry
from warren_shared.tensors.layout import Weights


def test_the_clients_evaluate_the_final_model_and_it_can_be_the_best(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        clients = [
            start_client(place, user, "line", "--shard", str(n))
            for n, user in enumerate(("alfa", "bravo"))
        ]
        options = ("--quorum", "2", "--rounds", "4", "--monitor", "eval_loss:min")
        coordinator = start_coordinator(place, tmp_path, *options)
        started += [*clients, coordinator]
        assert coordinator.wait_for("run_ends")["message"].endswith("--rounds 4 are made")
        assert [worker.end() for worker in started] == [0, 0, 0]
    past = ModelRegistry(tmp_path)
    last, record = past.metrics(4), past.record(4)
    assert record is not None
    assert last["eval_loss"] < record.metrics["eval_loss"], "of version 3"
    final = record.final_evaluation
    assert final is not None
    assert (final.version, final.clients, final.examples) == (4, 2, 20)
    assert past.state.best is not None
    assert past.state.best.version == 4, "loss falls in each round"
    rows = {row["version"]: row for row in aligned(past.state.history)}
    assert rows[4]["metric/eval_loss"] == last["eval_loss"]
    assert rows[3]["metric/eval_loss"] == past.metrics(3)["eval_loss"]
    found = subprocess.run(
        [BIN / "coordinator-worker", "versions", "--json", "--checkpoint-dir", tmp_path],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert json.loads(found.stdout.splitlines()[-1])["metrics"]["eval_loss"] == last["eval_loss"]


def test_what_the_evaluating_program_says_goes_into_history(place: Place, tmp_path: Path) -> None:
    program = tmp_path / "judge.py"
    program.write_text('print(\'{"rank": 0.5, "name": 1}\')')
    with workers() as started:
        client = start_client(place, "alfa", "line")
        options = ("--quorum", "1", "--rounds", "2", "--evaluate", f"{sys.executable} {program}")
        coordinator = start_coordinator(place, tmp_path / "c", *options)
        started += [client, coordinator]
        assert [worker.end() for worker in started] == [0, 0]
    state = checkpoint.load(tmp_path / "c")
    assert state is not None
    assert state.history[-1].evaluated == {"rank": 0.5, "name": 1.0}
    assert aligned(state.history)[-1]["metric/evaluate_rank"] == 0.5


def test_nobody_is_waited_for_longer_than_a_round_takes_twice() -> None:
    record = RoundRecord(3, seconds=20.0, evaluation=EvaluationSummary(2, clients=2))
    state = State("f", "ab" * 4, 3, Weights.of([np.zeros(1)]), {}, (record,))
    final = FinalEvaluation(state)
    assert final.patience_s == 40.0
    assert not final.is_complete
    for client in ("alfa", "alfa", "bravo"):
        assert not final.is_complete
        entry = EvaluationEntry(num_examples=5, means={"loss": float(len(client))})
        told = {"federation": "f", "run": "ab" * 4, "version": 3}
        final.add(Evaluated(client=client, evaluation=entry, **told))
    assert final.is_complete
    assert final.figures is not None
    assert final.figures.metrics == {"eval_loss": 4.5}
    assert FinalEvaluation(replace(state, history=())).is_complete, "nobody evaluates"


def test_a_target_that_is_met_is_named(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        client = start_client(place, "alfa", "line")
        options = ("--quorum", "1", "--rounds", "99", "--target", "eval_loss<=0.5")
        coordinator = start_coordinator(place, tmp_path, *options)
        started += [client, coordinator]
        said = coordinator.wait_for("run_ends")["message"]
        assert "--target eval_loss<=0.5 is met (0." in said
        assert coordinator.end() == 0
