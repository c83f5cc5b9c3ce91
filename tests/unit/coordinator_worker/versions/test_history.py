"""``coordinator-worker history``: the rounds of a checkpoint, for people and programs."""

import csv
import io
import json
import os
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from coordinator_worker.cli import main
from coordinator_worker.monitoring.client_figures import MAX_CURVES, ClientHistory
from coordinator_worker.monitoring.events import ClientJoined, RoundClosed, RoundContributions
from coordinator_worker.monitoring.tensorboard import Curves
from coordinator_worker.state.round_record import ClientFigures, RoundRecord
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Weights

RUN = "ab" * 4


def record(version: int, **changed: Any) -> RoundRecord:
    return RoundRecord.from_dict({
        "version": version, "updates": 2, "incomplete": 0, "rejected": {}, "norm": 0.5,
        "metrics": {"loss": 1 / version}, "evaluation": None, "bytes_up": 80, "seconds": 1.5,
        "time": 1_700_000_000.25 + version,
        "participation": {"in": {"clients": 2, "data_share": 1.0}},
    } | changed)  # fmt: skip


HISTORY = (
    record(1),
    record(2, rejected={"stale": 3}, metrics={"loss": 0.5, "eval_auc": 0.75},
           evaluation={"version": 1, "clients": 2, "examples": 40},
           participation={"in": {"clients": 1, "data_share": 0.4},
                          "late": {"clients": 1, "data_share": 0.6}}),
    record(3, diverged="not finite"),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "checkpoint"
    found.mkdir()
    weights = Weights.empty(Weights.of([np.zeros(2)]).layout)
    checkpoint.save(found, State("clinics", RUN, 3, weights, applied={}, history=HISTORY))
    return found


def history(folder: Path, *words: str) -> int:
    return main(["history", "--checkpoint-dir", str(folder), *words])


def events(path: Path) -> list[Event]:
    """What TensorBoard reads: records of length, its check, bytes, their check."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    assert found[0].file_version == "brain.Event:2"
    return found[1:]


def curves(folder: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in events(path):
            for value in event.summary.value:
                assert event.step not in found.setdefault(value.tag, {})
                found[value.tag][event.step] = value.simple_value
    return found


def test_a_csv_file_has_every_figure_of_every_round(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    path.write_text("of last week")
    assert history(folder, "--csv", str(path)) == 0
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["version"] for row in rows] == ["1", "2", "3"]
    assert [row["time"] for row in rows] == ["1700000001.25", "1700000002.25", "1700000003.25"]
    assert [float(row["metric/loss"]) for row in rows] == [1, 0.5, 1 / 3]
    assert [row["metric/eval_auc"] for row in rows] == ["0.75", "", ""], "what version 1 is worth"
    assert [row["rejected/stale"] for row in rows] == ["", "3", ""]
    assert [row["data_share/late"] for row in rows] == ["", "0.6", ""]
    assert [row["evaluation/examples"] for row in rows] == ["40", "", ""]
    assert [row["diverged"] for row in rows] == ["", "", "not finite"]
    assert list(rows[0])[:3] == ["version", "time", "seconds"]
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "rounds.csv"]


def test_csv_and_json_go_to_standard_output(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert history(folder, "--csv", "-") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["updates"] for row in rows] == ["2", "2", "2"]
    assert history(folder, "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [each.to_dict() for each in HISTORY]


def test_tensorboard_reads_the_same_curves(folder: Path, tmp_path: Path) -> None:
    board = tmp_path / "board"
    assert history(folder, "--tensorboard", str(board)) == 0
    found = curves(board / RUN)
    assert found["metric/loss"] == pytest.approx({1: 1, 2: 0.5, 3: 1 / 3})
    assert found["metric/eval_auc"] == {1: 0.75}
    assert found["round/updates"] == {1: 2, 2: 2, 3: 2}
    assert found["rejected/stale"] == {2: 3}
    (path,) = (board / RUN).iterdir()
    assert {event.wall_time for event in events(path)} == {r.time for r in HISTORY}


def test_a_run_is_not_written_twice_over_itself(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = tmp_path / "board"
    assert history(folder, "--tensorboard", str(board)) == 0
    assert history(folder, "--tensorboard", str(board)) == 2
    assert "has this run already" in capsys.readouterr().err


def test_a_run_that_is_killed_and_goes_on_is_one_curve(tmp_path: Path) -> None:
    first, second = Curves(tmp_path), Curves(tmp_path)
    first.on_event(RoundClosed(RUN, record(1)))
    first.on_event(ClientJoined("alfa"))
    first.on_event(RoundClosed(RUN, record(2)))
    # Killed: it is not closed, and what it has written is there all the same.
    assert curves(tmp_path / RUN)["metric/loss"] == {1: 1, 2: 0.5}
    first.close()
    # Another process has another number and another second in its file's name.
    os.rename(next((tmp_path / RUN).iterdir()), tmp_path / RUN / "events.out.tfevents.1.vm.1")
    second.on_event(RoundClosed(RUN, record(3)))
    second.close()
    assert list(curves(tmp_path / RUN)["metric/loss"]) == [1, 2, 3]


def test_a_full_disk_ends_the_curves_and_not_the_coordinator(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    written = Curves(tmp_path)
    (tmp_path / RUN).write_text("a file where a folder should be")
    for version in (1, 2):
        written.on_event(RoundClosed(RUN, record(version)))
    written.close()
    assert [line.action for line in caplog.records] == ["curves_off"]


def test_the_table_shows_the_newest_rounds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert history(folder) == 0
    said = capsys.readouterr().out
    for words in ("version", "loss", "eval_auc", "0.3333", f"clinics, run {RUN}: 3 rounds"):
        assert words in said


def test_a_checkpoint_of_before_rounds_had_a_time_is_read(tmp_path: Path) -> None:
    weights = Weights.empty(Weights.of([np.zeros(2)]).layout)
    old = replace(record(1), absent=frozenset({"time"}), participation=None)
    checkpoint.save(tmp_path, State("clinics", RUN, 1, weights, applied={}, history=(old,)))
    assert history(tmp_path) == 0
    assert history(tmp_path, "--csv", str(tmp_path / "x.csv")) == 0
    assert history(tmp_path, "--tensorboard", str(tmp_path / "board")) == 0


def test_without_a_round_there_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert history(tmp_path / "nowhere") == 2
    assert "holds no checkpoint yet" in capsys.readouterr().err
    weights = Weights.empty(Weights.of([np.zeros(2)]).layout)
    checkpoint.save(tmp_path, State("clinics", RUN, 0, weights, applied={}))
    assert history(tmp_path) == 2
    assert "holds a checkpoint, but no round yet" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_one_clear_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert history(folder, "--csv", str(tmp_path / "no" / "such.csv")) == 2
    assert "such.csv cannot be written" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert history(folder, "--tensorboard", str(tmp_path / "file")) == 2
    assert "--tensorboard" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["history", "coordinator"])
def test_a_missing_extra_is_named(
    folder: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    if how == "coordinator":
        with pytest.raises(ConfigError, match=r"pip install 'warren-fl\[tensorboard\]'"):
            Curves(tmp_path / "board")
        return
    assert history(folder, "--tensorboard", str(tmp_path / "board")) == 2
    assert "pip install 'warren-fl[tensorboard]'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["history", "versions", "participation"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_table_is_printed_whatever_standard_outputs_encoding(
    folder: Path, command: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Weights.empty(Weights.of([np.zeros(2)]).layout)
    odd = record(3, metrics={"größe_损失": 0.5}, clients={})
    checkpoint.save(folder, State("clinics", RUN, 3, weights, applied={}, history=(odd,)))
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding))
    assert main([command, "--checkpoint-dir", str(folder)]) == 0
    sys.stdout.flush()
    assert printed.getvalue()


# --- clients --------------------------------------------------------------------------------------


def said(client: str, base: int, loss: float, auc: float) -> ClientFigures:
    return ClientFigures(client, base, 10, 1.5, {"loss": loss, "eval_auc": auc})


ROUNDS = (
    RoundContributions(RUN, 1, [said("alfa", 0, 1.0, 0.5), said("bravo", 0, 2.0, 0.6)]),
    RoundContributions(RUN, 3, [said("alfa", 2, 0.5, 0.7), said("bravo", 1, 1.5, 0.6)]),
)


@pytest.fixture
def with_clients(folder: Path) -> Path:
    listener = ClientHistory(folder)
    for event in ROUNDS:
        listener.on_event(event)
    return folder


def test_a_csv_file_has_a_row_for_each_client_and_version(
    with_clients: Path, tmp_path: Path
) -> None:
    path = tmp_path / "clients.csv"
    assert history(with_clients, "--clients", "--csv", str(path)) == 0
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert list(rows[0])[:5] == ["version", "client", "base_version", "staleness", "examples"]
    found = [(r["version"], r["client"], r["staleness"], r["metric/loss"]) for r in rows]
    assert found == [
        ("1", "alfa", "0", "1.0"), ("1", "bravo", "0", "2.0"),
        ("3", "alfa", "0", "0.5"), ("3", "bravo", "1", "1.5"),
    ]  # fmt: skip


def test_of_one_client_there_is_a_table_and_json(
    with_clients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert history(with_clients, "--clients", "bravo") == 0
    shown = capsys.readouterr().out
    assert "bravo" in shown
    assert "alfa" not in shown
    assert "2 updates since version 1" in shown
    assert history(with_clients, "--clients", "bravo", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["version"], line["metric/eval_auc"]) for line in lines] == [(1, 0.6), (3, 0.6)]


def test_a_client_that_is_not_there_is_told_who_is(
    with_clients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert history(with_clients, "--clients", "charlie") == 2
    assert "--clients charlie: it is in none of the rounds" in capsys.readouterr().err


def test_a_checkpoint_of_an_older_version_has_no_clients(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert history(folder, "--clients") == 2
    assert "has no figures of clients" in capsys.readouterr().err


def test_tensorboard_has_a_curve_for_each_client_if_that_is_asked_for(
    with_clients: Path, tmp_path: Path
) -> None:
    plain, wanted = tmp_path / "plain", tmp_path / "wanted"
    for listener in (Curves(plain), Curves(wanted, clients=True)):
        listener.on_event(RoundClosed(RUN, HISTORY[0]))
        listener.on_event(ROUNDS[0])
        listener.close()
    assert not any("alfa" in tag for tag in curves(plain / RUN))
    assert curves(wanted / RUN)["client_loss/alfa"] == {1: 1.0}
    assert curves(wanted / RUN)["client_eval_auc/bravo"] == {0: pytest.approx(0.6)}
    assert history(with_clients, "--clients", "--tensorboard", str(tmp_path / "later")) == 0
    assert curves(tmp_path / "later" / RUN)["client_loss/alfa"] == {1: 1.0, 3: 0.5}


def test_so_many_clients_have_curves_and_no_more(tmp_path: Path) -> None:
    listener = Curves(tmp_path, clients=True)
    for version in (1, 2):
        many = [said(f"phone.{n}", version - 1, 1.0, 0.5) for n in range(MAX_CURVES + 20)]
        listener.on_event(RoundContributions(RUN, version, many[:: 2 * version - 3]))
    listener.close()
    assert sum(tag.startswith("client_loss/") for tag in curves(tmp_path / RUN)) == MAX_CURVES
