"""Checkpoint folders as a run leaves them, made without one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coordinator_worker.settings import CoordinatorSettings
from coordinator_worker.state.roster import Member
from coordinator_worker.state.round_record import Entry, EvaluationSummary, RoundRecord
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint, version_archive
from coordinator_worker.storage.audit_log import Audit
from coordinator_worker.storage.provenance import setup_of, since
from warren_shared import weights_file
from warren_shared.tensors.layout import Weights

RUN = "ab" * 4
SETTINGS = CoordinatorSettings(broker_url="amqp://a:b@localhost/f")


def weights(value: float) -> Weights:
    return Weights.of([np.full(3, value, np.float32), np.array(float(value))])


def record(version: int) -> RoundRecord:
    return RoundRecord(
        version, updates=2, examples=300, rejected={"stale": 1}, clients={},
        metrics={"loss": 1 / version, "eval_loss": 2 / version},
        evaluation=EvaluationSummary(version - 1, clients=2, examples=10),
        norm=0.5, bytes_up=1000, seconds=2.0,
    )  # fmt: skip


def federation(folder: Path, rounds: int = 6, **more: Any) -> State:
    """A run of ``rounds`` rounds: alfa in each, bravo in the odd ones, charlie in the last."""
    audit = Audit(folder)
    state = State("f", RUN, 0, weights(0), {}, setup=since((), 0, setup_of(SETTINGS)))
    audit.take_over(state)
    for version in range(1, rounds + 1):
        clients = ["alfa", *(["bravo"] if version % 2 else [])]
        clients += ["charlie"] if version == rounds else []
        state = state.after(
            weights(version), [(name, version - 1) for name in clients], record(version), 9
        )
        audit.aggregated(
            version, [Entry(name, version - 1, 100, 1.0, "ef", "00") for name in clients], None
        )
        version_archive.write(folder, state, weights_file.digest(state.weights.buffer))
    members = {
        "alfa": Member(1.0, 2.0, rounds, rounds, 100),
        "bravo": Member(1.0, 2.0, rounds - 1, 3, 100),
        "charlie": Member(1.0, 2.0, rounds, 1, 100),
        "echo": Member(1.0),
    }
    state = replace(state, roster=members, slots={"velocity": weights(1)}, **more)
    audit.give_back()
    checkpoint.save(folder, state)
    return state


def loaded(folder: Path) -> State:
    found = checkpoint.load(folder)
    assert found is not None
    return found
