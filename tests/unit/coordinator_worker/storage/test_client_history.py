"""What clients said in each round, on the disk: bounded, and whole after a crash."""

from math import isnan, nan
from pathlib import Path

import pytest

from coordinator_worker.state.round_record import MAX_LISTED, ClientFigures
from coordinator_worker.storage import client_history
from coordinator_worker.storage.client_history import ClientRound, append, read

RUN = "ab" * 4


def closed(version: int, *clients: str, run: str = RUN, loss: float = 0.5) -> ClientRound:
    updates = [ClientFigures(name, version - 1, 10, 1.5, {"loss": loss}) for name in clients]
    return ClientRound.of(run, version, updates)


def test_what_was_written_comes_back_by_version_and_run(tmp_path: Path) -> None:
    rounds = [closed(1, "alfa", "bravo"), closed(2, "alfa")]
    for one in (*rounds, closed(7, "alfa", run="cd" * 4)):
        append(tmp_path, one)
    assert [each.to_dict() for each in read(tmp_path, RUN)] == [each.to_dict() for each in rounds]
    assert (tmp_path / client_history.NAME).stat().st_mode & 0o077 == 0


def test_a_figure_that_is_nan_comes_back_as_nan(tmp_path: Path) -> None:
    append(tmp_path, closed(1, "alfa", loss=nan))
    (found,) = read(tmp_path, RUN)
    assert isnan(found.updates[0].metrics["loss"])


def test_a_line_that_a_crash_cut_costs_no_other(tmp_path: Path) -> None:
    append(tmp_path, closed(1, "alfa"))
    path = tmp_path / client_history.NAME
    path.write_bytes(path.read_bytes() + b'{"run": "abab')
    append(tmp_path, closed(2, "alfa"))
    assert [one.version for one in read(tmp_path, RUN)] == [1, 2]


def test_versions_that_were_made_again_are_those_that_were_made_last(tmp_path: Path) -> None:
    """The folder was restored from a copy at version 1, and the run went on from there."""
    for one in (closed(1, "alfa"), closed(2, "bravo"), closed(3, "bravo"), closed(2, "charlie")):
        append(tmp_path, one)
    found = [(one.version, one.updates[0].client) for one in read(tmp_path, RUN)]
    assert found == [(1, "alfa"), (2, "charlie")]


def test_the_files_are_bounded_and_keep_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_history, "MAX_BYTES", 2000)
    for version in range(1, 101):
        append(tmp_path, closed(version, "alfa", "bravo"))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * 2000
    kept = [one.version for one in read(tmp_path, RUN)]
    assert kept == list(range(kept[0], 101))
    assert len(kept) > 5


def test_of_a_round_of_many_the_others_are_counted(tmp_path: Path) -> None:
    many = [f"phone.{number}" for number in range(MAX_LISTED + 5)]
    append(tmp_path, closed(1, *many))
    (found,) = read(tmp_path, RUN)
    assert (len(found.updates), found.omitted) == (MAX_LISTED, 5)


def test_a_client_with_a_thousand_metrics_does_not_push_out_the_others() -> None:
    metrics = {f"metric {number}": 1.0 for number in range(1000)}
    kept = ClientRound.of(RUN, 1, [ClientFigures("alfa", 0, 1, 0.0, metrics)])
    assert len(kept.updates[0].metrics) == client_history.MAX_METRICS
