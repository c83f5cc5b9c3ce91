"""The ledger on the disk: what was given away is not forgotten, however a process ends."""

import json
import os
import stat
from pathlib import Path

import pytest

from keeper_worker import keys as key_file
from keeper_worker.keys import make, read
from keeper_worker.ledger.entries import Entry, Row
from keeper_worker.ledger.journal import FILE, Journal, create
from tests.support.masking import RUN, Desk, model_of, request_of, seed_of, transfer_of
from warren_shared.errors import ConfigError

KEY = "ab" * 8


def entry(version: int, *clients: str, run: str = RUN, window: int = 3) -> Entry:
    rows = tuple(Row(c, version - 1, transfer_of(c, version - 1), 4) for c in clients)
    return Entry("f", run, version, version, window, rows, {version - 1: model_of(version - 1)})


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    create(tmp_path, KEY)
    return Journal.open(tmp_path, KEY)


def test_what_was_written_is_read_again(journal: Journal, tmp_path: Path) -> None:
    for version in range(1, 6):
        journal.append(entry(version, "alfa", "bravo", "charlie"))
    known = Journal.open(tmp_path, KEY).history.runs[RUN]
    assert known == journal.history.runs[RUN]
    assert (known.newest.version, known.newest.rounds) == (5, 5)
    assert known.is_spent("alfa", transfer_of("alfa", 4), 4)
    assert known.is_spent("alfa", "another", 4)
    assert not known.is_spent("alfa", transfer_of("alfa", 5), 5)


def test_ids_that_are_too_late_for_any_set_are_not_kept(journal: Journal) -> None:
    for version in range(1, 50):
        journal.append(entry(version, "alfa", "bravo", "charlie"))
    known = journal.history.runs[RUN]
    assert {base for _, base in known.bases} == set(known.transfers.values()) == {47, 48}
    assert set(known.models) == {47, 48}


def test_the_longest_window_of_a_run_counts(journal: Journal) -> None:
    """Or who asks once with a short table of weights would have all else forgotten."""
    journal.append(entry(1, "alfa", "bravo", "charlie", window=9))
    journal.append(entry(2, "alfa", "bravo", "charlie", window=1))
    assert journal.history.runs[RUN].is_spent("alfa", transfer_of("alfa", 0), 0)


@pytest.mark.parametrize("left", [1, 10, 100])
def test_a_torn_last_line_is_dropped_and_written_over(
    journal: Journal, tmp_path: Path, left: int
) -> None:
    journal.append(entry(1, "alfa", "bravo", "charlie"))
    journal.append(entry(2, "alfa", "bravo", "charlie"))
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:left])
    again = Journal.open(tmp_path, KEY)
    assert again.history.runs[RUN].newest.version == 1
    again.append(entry(2, "alfa", "bravo", "delta"))
    assert Journal.open(tmp_path, KEY).history.runs[RUN].newest.updates[2].client == "delta"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_line_that_was_changed_ends_it(journal: Journal, tmp_path: Path, number: int) -> None:
    journal.append(entry(1, "alfa", "bravo", "charlie"))
    journal.append(entry(2, "alfa", "bravo", "charlie"))
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = lines[number - 1].replace(b"1", b"7", 1)
    path.write_bytes(b"".join(lines))
    with pytest.raises(ConfigError, match=f"line {number}, is damaged"):
        Journal.open(tmp_path, KEY)


def test_a_line_that_was_taken_out_ends_it(journal: Journal, tmp_path: Path) -> None:
    journal.append(entry(1, "alfa", "bravo", "charlie"))
    journal.append(entry(2, "alfa", "bravo", "charlie"))
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(ConfigError, match="line 2, is damaged"):
        Journal.open(tmp_path, KEY)


def test_a_ledger_that_is_gone_or_of_other_keys_ends_it(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of other keys"):
        Journal.open(tmp_path, "00" * 8)
    (tmp_path / FILE).unlink()
    with pytest.raises(ConfigError, match="is gone"):
        Journal.open(tmp_path, KEY)


def test_a_disk_that_is_full_changes_nothing(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(entry(1, "alfa", "bravo", "charlie"))
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        write(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                journal.append(entry(2, "alfa", "bravo", "charlie"))
    assert journal.history.runs[RUN].newest.version == 1
    journal.append(entry(2, "alfa", "bravo", "delta"))
    assert Journal.open(tmp_path, KEY).history.runs[RUN] == journal.history.runs[RUN]


def test_a_large_file_is_written_anew_with_what_matters(tmp_path: Path) -> None:
    create(tmp_path, KEY)
    journal = Journal.open(tmp_path, KEY, large_bytes=5_000)
    largest = 0
    for version in range(1, 200):
        run = RUN if version < 100 else "99" * 4
        journal.append(entry(version, "alfa", "bravo", "charlie", run=run))
        largest = max(largest, (tmp_path / FILE).stat().st_size)
    assert largest < 20_000
    again = Journal.open(tmp_path, KEY)
    assert again.history == journal.history
    assert [run.newest.version for run in again.history.runs.values()] == [99, 199]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_keys_are_made_once_and_are_for_their_owner(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    keys, is_new = make(folder)
    assert is_new
    again, is_new = make(folder)
    assert not is_new
    assert again.public_line == keys.public_line
    assert again.noise == keys.noise
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / key_file.FILE).stat().st_mode) == 0o600
    assert Journal.open(folder, keys.encrypt_key_id).history.runs == {}


def test_keys_that_are_damaged_are_not_made_again(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / key_file.FILE
    told = json.loads(path.read_text())
    for bad in ("", "{}", "[]", json.dumps({**told, "noise": "AAAA"})):
        path.write_text(bad)
        with pytest.raises(ConfigError, match="is damaged"):
            make(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="holds no keys"):
        read(tmp_path)


def test_a_ledger_that_says_something_is_not_replaced_with_new_keys(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.send(*(seed_of(client) for client in ("alfa", "bravo", "charlie")))
    desk.ask(request_of(1, "alfa", "bravo", "charlie"))
    (tmp_path / key_file.FILE).unlink()
    with pytest.raises(ConfigError, match="of other keys, which are gone"):
        make(tmp_path)
