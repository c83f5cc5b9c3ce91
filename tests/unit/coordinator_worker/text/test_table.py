"""What matters least is left out first; a pipe and COLUMNS are heeded."""

import io

import numpy as np
import pytest
from rich.console import Console

from coordinator_worker.cli import main
from coordinator_worker.state.round_record import EvaluationSummary, RoundRecord
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from coordinator_worker.text.table import Column, fitted
from warren_shared.tensors.layout import Weights

COLUMNS = [
    Column("version", ["7", "8"]),
    Column("loss", ["0.25", "0.125"], optional=True),
    Column("made", ["2026-11-28 22:30:00"] * 2, optional=True, numbers=False),
    Column("digest", ["deadbeef", "cafecafe"], optional=True, numbers=False),
]


def lines(width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(fitted(COLUMNS, width))
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (8, ["version"]),
        (13, ["version", "loss"]),
        (34, ["version", "loss", "made"]),
        (60, ["version", "loss", "made", "digest"]),
    ],
)
def test_the_last_column_goes_first_and_the_number_stays(width: int, headings: list[str]) -> None:
    found = lines(width)
    assert found[0].split() == headings
    assert [line.split()[0] for line in found[1:]] == ["7", "8"]
    assert max(map(len, found)) <= width


@pytest.fixture
def folder(tmp_path):  # type: ignore[no-untyped-def]
    names = ("loss", "accuracy", "eval_accuracy", "eval_precision_at_a_long_name")
    record = RoundRecord(
        1, updates=3, examples=30, clients={}, metrics=dict.fromkeys(names, 0.5),
        evaluation=EvaluationSummary(0, 3, 9), norm=1.0, bytes_up=8, seconds=1.0, time=1.7e9,
    )  # fmt: skip
    state = State("f", "ab" * 4, 1, Weights.of([np.zeros(1)]), {}, (record,))
    checkpoint.save(tmp_path, state)
    return tmp_path


@pytest.mark.parametrize("command", ["versions", "history"])
@pytest.mark.parametrize("columns", ["40", "80", None])
def test_the_commands_show_the_number_that_others_ask_for(
    folder, command: str, columns: str | None, capsys, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert main([command, "--checkpoint-dir", str(folder)]) == 0
    found = capsys.readouterr().out.splitlines()
    heading = next(line for line in found if "version" in line and "run" not in line)
    assert heading.split()[0] == "version"
    assert "…" not in "".join(found)
    if columns is not None:
        assert max(map(len, found)) <= int(columns)
    else:
        assert ("digest" if command == "versions" else "when") in heading, "a pipe gets everything"
